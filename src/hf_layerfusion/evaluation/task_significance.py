"""Bootstrap test of the difference between two models on several tasks, each with its own metric."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hf_layerfusion.evaluation.significance import (
    CHUNK_DRAWS,
    UNDEFINED,
    ZERO,
    Difference,
    draw_counts,
    from_draws,
    least_p_value,
)


@dataclass(frozen=True)
class TaskPredictions:
    """Predictions of a model for the examples of one task.

    Attributes:
        labels: True classes or values, `[N]`.
        predictions: Predictions of each seed, `[seeds, N]`.
        is_correlation: Whether the metric is Pearson's correlation instead of accuracy.
    """

    labels: npt.NDArray[np.float64]
    predictions: npt.NDArray[np.float64]
    is_correlation: bool

    def scores(self, counts: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return the metric, averaged over seeds, of draws in which each example occurs `counts` times, `[draws, N]`.

        It is NaN if it is undefined for a seed, because the drawn labels or predictions are constant.
        """
        return self._scored(counts, with_influence=False)[0]

    def influence(
        self, counts: npt.NDArray[np.float64]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return `scores` and the contribution of each example to the metric of each draw, `[draws, N]`.

        The contributions are the influence function, whose mean over a draw is 0 and whose mean square over N is the
        variance of the metric.
        """
        return self._scored(counts, with_influence=True)

    def _scored(
        self, counts: npt.NDArray[np.float64], with_influence: bool
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        total = counts.sum(axis=1)
        if not self.is_correlation:
            correct = (self.predictions == self.labels).mean(axis=0)
            accuracy = (counts @ correct) / total
            return accuracy, correct - accuracy[:, None] if with_influence else np.empty((0, 0))
        # Centred, so that the moments lose no precision.
        y = self.labels - self.labels.mean()
        mean_y, variance_y = _moments(counts, y, total)
        scores = np.zeros(len(counts))
        influences = np.zeros(counts.shape if with_influence else (0, 0))
        for prediction in self.predictions:
            x = prediction - prediction.mean()
            mean_x, variance_x = _moments(counts, x, total)
            covariance = counts @ (x * y) / total - mean_x * mean_y
            correlation = covariance / np.sqrt(variance_x * variance_y)
            scores += correlation / len(self.predictions)
            if with_influence:
                # zx zy - r / 2 (zx² + zy²) of the standardized values, the influence function of Pearson's r.
                zx = (x - mean_x[:, None]) / np.sqrt(variance_x)[:, None]
                zy = (y - mean_y[:, None]) / np.sqrt(variance_y)[:, None]
                found = zx * zy - correlation[:, None] / 2 * (zx**2 + zy**2)
                influences += found / len(self.predictions)
        return scores, influences


def _moments(
    counts: npt.NDArray[np.float64], values: npt.NDArray[np.float64], total: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the mean and variance of `values` in each draw.

    The variance is NaN if all drawn values are equal within numerical precision.
    """
    mean, square = counts @ values / total, counts @ values**2 / total
    variance = square - mean**2
    return mean, np.where(variance > ZERO * square, variance, np.nan)


def bootstrap_tasks(
    baseline: Mapping[str, TaskPredictions],
    variant: Mapping[str, TaskPredictions],
    num_resamples: int = 10_000,
    seed: int = 0,
) -> Difference:
    """Test the difference of two models' mean over the tasks' metrics by a bootstrap, like `paired_bootstrap`.

    The examples of each task are drawn separately, the same for both models.

    If a task is measured by a correlation, the bootstrap is studentized (Efron and Tibshirani 1993, section 12.5). With
    the difference d in the data, the difference d* in a draw, and their standard errors s and s* from the influence
    function, the p-value is the share of draws with `|d* - d| / s* >= |d| / s`, and the interval is `d ± q s` with the
    95 % quantile q of the left side. Percentiles reject too often in this case; docs/reproduce.md gives the rates.

    Returns:
        The difference. It is undefined if a model's metric is, such as the correlation of constant predictions. Draws
        with an undefined difference are counted in `undefined` and, for the p-value, as draws against a difference; the
        interval is that of the others.

    Raises:
        ValueError: If the models have different tasks or examples.
    """
    sizes = {task: answers.labels.shape for task, answers in baseline.items()}
    if sizes != {task: answers.labels.shape for task, answers in variant.items()}:
        raise ValueError(
            f"baseline and variant must have the same tasks and examples; found {sizes} for the first"
        )
    studentized = any(answers.is_correlation for answers in baseline.values())
    generator = np.random.default_rng(seed)
    total, total_variance, number = 0.0, 0.0, 0
    draws, variances = np.zeros(num_resamples), np.zeros(num_resamples)
    for task, expected in baseline.items():
        size, share = len(expected.labels), 1 / len(baseline)
        pair = expected, variant[task]
        number += int(_differ(*pair).sum())
        whole, whole_variance = _task_difference(pair, np.ones((1, size)), studentized)
        total += share * float(whole[0])
        total_variance += share**2 * float(whole_variance[0])
        chunk = max(1, CHUNK_DRAWS // size)
        for start in range(0, num_resamples, chunk):
            stop = min(start + chunk, num_resamples)
            counts = draw_counts(generator.integers(size, size=(stop - start, size), dtype=np.int32))
            found, variance = _task_difference(pair, counts, studentized)
            draws[start:stop] += share * found
            variances[start:stop] += share**2 * variance
    if not math.isfinite(total):
        return UNDEFINED
    if not studentized:
        return from_draws(total, draws, least_p_value(number))
    return _from_studentized(
        total, math.sqrt(total_variance), draws, np.sqrt(variances), least_p_value(number)
    )


def _differ(baseline: TaskPredictions, variant: TaskPredictions) -> npt.NDArray[np.bool_]:
    """Return a mask of the examples on which the two models differ, averaged over their seeds, `[N]`."""
    first, second = (
        answers.predictions.mean(axis=0)
        if answers.is_correlation
        else (answers.predictions == answers.labels).mean(axis=0)
        for answers in (baseline, variant)
    )
    found: npt.NDArray[np.bool_] = np.abs(first - second) > ZERO
    return found


def _task_difference(
    pair: tuple[TaskPredictions, TaskPredictions], counts: npt.NDArray[np.float64], studentized: bool
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the difference of two models' metrics in each draw and, if requested, its variance; otherwise zeros."""
    baseline, variant = pair
    if not studentized:
        return variant.scores(counts) - baseline.scores(counts), np.zeros(len(counts))
    (first, first_influence), (second, second_influence) = (
        baseline.influence(counts),
        variant.influence(counts),
    )
    total = counts.sum(axis=1)
    variance = (counts * (second_influence - first_influence) ** 2).sum(axis=1) / total**2
    return second - first, variance


def _from_studentized(
    difference: float,
    error: float,
    draws: npt.NDArray[np.float64],
    errors: npt.NDArray[np.float64],
    least: float,
) -> Difference:
    """Return the interval and the p-value, at least `least`, of drawn differences with their standard errors."""
    distances = np.abs(draws - difference)
    distances[distances < ZERO] = 0.0
    # A draw in which both models agree has no standard error; it is defined if its distance is zero too.
    known = np.isfinite(draws) & ((errors > ZERO) | (distances == 0))
    undefined = int((~known).sum())
    ratios = np.divide(distances, errors, out=np.zeros_like(draws), where=errors > ZERO)[known]
    if len(ratios) == 0:
        return Difference(difference, math.nan, math.nan, None, undefined, len(draws))
    if abs(difference) < ZERO and error < ZERO:
        return Difference(0.0, 0.0, 0.0, 1.0, undefined, len(draws))
    further = int((ratios * error >= abs(difference) - ZERO).sum()) + undefined
    p_value = min(1.0, max(least, (further + 1) / (len(draws) + 1)))
    reach = error * float(np.quantile(ratios, 0.95))
    return Difference(difference, difference - reach, difference + reach, p_value, undefined, len(draws))
