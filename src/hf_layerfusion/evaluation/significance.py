"""Significance tests of the difference between two models, Holm's correction, and mean with standard deviation."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

CHUNK_DRAWS = 2**20
"""Maximum of draws times examples held in memory at once."""

ZERO = 1e-12
"""Largest absolute difference that counts as zero, so that rounded thirds of three seeds cancel."""


@dataclass(frozen=True)
class Difference:
    """Difference between a variant and a baseline, in the unit of their scores.

    Attributes:
        difference: Mean of the variant minus mean of the baseline; positive if the variant is better. NaN if a model's
            score is undefined, such as the correlation of constant predictions.
        low: Lower end of the 95 % confidence interval.
        high: Upper end of the 95 % confidence interval.
        p_value: Two-sided p-value of "there is no difference"; None if the data do not define one.
        undefined: Number of bootstrap draws with an undefined difference. They count as draws against a difference.
        draws: Number of draws; 0 without a bootstrap.
    """

    difference: float
    low: float
    high: float
    p_value: float | None
    undefined: int = 0
    draws: int = 0

    @property
    def remark(self) -> str:
        """Short reason why the difference or its p-value is undefined; empty if both are defined."""
        if not math.isfinite(self.difference):
            return "undefined: a model's answers are all the same"
        if self.p_value is None:
            return "no test: the differences are all the same"
        return f"{self.undefined:,} of {self.draws:,} draws undefined" if self.undefined else ""


UNDEFINED = Difference(math.nan, math.nan, math.nan, None)
"""Difference of scores of which one is undefined."""


def paired_bootstrap(
    baseline: npt.ArrayLike, variant: npt.ArrayLike, num_resamples: int = 10_000, seed: int = 0
) -> Difference:
    """Bootstrap the difference of two models over the examples on which both were tested.

    Scores are first averaged over each model's seeds; then examples are drawn with replacement, `num_resamples` times,
    and the mean difference of each draw is taken. The interval ranges from the 2.5 to the 97.5 percentile (Efron and
    Tibshirani 1993, section 13.3). With B draws d* and the count c of the smaller side, `c = min(#{d* <= 0}, #{d* >=
    0})`, the p-value is `min(1, 2 (c + 1) / (B + 1))`. It is below 0.05 if the interval excludes 0, except for the one
    added draw. It is never below `2^(1 - n)`, the minimum of an exact sign test on n examples with different scores,
    because all draws of one or two such examples are alike.

    The test accounts for the choice of test examples. The variation between seeds is averaged out; report it separately
    (`mean_sd`).

    Args:
        baseline: Score of each example, such as 0/1 for wrong and correct, `[seeds_a, N]` or `[N]`.
        variant: Scores of the same examples in the same order, `[seeds_b, N]` or `[N]`.
        num_resamples: Number B of draws.
        seed: Seed of the draws.

    Raises:
        ValueError: If there are no examples, their numbers differ, or scores are not finite.
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
    """Return the percentile interval and the p-value, at least `least`, of drawn differences."""
    # Rounded thirds of three seeds do not sum to zero exactly; a draw without a difference must count on both sides.
    draws[np.abs(draws) < ZERO] = 0.0
    low, high = np.quantile(draws, [0.025, 0.975])
    smaller_side = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    p_value = min(1.0, max(least, 2 * (smaller_side + 1) / (len(draws) + 1)))
    return Difference(difference, float(low), float(high), p_value, draws=len(draws))


def least_p_value(number: int) -> float:
    """Return the minimum p-value of an exact two-sided sign test on `number` differing examples."""
    return float(2.0 ** (1 - number)) if number else 1.0


def draw_counts(chosen: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.float64]:
    """Return the number of times that each of n examples occurs in each draw, `[draws, n]`.

    This follows a multinomial distribution, but is three times as fast as drawing from it.

    Args:
        chosen: Indices of the examples drawn with replacement, `[draws, n]`; overwritten.
    """
    draws, size = chosen.shape
    chosen += np.arange(draws, dtype=chosen.dtype)[:, None] * size
    return np.bincount(chosen.ravel(), minlength=draws * size).reshape(draws, size).astype(np.float64)


def _resampled_means(
    values: npt.NDArray[np.float64], num_resamples: int, seed: int
) -> npt.NDArray[np.float64]:
    """Return the means `[num_resamples]` of draws with replacement, in chunks that need only a few MB of memory."""
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

    Only the n examples that exactly one model gets right distinguish them. If the models were equally good, each of
    these would favour either with probability 1/2, so that the number favouring the variant is binomial (McNemar 1947).
    Dietterich (1998) recommends the test for models that were trained once.

    Args:
        baseline: Whether each example is correct, `[N]`.
        variant: The same examples in the same order, `[N]`.

    Returns:
        The two-sided p-value; 1 if the models are correct on the same examples.

    Raises:
        ValueError: If there are no examples, or their numbers differ.
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

    The training parts of the folds overlap, so that their results are not independent. With n folds that each test on a
    share f of the data, `t = mean / sqrt((1 / n + f / (1 - f)) var)`, with n - 1 in the sample variance and n - 1
    degrees of freedom (Nadeau and Bengio 2003, Inference for the Generalization Error, section 3). The plain t-test
    lacks the second term and rejects too often. The interval is that of the test.

    Args:
        differences: Variant minus baseline, one for each fold.
        test_fraction: Share f, 0.1 for 10 folds.

    Returns:
        The mean difference. If all differences are equal, its interval is a point and the p-value is 1 for 0 and None
        otherwise, because there is no variance. If a difference is not finite, the result is undefined.

    Raises:
        ValueError: If there are fewer than two differences, or the share is not between 0 and 1.
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
    """Adjust `p_values` for multiple testing by Holm's step-down method, in the given order.

    The k-th smallest of m is multiplied by `m - k + 1`, is at least as large as the smaller ones, and at most 1 (Holm
    1979). Compare the result with the level of a single test. None stands for an undefined test: it stays None and does
    not count among the m.

    Raises:
        ValueError: If a value is outside 0 to 1, or NaN.
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
    """Return the mean of `values` and their sample standard deviation (n - 1), which is None for a single value.

    Raises:
        ValueError: If there are no values.
    """
    if len(values) == 0:
        raise ValueError("mean_sd needs at least one value; found none")
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return mean, None
    return mean, float(np.std(np.asarray(values, np.float64), ddof=1))


def format_mean_sd(values: Sequence[float], scale: float = 100, digits: int = 2) -> str:
    """Return `"89.66 (0.18)"`: mean and standard deviation times `scale`, or only the mean for a single value.

    If values are not finite, such as the correlation of constant predictions, the result states their number:
    `"undefined in 1 of 3"`.

    Raises:
        ValueError: If there are no values.
    """
    undefined = sum(not math.isfinite(value) for value in values)
    if undefined:
        return f"undefined in {undefined} of {len(values)}" if len(values) > 1 else "undefined"
    mean, sd = mean_sd(values)
    text = f"{scale * mean:.{digits}f}"
    return text if sd is None else f"{text} ({scale * sd:.{digits}f})"
