"""Scores of predictions, computed for bootstrap draws of the test rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from hf_layerfusion.evaluation.significance import CHUNK_DRAWS, draw_counts
from hf_layerfusion.evaluation.task_significance import TaskPredictions

Array = npt.NDArray[Any]
Score = Callable[[Array, Array, Array], Array]
"""Function of predictions `[N]`, targets `[N]` and the count of each row in each draw, `[draws, N]`;
returns `[draws]`.
"""


def accuracy(predictions: Array, targets: Array, counts: Array) -> Array:
    """Return the share of correctly predicted rows."""
    return TaskPredictions(targets, predictions[None], is_correlation=False).scores(counts)


def macro_f1(predictions: Array, targets: Array, counts: Array) -> Array:
    """Return the mean of F1 = 2 TP / (predicted + true) over the classes that are predicted or true."""
    found = []
    for each in np.union1d(predictions, targets):
        guessed, true = predictions == each, targets == each
        sizes = counts @ (guessed.astype(np.float64) + true)
        hits = 2 * (counts @ (guessed & true).astype(np.float64))
        found.append(np.divide(hits, sizes, out=np.full(len(counts), np.nan), where=sizes > 0))
    return np.asarray(np.nanmean(found, axis=0))


def pearson(predictions: Array, targets: Array, counts: Array) -> Array:
    """Return Pearson's correlation; 0 if one side is constant."""
    return np.nan_to_num(TaskPredictions(targets, predictions[None], is_correlation=True).scores(counts))


SCORES: dict[str, Score] = {"accuracy": accuracy, "macro_f1": macro_f1, "pearson": pearson}


def bootstrap_scores(
    score: Score, predictions: list[Array], targets: Array, *, num_draws: int = 2_000, seed: int = 0
) -> Array:
    """Return the scores of several models on the same draws of rows with replacement, `[models, num_draws]`.

    Args:
        score: One of `SCORES`.
        predictions: Predictions of each model, `[N]`.
        targets: `[N]`.
        num_draws: Number of draws.
        seed: Seed of the draws.
    """
    generator = np.random.default_rng(seed)
    size = len(targets)
    found = np.empty((len(predictions), num_draws))
    chunk = max(1, CHUNK_DRAWS // size)
    for start in range(0, num_draws, chunk):
        stop = min(start + chunk, num_draws)
        counts = draw_counts(generator.integers(size, size=(stop - start, size)))
        for model, values in enumerate(predictions):
            found[model, start:stop] = score(values, targets, counts)
    return found
