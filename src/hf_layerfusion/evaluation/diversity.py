"""Diversity of the members of an ensemble: disagreement of their predictions and correlation of their errors."""

from typing import Any

import numpy as np
import numpy.typing as npt


def disagreement(predictions: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return the share of texts for which two members predict different classes, for each pair of members.

    Args:
        predictions: Predicted classes, `[M, N]`.

    Returns:
        `[M, M]`, 0 on the diagonal.
    """
    predictions = np.asarray(predictions)
    return np.array([(predictions != each).mean(axis=1) for each in predictions])


def error_correlation(errors: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return Pearson's correlation between two members' errors, for each pair of members.

    Members with dissimilar errors benefit most from each other.

    Args:
        errors: 1 for a wrong class and 0 for a correct one, or the predicted minus the true value, `[M, N]`.

    Returns:
        `[M, M]`; NaN in the row and column of a member whose errors are all the same.
    """
    errors = np.asarray(errors, np.float64)
    centred = errors - errors.mean(axis=1, keepdims=True)
    # The mean of equal numbers may differ from them by rounding.
    spread = np.where(np.ptp(errors, axis=1) == 0, np.nan, np.sqrt((centred**2).sum(axis=1)))
    correlations: npt.NDArray[np.float64] = centred @ centred.T / np.outer(spread, spread)
    return correlations


def mean_of_pairs(matrix: npt.NDArray[np.float64]) -> float:
    """Return the mean over all pairs of different members with a defined value; NaN if there is none."""
    pairs = matrix[np.triu_indices(len(matrix), k=1)]
    defined = pairs[np.isfinite(pairs)]
    return float(defined.mean()) if len(defined) else float("nan")
