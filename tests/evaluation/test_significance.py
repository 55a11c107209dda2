import math
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from hf_layerfusion.evaluation.significance import (
    format_mean_sd,
    holm,
    mcnemar,
    mean_sd,
    nadeau_bengio,
    paired_bootstrap,
)


def figures(found):
    return found.difference, found.low, found.high, found.p_value


@pytest.fixture
def correctness():
    """Two models on 400 examples: 3 seeds at 80 %, 2 at 84 %, with a shared difficulty of the examples."""
    rng = np.random.default_rng(5)
    difficulty = rng.normal(size=400)
    baseline = (difficulty + rng.normal(size=(3, 400)) < 1.2).astype(int)
    variant = (difficulty + rng.normal(size=(2, 400)) < 1.4).astype(int)
    return baseline, variant


def test_interval_is_scipys(correctness):
    baseline, variant = correctness
    found = paired_bootstrap(baseline, variant, num_resamples=20_000, seed=3)
    differences = variant.mean(axis=0) - baseline.mean(axis=0)
    expected = stats.bootstrap(
        (differences,), np.mean, n_resamples=20_000, method="percentile", random_state=11
    ).confidence_interval
    assert found.difference == pytest.approx(variant.mean() - baseline.mean())
    noise = 0.03 * (expected.high - expected.low)
    assert found.low == pytest.approx(expected.low, abs=noise)
    assert found.high == pytest.approx(expected.high, abs=noise)


@pytest.mark.parametrize("effect", [0.0, 0.05, -0.1])
def test_p_value_is_near_the_normal_approximation(effect):
    rng = np.random.default_rng(1)
    baseline = rng.normal(size=2_000)
    variant = baseline + effect + rng.normal(size=2_000)
    found = paired_bootstrap(baseline, variant, num_resamples=20_000)
    differences = variant - baseline
    z = differences.mean() / (differences.std() / math.sqrt(2_000))
    assert found.p_value == pytest.approx(2 * stats.norm.sf(abs(z)), abs=0.015)
    half_width = 1.96 * differences.std() / math.sqrt(2_000)
    assert found.high - found.low == pytest.approx(2 * half_width, rel=0.03)


def test_exact_p_value_of_two_examples():
    # Draws of two of {+1, -0.5}: +1 (1/4), +0.25 (1/2), -0.5 (1/4): the smaller side is 1/4 of the draws.
    found = paired_bootstrap([0.0, 0.5], [1.0, 0.0], num_resamples=40_000)
    assert found.p_value == pytest.approx(2 * 0.25, abs=0.02)
    assert (found.low, found.high) == (-0.5, 1.0)


def test_smallest_p_value_is_two_in_b_plus_one():
    assert paired_bootstrap(np.zeros(50), np.ones(50), num_resamples=999).p_value == 2 / 1000


@pytest.mark.parametrize(("examples", "p_value"), [(1, 1.0), (2, 0.5), (5, 1 / 16), (20, 2 / 1000)])
def test_few_examples_prove_little(examples, p_value):
    """If all differ in one direction, every draw is alike, but an exact sign test gives at least 2 / 2^n."""
    found = paired_bootstrap(np.zeros(examples), np.ones(examples), num_resamples=999)
    assert found.p_value == pytest.approx(p_value)


def test_equal_models_differ_by_nothing():
    scores = np.random.default_rng(0).integers(2, size=(3, 500))
    found = paired_bootstrap(scores, scores[[2, 0, 1]])
    assert found.p_value == 1.0
    assert found.low == found.high == 0.0


def test_thirds_of_three_seeds_cancel():
    """One example better by a third, one worse: half of the draws are no difference, though 1 - 2/3 > 1/3."""
    baseline = np.array([[1, 1], [1, 0], [0, 0]])
    variant = np.array([[1, 0], [1, 0], [1, 0]])
    assert (variant.mean(axis=0) - baseline.mean(axis=0)).sum() != 0
    assert paired_bootstrap(baseline, variant).p_value == 1.0


def test_examples_are_paired(correctness):
    """Shuffling one model's examples keeps its mean but must widen the interval."""
    baseline, _ = correctness
    better = np.maximum(baseline[:1], np.arange(400) < 40)
    paired = paired_bootstrap(baseline[:1], better)
    unpaired = paired_bootstrap(baseline[:1], np.random.default_rng(0).permutation(better.T).T)
    assert unpaired.difference == pytest.approx(paired.difference)
    assert unpaired.high - unpaired.low > 2 * (paired.high - paired.low)


def test_same_seed_same_answer(correctness):
    assert paired_bootstrap(*correctness, seed=4) == paired_bootstrap(*correctness, seed=4)
    assert paired_bootstrap(*correctness, seed=4) != paired_bootstrap(*correctness, seed=5)


