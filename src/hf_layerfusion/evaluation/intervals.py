"""Bootstrap intervals of a model's metrics over the texts that it was tested on."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from hf_layerfusion.evaluation.significance import CHUNK_DRAWS, draw_counts
from hf_layerfusion.evaluation.task_significance import TaskPredictions

Array = npt.NDArray[Any]
Scores = dict[str, Array]
"""Metrics by name, each of every draw, `[draws]`."""


class Interval(NamedTuple):
    """A metric with its 95 % interval.

    Attributes:
        value: The metric on the texts, averaged over the seeds; NaN if it is undefined.
        low: Lower end of the interval, the 2.5 percentile of the draws; NaN if it is undefined in all of them.
        high: Upper end, the 97.5 percentile.
    """

    value: float
    low: float
    high: float


def metric_intervals(
    problem_type: str,
    labels: npt.ArrayLike,
    predictions: npt.ArrayLike,
    num_draws: int = 2_000,
    seed: int = 0,
) -> dict[str, Interval]:
    """Return the metrics of a problem type with 95 % percentile intervals (Efron and Tibshirani 1993, section 13.3).

    Texts are drawn with replacement. The intervals tell how much the choice of test texts matters, not how much the
    seed of the training does: each draw is scored for every seed, and the scores are averaged. Metrics are those of
    `compute_metrics_for`; draws in which one is undefined are left out.

    Args:
        problem_type: Problem type as in a transformers configuration.
        labels: True classes or values, `[N]`, or 0/1 labels, `[N, C]`.
        predictions: Predicted classes or values of each seed, `[seeds, N]`, or 0/1 labels, `[seeds, N, C]`.
        num_draws: Number of draws.
        seed: Seed of the draws.

    Raises:
        ValueError: If the problem type is unknown, there are no texts, or the shapes differ.
    """
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    if problem_type not in _SCORES:
        raise ValueError(f"problem_type must be one of {', '.join(_SCORES)}; found {problem_type!r}")
    if not len(labels) or predictions.shape[1:] != labels.shape or not len(predictions):
        raise ValueError(
            f"predictions must be [seeds, *labels.shape], not empty; found {predictions.shape} and {labels.shape}"
        )
    score, size = _SCORES[problem_type], len(labels)
    whole = score(np.ones((1, size)), labels, predictions)
    draws: dict[str, list[Array]] = {name: [] for name in whole}
    generator = np.random.default_rng(seed)
    chunk = max(1, CHUNK_DRAWS // size)
    for start in range(0, num_draws, chunk):
        number = min(chunk, num_draws - start)
        counts = draw_counts(generator.integers(size, size=(number, size)))
        for name, values in score(counts, labels, predictions).items():
            draws[name].append(values)
    return {
        name: Interval(float(value[0]), *_ends(np.concatenate(draws[name]))) for name, value in whole.items()
    }


def _ends(draws: Array) -> tuple[float, float]:
    known = draws[np.isfinite(draws)]
    low, high = np.quantile(known, [0.025, 0.975]) if len(known) else (np.nan, np.nan)
    return float(low), float(high)


def _single_label(counts: Array, labels: Array, predictions: Array) -> Scores:
    """Score draws by their confusion matrices, on which all three metrics depend alone."""
    classes, numbers = np.unique(np.concatenate([labels[None], predictions]), return_inverse=True)
    true, *predicted = numbers.reshape(len(predictions) + 1, -1)
    count, rows = len(classes), np.arange(len(labels))
    found: list[Scores] = []
    for each in predicted:
        cells = csr_array((np.ones(len(rows)), (rows, true * count + each)), shape=(len(rows), count**2))
        tables = (counts @ cells).reshape(-1, count, count)
        hits = np.diagonal(tables, axis1=1, axis2=2)
        of_class, guessed = tables.sum(axis=2), tables.sum(axis=1)
        both = of_class + guessed
        # A class that neither occurs nor is predicted in a draw does not count in its means.
        known = np.maximum((both > 0).sum(axis=1), 1)
        found.append(
            {
                "accuracy": hits.sum(axis=1) / tables.sum(axis=(1, 2)),
                "f1_macro": _divided(2 * hits, both).sum(axis=1) / known,
                "recall_macro": _divided(hits, of_class).sum(axis=1) / known,
            }
        )
    return _mean(found)


def _multi_label(counts: Array, labels: Array, predictions: Array) -> Scores:
    found: list[Scores] = []
    for each in predictions:
        hits = 2 * (counts @ (labels * each).astype(np.float64))
        both = counts @ (labels + each).astype(np.float64)
        exact = (labels == each).all(axis=1).astype(np.float64)
        found.append(
            {
                "f1_micro": _divided(hits.sum(axis=1), both.sum(axis=1)),
                "f1_macro": _divided(hits, both).mean(axis=1),
                "subset_accuracy": counts @ exact / counts.sum(axis=1),
            }
        )
    return _mean(found)


def _regression(counts: Array, labels: Array, predictions: Array) -> Scores:
    labels, predictions = labels.astype(np.float64), predictions.astype(np.float64)
    total = counts.sum(axis=1)
    errors = predictions - labels
    true = _ranks(counts, labels)
    ranked = [_correlation(counts, true, _ranks(counts, each)) for each in predictions]
    with np.errstate(invalid="ignore", divide="ignore"):
        pearson = TaskPredictions(labels, predictions, is_correlation=True).scores(counts)
    return {
        "mse": counts @ np.square(errors).mean(axis=0) / total,
        "mae": counts @ np.abs(errors).mean(axis=0) / total,
        "pearsonr": pearson,
        "spearmanr": np.mean(ranked, axis=0),
    }


def _ranks(counts: Array, values: Array) -> Array:
    """Return the rank of each value among those of a draw, equal ones by their mean, `[draws, N]`."""
    distinct, numbers = np.unique(values, return_inverse=True)
    rows = np.arange(len(values))
    groups = csr_array((np.ones(len(rows)), (rows, numbers)), shape=(len(rows), len(distinct)))
    sizes = counts @ groups
    ranks: Array = np.cumsum(sizes, axis=1) - (sizes - 1) / 2
    return ranks[:, numbers]


def _correlation(counts: Array, first: Array, second: Array) -> Array:
    """Return the correlation of two columns of each draw, `[draws]`; NaN where one is constant."""
    total = counts.sum(axis=1, keepdims=True)
    first = first - (counts * first).sum(axis=1, keepdims=True) / total
    second = second - (counts * second).sum(axis=1, keepdims=True) / total
    sides = (counts * first**2).sum(axis=1) * (counts * second**2).sum(axis=1)
    product = (counts * first * second).sum(axis=1)
    return np.divide(product, np.sqrt(sides), out=np.full(len(counts), np.nan), where=sides > 0)


def _divided(part: Array, whole: Array) -> Array:
    """Return quotients, 0 where the divisor is 0."""
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def _mean(scores: list[Scores]) -> Scores:
    return {name: np.mean([each[name] for each in scores], axis=0) for name in scores[0]}


_SCORES: dict[str, Callable[[Array, Array, Array], Scores]] = {
    "single_label_classification": _single_label,
    "multi_label_classification": _multi_label,
    "regression": _regression,
}
