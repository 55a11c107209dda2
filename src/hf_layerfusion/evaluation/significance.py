"""Is a difference between two models more than noise: tests over examples and folds, Holm's correction, mean and sd."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

CHUNK_DRAWS = 2**20
"""Numbers of draws times examples that are held at once."""

ZERO = 1e-12
"""Largest difference that counts as none, so that thirds of three seeds cancel."""


@dataclass(frozen=True)
class Difference:
    """How much better a variant is than the baseline, in the unit of their scores.

    Attributes:
        difference: mean of the variant less mean of the baseline; positive where the variant is better. NaN where a
            model's score is undefined, such as the correlation of answers that are all the same.
        low: lower end of the 95 % interval of the difference.
        high: upper end of it.
        p_value: two-sided, of "there is no difference"; None where the data do not define one.
        undefined: draws of a bootstrap whose difference is undefined. They count as draws against a difference.
        draws: how many draws there were; 0 without a bootstrap.
    """

    difference: float
    low: float
    high: float
    p_value: float | None
    undefined: int = 0
    draws: int = 0

    @property
    def remark(self) -> str:
        """Return why a difference or its p-value is undefined, in a few words; empty where both are defined."""
        if not math.isfinite(self.difference):
            return "undefined: a model's answers are all the same"
        if self.p_value is None:
            return "no test: the differences are all the same"
        return f"{self.undefined:,} of {self.draws:,} draws undefined" if self.undefined else ""


UNDEFINED = Difference(math.nan, math.nan, math.nan, None)
"""The difference of scores of which one is undefined."""


def paired_bootstrap(
    baseline: npt.ArrayLike, variant: npt.ArrayLike, num_resamples: int = 10_000, seed: int = 0
) -> Difference:
    """Bootstrap the difference of two models over the examples that both were tested on.

    Scores are averaged over each model's seeds first; then examples are drawn with replacement,
    `num_resamples` times, and the mean difference is taken of each draw. The interval is the 2.5 to 97.5
    percentile (Efron and Tibshirani 1993, section 13.3). With B draws d* and the count c of the smaller
    side, `c = min(#{d* <= 0}, #{d* >= 0})`, the p-value is `min(1, 2 (c + 1) / (B + 1))`: it is below 0.05
    where the interval leaves out 0, up to the one draw added. It is never below `2^(1 - n)`, the least that an exact
    sign test gives n examples whose scores differ: draws of one or two such examples are all alike.

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
    least = least_p_value(int((np.abs(differences) > ZERO).sum()))
    return from_draws(float(differences.mean()), draws, least)


def from_draws(difference: float, draws: npt.NDArray[np.float64], least: float) -> Difference:
    """Percentile interval and p-value, of `least` or more, of the differences that were drawn."""
    # Thirds of three seeds do not sum to an exact zero; a draw without a difference must count on both sides.
    draws[np.abs(draws) < ZERO] = 0.0
    low, high = np.quantile(draws, [0.025, 0.975])
    smaller_side = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    p_value = min(1.0, max(least, 2 * (smaller_side + 1) / (len(draws) + 1)))
    return Difference(difference, float(low), float(high), p_value, draws=len(draws))


def least_p_value(number: int) -> float:
    """The least p-value of an exact two-sided sign test on that many examples that differ."""
    return float(2.0 ** (1 - number)) if number else 1.0


def draw_counts(chosen: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.float64]:
    """Return how often each of n examples is in each draw, `[draws, n]`: a multinomial's law, three times as fast.

    Args:
        chosen: the examples that were drawn with replacement, `[draws, n]`, numbers from 0; it is overwritten.
    """
    draws, size = chosen.shape
    chosen += np.arange(draws, dtype=chosen.dtype)[:, None] * size
    return np.bincount(chosen.ravel(), minlength=draws * size).reshape(draws, size).astype(np.float64)


def _resampled_means(
    values: npt.NDArray[np.float64], num_resamples: int, seed: int
) -> npt.NDArray[np.float64]:
    """Means `[num_resamples]` of draws with replacement, in chunks, so that memory stays at a few MB."""
    generator = np.random.default_rng(seed)
    means = np.empty(num_resamples)
    chunk = max(1, CHUNK_DRAWS // len(values))
    for start in range(0, num_resamples, chunk):
        stop = min(start + chunk, num_resamples)
        chosen = generator.integers(len(values), size=(stop - start, len(values)), dtype=np.int32)
        means[start:stop] = values[chosen].mean(axis=1)
    return means


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
        The mean difference. Where all differences are equal its interval is a point, and p is 1 for 0; for another
        number there is none, as their spread says nothing. Where a difference is not finite, so is the mean.

    Raises:
        ValueError: fewer than two differences, or a share not between 0 and 1.
    """
    values = np.asarray(differences, np.float64)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"differences must be two or more numbers; found {list(differences)}")
    if not 0 < test_fraction < 1:
        raise ValueError(f"test_fraction must lie between 0 and 1, both excluded; found {test_fraction}")
    if not np.isfinite(values).all():
        return UNDEFINED
    mean, sd = float(values.mean()), float(values.std(ddof=1))
    if sd <= ZERO * float(np.abs(values).max()):
        return Difference(mean, mean, mean, 1.0 if mean == 0 else None)
    error = sd * math.sqrt(1 / len(values) + test_fraction / (1 - test_fraction))
    reach = error * float(stats.t.ppf(0.975, len(values) - 1))
    p_value = float(2 * stats.t.sf(abs(mean) / error, len(values) - 1))
    return Difference(mean, mean - reach, mean + reach, p_value)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjust `p_values` for their number by Holm's step-down rule, in the order given.

    The k-th smallest of m is multiplied by `m - k + 1`, never falls below a smaller one's, and stops at 1
    (Holm 1979). Compare the result with the level that one test alone would have. None stands for a test that is
    undefined: it stays None, and is not counted among the m.

    Raises:
        ValueError: a value outside 0 to 1, or NaN.
    """
    known = [(p_value, index) for index, p_value in enumerate(p_values) if p_value is not None]
    for p_value, _ in known:
        if not 0 <= p_value <= 1:
            raise ValueError(f"p_values must lie between 0 and 1; found {p_value}")
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p_value, index) in enumerate(sorted(known)):
        largest = max(largest, min(1.0, (len(known) - rank) * float(p_value)))
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

    Where values are not finite, as a correlation of constant answers, it says in how many: `"undefined in 1 of 3"`.

    Raises:
        ValueError: no values.
    """
    undefined = sum(not math.isfinite(value) for value in values)
    if undefined:
        return f"undefined in {undefined} of {len(values)}" if len(values) > 1 else "undefined"
    mean, sd = mean_sd(values)
    text = f"{scale * mean:.{digits}f}"
    return text if sd is None else f"{text} ({scale * sd:.{digits}f})"
