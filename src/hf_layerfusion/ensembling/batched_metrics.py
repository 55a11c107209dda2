"""Metrics of many candidates at once, fast enough to try hundreds of combinations; higher is better."""

import numpy as np

from hf_layerfusion.ensembling.combiners import Array, Score
from hf_layerfusion.errors import UserError, nearest


def accuracy(predictions: Array, labels: Array) -> Array:
    """Share of right classes, `[K]`, of logits or probabilities `[K, N, C]`."""
    shares: Array = (predictions.argmax(axis=-1) == labels).mean(axis=-1)
    return shares


def f1_macro(predictions: Array, labels: Array) -> Array:
    """Mean F1 of the classes that occur among labels or predictions, `[K]`."""
    return _macro(predictions, labels, with_predicted=True)


def recall_macro(predictions: Array, labels: Array) -> Array:
    """Mean recall of the classes that occur among labels or predictions, `[K]`."""
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
    """Pearson's correlation, `[K]`, of values `[K, N]`; NaN where they are constant."""
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
"""By problem type, the usual one first."""


def score_of(problem_type: str, metric: str | None = None) -> tuple[str, Score]:
    """A metric's name and function; without a name the usual one.

    Raises:
        UserError: a problem type that is not combined, or a metric that it does not have.
    """
    if problem_type not in SCORES:
        raise UserError(
            f"an ensemble's problem type must be one of {', '.join(SCORES)}, found {problem_type!r}; take other "
            "members."
        )
    scores = SCORES[problem_type]
    name = next(iter(scores)) if metric is None else metric
    if name not in scores:
        raise UserError(
            f"the metric of a {problem_type} must be one of {', '.join(scores)}, found {name!r}; "
            f"{nearest(name, scores)}"
        )
    return name, scores[name]
