"""Is a difference between two models more than noise: tests over examples and folds, Holm's correction, mean and sd."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

_CHUNK_DRAWS = 2**20
_ZERO = 1e-12


@dataclass(frozen=True)
class Difference:
    """How much better a variant is than the baseline, in the unit of their scores.

    Attributes:
        difference: mean of the variant less mean of the baseline; positive where the variant is better.
        low: lower end of the 95 % interval of the difference.
        high: upper end of it.
        p_value: two-sided, of "there is no difference".
    """

    difference: float
    low: float
    high: float
    p_value: float


def paired_bootstrap(
    baseline: npt.ArrayLike, variant: npt.ArrayLike, num_resamples: int = 10_000, seed: int = 0
) -> Difference:
    """Bootstrap the difference of two models over the examples that both were tested on.

    Scores are averaged over each model's seeds first; then examples are drawn with replacement,
    `num_resamples` times, and the mean difference is taken of each draw. The interval is the 2.5 to 97.5
    percentile (Efron and Tibshirani 1993, section 13.3). With B draws d* and the count c of the smaller
    side, `c = min(#{d* <= 0}, #{d* >= 0})`, the p-value is `min(1, 2 (c + 1) / (B + 1))`: it is below 0.05
    where the interval leaves out 0, up to the one draw added, and never 0.

    It speaks of the choice of test examples. Of the spread between seeds it knows only what the average over
    seeds leaves: report that beside it (`mean_sd`).

    Args:
        baseline: a score per example, such as 0/1 for wrong and right, `[seeds_a, N]` or `[N]`.
        variant: the same examples in the same order, `[seeds_b, N]` or `[N]`.
        num_resamples: number of draws B.
        seed: of the draws.

    Raises:
        ValueError: no examples, numbers of examples that differ, or scores that are not finite.
    """
    baseline, variant = np.asarray(baseline, np.float64), np.asarray(variant, np.float64)
    for name, scores in (("baseline", baseline), ("variant", variant)):
        if scores.ndim not in (1, 2) or scores.size == 0:
            raise ValueError(f"{name} must be [seeds, N] or [N], not empty; found shape {scores.shape}")
        if not np.isfinite(scores).all():
            raise ValueError(f"{name} must hold finite scores; found NaN or infinity")
    if baseline.shape[-1] != variant.shape[-1]:
        raise ValueError(
            f"baseline and variant must score the same examples; found {baseline.shape[-1]} and "
            f"{variant.shape[-1]}"
        )
    if num_resamples < 1:
        raise ValueError(f"num_resamples must be at least 1; found {num_resamples}")

    differences = np.atleast_2d(variant).mean(axis=0) - np.atleast_2d(baseline).mean(axis=0)
    draws = _resampled_means(differences, num_resamples, seed)
    return _from_draws(float(differences.mean()), draws)


def _from_draws(difference: float, draws: npt.NDArray[np.float64]) -> Difference:
    """Percentile interval and p-value of the differences that were drawn."""
    # Thirds of three seeds do not sum to an exact zero; a draw without a difference must count on both sides.
    draws[np.abs(draws) < _ZERO] = 0.0
    low, high = np.quantile(draws, [0.025, 0.975])
    smaller_side = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    p_value = min(1.0, 2 * (smaller_side + 1) / (len(draws) + 1))
    return Difference(difference, float(low), float(high), p_value)


def _resampled_means(
    values: npt.NDArray[np.float64], num_resamples: int, seed: int
) -> npt.NDArray[np.float64]:
    """Means `[num_resamples]` of draws with replacement, in chunks, so that memory stays at a few MB."""
    generator = np.random.default_rng(seed)
    means = np.empty(num_resamples)
    chunk = max(1, _CHUNK_DRAWS // len(values))
    for start in range(0, num_resamples, chunk):
        stop = min(start + chunk, num_resamples)
        chosen = generator.integers(len(values), size=(stop - start, len(values)), dtype=np.int32)
        means[start:stop] = values[chosen].mean(axis=1)
    return means


@dataclass(frozen=True)
class TaskAnswers:
    """A model's answers to the examples of one task.

    Attributes:
        labels: classes or values, `[N]`.
        predictions: of each seed, `[seeds, N]`.
        is_correlation: the task is measured by Pearson's correlation; else by accuracy.
    """

    labels: npt.NDArray[np.float64]
    predictions: npt.NDArray[np.float64]
    is_correlation: bool

    def scores(self, counts: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """The metric, averaged over seeds, of draws that hold each example `counts` times, `[draws, N]`."""
        if not self.is_correlation:
            correct = (self.predictions == self.labels).mean(axis=0)
            return (counts @ correct) / counts.sum(axis=1)
        # Centred, so that the moments lose no digits.
        y = self.labels - self.labels.mean()
        total, found = counts.sum(axis=1), []
        mean_y, square_y = counts @ y / total, counts @ y**2 / total
        for prediction in self.predictions:
            x = prediction - prediction.mean()
            mean_x, square_x, product = counts @ x / total, counts @ x**2 / total, counts @ (x * y) / total
            spread = np.sqrt((square_x - mean_x**2) * (square_y - mean_y**2))
            found.append((product - mean_x * mean_y) / spread)
        return np.mean(found, axis=0)


def bootstrap_tasks(
    baseline: Mapping[str, TaskAnswers],
    variant: Mapping[str, TaskAnswers],
    num_resamples: int = 10_000,
    seed: int = 0,
) -> Difference:
    """As `paired_bootstrap`, of the mean over tasks of each one's metric: the examples of each task are drawn by
    themselves, the same for both models.

    Raises:
        ValueError: other tasks or examples for the one than for the other.
    """
    sizes = {task: answers.labels.shape for task, answers in baseline.items()}
    if sizes != {task: answers.labels.shape for task, answers in variant.items()}:
        raise ValueError(
            f"baseline and variant must answer the same tasks and examples; found {sizes} for the first"
        )
    generator = np.random.default_rng(seed)
    total, draws = 0.0, np.zeros(num_resamples)
    for task, expected in baseline.items():
        size = len(expected.labels)
        whole = np.ones((1, size))
        total += float((variant[task].scores(whole) - expected.scores(whole))[0]) / len(baseline)
        chunk = max(1, _CHUNK_DRAWS // size)
        for start in range(0, num_resamples, chunk):
            stop = min(start + chunk, num_resamples)
            counts = _draw_counts(generator, stop - start, size)
            draws[start:stop] += (variant[task].scores(counts) - expected.scores(counts)) / len(baseline)
    return _from_draws(total, draws)


def _draw_counts(generator: np.random.Generator, draws: int, size: int) -> npt.NDArray[np.float64]:
    """How often each of `size` examples is in each of `draws` draws with replacement, `[draws, size]`."""
    chosen = generator.integers(size, size=(draws, size), dtype=np.int32)
    chosen += np.arange(draws, dtype=np.int32)[:, None] * size  # a multinomial's law, three times as fast
    return np.bincount(chosen.ravel(), minlength=draws * size).reshape(draws, size).astype(np.float64)


def mcnemar(baseline: npt.ArrayLike, variant: npt.ArrayLike) -> float:
    """Test two single models on the same examples by McNemar's exact test.

    Only the n examples that one model gets right and the other wrong tell them apart. If the models were equally good,
    each of these would fall to either with probability 1/2, so that the number of those that the variant gets right
    is binomial (McNemar 1947). Dietterich (1998) recommends the test where each model was trained once.

    Args:
        baseline: whether each example is right, `[N]`.
        variant: the same examples in the same order, `[N]`.

    Returns:
        The two-sided p-value; 1 where the models are right on the same examples.

    Raises:
        ValueError: no examples, or numbers of examples that differ.
    """
    first, second = np.asarray(baseline, bool), np.asarray(variant, bool)
    if first.ndim != 1 or first.shape != second.shape or first.size == 0:
        raise ValueError(
            f"baseline and variant must be the same examples, [N], not empty; found shapes {first.shape} and "
            f"{second.shape}"
        )
    won, lost = int((second & ~first).sum()), int((first & ~second).sum())
    return 1.0 if won + lost == 0 else float(stats.binomtest(won, won + lost).pvalue)


def nadeau_bengio(differences: Sequence[float], test_fraction: float) -> Difference:
    """Test differences over the folds of a cross-validation by the corrected resampled t-test.

    The training parts of the folds overlap, so that their results are not independent. With n folds of which each
    tests on the share f of the data, `t = mean / sqrt((1 / n + f / (1 - f)) var)`, with n - 1 in the sample
    variance and n - 1 degrees of freedom (Nadeau and Bengio 2003, Inference for the Generalization Error, section
    3). The plain t-test lacks the second term and finds too much. The interval is the test's own.

    Args:
        differences: variant less baseline, one for each fold.
        test_fraction: the share f, 0.1 for 10 folds.

    Returns:
        The mean difference. Where all differences are equal its interval is a point, and p is 1 for 0, else 0.

    Raises:
        ValueError: fewer than two differences, one that is not finite, or a share not between 0 and 1.
    """
    values = np.asarray(differences, np.float64)
    if values.ndim != 1 or len(values) < 2 or not np.isfinite(values).all():
        raise ValueError(f"differences must be two or more finite numbers; found {list(differences)}")
    if not 0 < test_fraction < 1:
        raise ValueError(f"test_fraction must lie between 0 and 1, both excluded; found {test_fraction}")
    mean, sd = float(values.mean()), float(values.std(ddof=1))
    if sd <= _ZERO * float(np.abs(values).max()):
        return Difference(mean, mean, mean, 1.0 if mean == 0 else 0.0)
    error = sd * math.sqrt(1 / len(values) + test_fraction / (1 - test_fraction))
    reach = error * float(stats.t.ppf(0.975, len(values) - 1))
    p_value = float(2 * stats.t.sf(abs(mean) / error, len(values) - 1))
    return Difference(mean, mean - reach, mean + reach, p_value)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust `p_values` for their number by Holm's step-down rule, in the order given.

    The k-th smallest of m is multiplied by `m - k + 1`, never falls below a smaller one's, and stops at 1
    (Holm 1979). Compare the result with the level that one test alone would have.

    Raises:
        ValueError: a value outside 0 to 1, or NaN.
    """
    for p_value in p_values:
        if not 0 <= p_value <= 1:
            raise ValueError(f"p_values must lie between 0 and 1; found {p_value}")
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * float(p_values[index])))
        adjusted[index] = largest
    return adjusted


def mean_sd(values: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean of `values` and their sample standard deviation (n - 1), None for a single value.

    Raises:
        ValueError: no values.
    """
    if len(values) == 0:
        raise ValueError("mean_sd needs at least one value; found none")
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return mean, None
    return mean, float(np.std(np.asarray(values, np.float64), ddof=1))


def format_mean_sd(values: Sequence[float], scale: float = 100, digits: int = 2) -> str:
    """Return `"89.66 (0.18)"`: mean and standard deviation times `scale`; a single value stands alone.

    Raises:
        ValueError: no values.
    """
    mean, sd = mean_sd(values)
    text = f"{scale * mean:.{digits}f}"
    return text if sd is None else f"{text} ({scale * sd:.{digits}f})"