def test_2500_examples_10000_times_stay_fast_and_small():
    scores = np.random.default_rng(0).integers(2, size=(2, 3, 2_500))
    started = time.process_time()
    paired_bootstrap(scores[0], scores[1])
    assert time.process_time() - started < 1.0
    tracemalloc.start()
    paired_bootstrap(scores[0], scores[1], num_resamples=2_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32e6


@pytest.mark.parametrize(
    ("baseline", "variant", "num_resamples", "message"),
    [
        ([0, 1], [0, 1, 1], 10, "same examples; found 2 and 3"),
        ([], [], 10, "not empty"),
        ([0, math.nan], [0, 1], 10, "finite"),
        ([[[0, 1]]], [0, 1], 10, "shape"),
        ([0, 1], [0, 1], 0, "at least 1"),
    ],
)
def test_bootstrap_refuses(baseline, variant, num_resamples, message):
    with pytest.raises(ValueError, match=message):
        paired_bootstrap(baseline, variant, num_resamples)


def test_holm_by_hand():
    # sorted: 0.005*4, 0.01*3, 0.03*2, 0.04*1 -> 0.02, 0.03, 0.06, max(0.06, 0.04)
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([0.04]) == [0.04]
    assert holm([]) == []
    assert holm([None, 0.02, None, 0.03]) == [None, 0.04, None, 0.04]  # two tests, not four


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_lies_between_the_raw_and_bonferronis(p_values):
    adjusted = holm(p_values)
    assert all(
        raw <= value <= min(1.0, len(p_values) * raw) + 1e-15
        for raw, value in zip(p_values, adjusted, strict=True)
    )
    assert [adjusted[i] for i in np.argsort(p_values, kind="stable")] == sorted(adjusted)


@pytest.mark.parametrize("p_value", [-0.1, 1.1, math.nan])
def test_holm_refuses_what_is_no_probability(p_value):
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm([0.5, p_value])


def test_mean_sd_by_hand():
    mean, sd = mean_sd([0.89, 0.90, 0.94])
    assert mean == pytest.approx(0.91)
    assert sd == pytest.approx(math.sqrt((0.02**2 + 0.01**2 + 0.03**2) / 2))
    assert mean_sd([0.5]) == (0.5, None)
    with pytest.raises(ValueError, match="at least one"):
        mean_sd([])


def test_format_mean_sd():
    assert format_mean_sd([0.8953, 0.8966, 0.8979]) == "89.66 (0.13)"
    assert format_mean_sd([0.8966]) == "89.66"
    assert format_mean_sd([0.8966, math.nan, 0.9]) == "undefined in 1 of 3"
    assert format_mean_sd([math.nan]) == "undefined"
    assert format_mean_sd([1.5, 2.5], scale=1, digits=1) == "2.0 (0.7)"


def test_nadeau_bengio_by_hand():
    # Mean 2, sum of squares (1 + 0 + 1 + 0) = 2, sample variance 2/3; 1/4 + 0.25/0.75 = 7/12.
    # t = 2 / sqrt(2/3 · 7/12) = 2 / sqrt(7/18) = 3.207135; with 3 degrees of freedom the two-sided p has the closed
    # form 1 - 2/π (atan(x) + x / (1 + x²)), x = t / √3.
    found = nadeau_bengio([1.0, 2.0, 3.0, 2.0], test_fraction=0.25)
    x = 2 / math.sqrt(7 / 18) / math.sqrt(3)
    p_value = 1 - 2 / math.pi * (math.atan(x) + x / (1 + x * x))
    # 3.182446 is the 97.5 % point of t with 3 degrees of freedom, as tables print it.
    reach = 3.182446 * math.sqrt(7 / 18)
    assert figures(found) == pytest.approx((2.0, 2.0 - reach, 2.0 + reach, p_value), abs=1e-6)
    mirrored = nadeau_bengio([-1.0, -2.0, -3.0, -2.0], 0.25)
    assert figures(mirrored) == pytest.approx((-2.0, -2.0 - reach, -2.0 + reach, p_value), abs=1e-6)


def test_nadeau_bengio_of_equal_differences():
    assert figures(nadeau_bengio([0.0, 0.0, 0.0], 0.1)) == (0.0, 0.0, 0.0, 1.0)
    found = nadeau_bengio([-0.5] * 10, 0.1)
    assert figures(found) == (-0.5, -0.5, -0.5, None)
    assert found.remark == "no test: the differences are all the same"


def test_a_fold_without_a_figure_leaves_no_test():
    found = nadeau_bengio([0.1, math.nan, 0.2], 0.1)
    assert math.isnan(found.difference) and found.p_value is None
    assert found.remark == "undefined: a model's answers are all the same"


@pytest.mark.parametrize(
    ("differences", "share", "named"),
    [([0.1], 0.1, "differences"), ([0.1, 0.2], 1.0, "test_fraction")],
)
def test_nadeau_bengio_refuses_what_it_cannot_test(differences, share, named):
    with pytest.raises(ValueError, match=named):
        nadeau_bengio(differences, share)


def test_mcnemar_by_hand():
    """Five examples that only the variant gets right, one that only the baseline does: 2 · (6 + 1) / 2^6."""
    baseline = [0] * 5 + [1] + [1] * 10 + [0] * 10
    variant = [1] * 5 + [0] + [1] * 10 + [0] * 10
    assert mcnemar(baseline, variant) == pytest.approx(14 / 64)
    assert mcnemar(variant, baseline) == pytest.approx(14 / 64)
    assert mcnemar(variant, variant) == 1.0


def test_mcnemar_is_near_its_chi_square_of_many_examples(correctness):
    first, second = correctness[0][0], correctness[1][0]
    won, lost = int(((second == 1) & (first == 0)).sum()), int(((first == 1) & (second == 0)).sum())
    statistic = (abs(won - lost) - 1) ** 2 / (won + lost)  # McNemar (1947), with Edwards' correction
    assert mcnemar(first, second) == pytest.approx(stats.chi2.sf(statistic, 1), abs=0.01)


@pytest.mark.parametrize(("baseline", "variant"), [([], []), ([1, 0], [1]), ([[1]], [[1]])])
def test_mcnemar_needs_the_same_examples(baseline, variant):
    with pytest.raises(ValueError, match="same examples"):
        mcnemar(baseline, variant)
