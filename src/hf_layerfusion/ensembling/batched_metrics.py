"""Metrics that score many candidate combinations at once; higher is better."""

import numpy as np

from hf_layerfusion.ensembling.combiners import Array, Score
from hf_layerfusion.errors import UserError, nearest


def accuracy(predictions: Array, labels: Array) -> Array:
    """Return the accuracy of each candidate, `[K]`.

    Args:
        predictions: logits or probabilities, `[K, N, C]`.
        labels: class indices, `[N]`.
    """
    shares: Array = (predictions.argmax(axis=-1) == labels).mean(axis=-1)
    return shares


def f1_macro(predictions: Array, labels: Array) -> Array:
    """Return the mean F1 over the classes that occur among labels or predictions, `[K]`; arguments as `accuracy`."""
    return _macro(predictions, labels, with_predicted=True)


def recall_macro(predictions: Array, labels: Array) -> Array:
    """Return the mean recall over the classes that occur among the labels, `[K]`; arguments as `accuracy`."""
    return _macro(predictions, labels, with_predicted=False)


def _macro(predictions: Array, labels: Array, with_predicted: bool) -> Array:
    size, found = predictions.shape[-1], []
    for classes in predictions.argmax(axis=-1):
        confusion = np.bincount(size * labels + classes, minlength=size**2).reshape(size, size)
        true, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
        occurs = true + predicted > 0
        whole = (true + predicted) / 2 if with_predicted else true
        found.append((np.diag(confusion) / np.maximum(whole, 0.5))[occurs].mean())
    return np.array(found)


def pearsonr(predictions: Array, labels: Array) -> Array:
    """Return Pearson's correlation of each candidate, `[K]`; NaN where predictions or labels are constant.

    Args:
        predictions: values, `[K, N]`.
        labels: values, `[N]`.
    """
    x = predictions - predictions.mean(axis=-1, keepdims=True)
    y = labels - labels.mean()
    spread = np.sqrt((x**2).sum(axis=-1) * (y**2).sum())
    constant = (np.ptp(predictions, axis=-1) == 0) | (np.ptp(labels) == 0)
    correlations: Array = np.where(constant, np.nan, (x @ y) / np.where(constant, 1, spread))
    return correlations


SCORES: dict[str, dict[str, Score]] = {
    "single_label_classification": {"accuracy": accuracy, "f1_macro": f1_macro, "recall_macro": recall_macro},
    "regression": {"pearsonr": pearsonr},
}
"""The metrics of each problem type by name; the first is the default."""


def score_of(problem_type: str, metric: str | None = None) -> tuple[str, Score]:
    """Return the name and function of a metric.

    Args:
        problem_type: a key of `SCORES`.
        metric: the metric's name; None for the problem type's default.

    Raises:
        UserError: The problem type cannot be combined, or has no such metric.
    """
    if problem_type not in SCORES:
        raise UserError(
            f"an ensemble's problem type must be one of {', '.join(SCORES)}, found {problem_type!r}; choose "
            "other members."
        )
    scores = SCORES[problem_type]
    name = next(iter(scores)) if metric is None else metric
    if name not in scores:
        raise UserError(
            f"the metric of a {problem_type} must be one of {', '.join(scores)}, found {name!r}; "
            f"{nearest(name, scores)}"
        )
    return name, scores[name]
