"""How unlike the members of an ensemble are: in what they answer, and in where they are wrong."""

from typing import Any

import numpy as np
import numpy.typing as npt


def disagreement(answers: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """The share of texts that two members answer differently, of each pair of them.

    Args:
        answers: classes, `[M, N]`.

    Returns:
        `[M, M]`, 0 on the diagonal.
    """
    answers = np.asarray(answers)
    return np.array([(answers != each).mean(axis=1) for each in answers])


def error_correlation(errors: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Pearson's correlation of two members' errors, of each pair of them. Members whose errors are unlike gain most
    from each other.

    Args:
        errors: 1 where a class is wrong and 0 where it is right, or a value less the true one, `[M, N]`.

    Returns:
        `[M, M]`; NaN in the row and column of a member whose errors are all the same.
    """
    errors = np.asarray(errors, np.float64)
    centred = errors - errors.mean(axis=1, keepdims=True)
    # Of equal numbers the mean may differ from each by rounding.
    spread = np.where(np.ptp(errors, axis=1) == 0, np.nan, np.sqrt((centred**2).sum(axis=1)))
    correlations: npt.NDArray[np.float64] = centred @ centred.T / np.outer(spread, spread)
    return correlations


def mean_of_pairs(matrix: npt.NDArray[np.float64]) -> float:
    """The mean over all pairs of different members that are defined; NaN where none is."""
    pairs = matrix[np.triu_indices(len(matrix), k=1)]
    defined = pairs[np.isfinite(pairs)]
    return float(defined.mean()) if len(defined) else float("nan")
