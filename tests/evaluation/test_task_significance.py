"""Tests of differences over several tasks, against draws by the definition and jackknife errors."""

import math

import numpy as np
import pytest
from scipy import stats

from hf_layerfusion.evaluation.significance import UNDEFINED
from hf_layerfusion.evaluation.task_significance import TaskPredictions, bootstrap_tasks


@pytest.fixture
def models():
    """Two models, with two seeds each, on 120 texts of three classes and 90 with values."""
    rng = np.random.default_rng(7)
    classes, values = rng.integers(0, 3, 120), rng.normal(size=90)
    found = []
    for noise in (1.0, 0.6):
        guesses = np.where(rng.random((2, 120)) < 0.3 * noise, rng.integers(0, 3, (2, 120)), classes)
        found.append(
            {
                "a": TaskPredictions(classes, guesses, False),
                "b": TaskPredictions(values, values + noise * rng.normal(size=(2, 90)), True),
            }
        )
    return found


def metric(answers, rows):
    """Accuracy or correlation of each of several choices of rows `[K, n]`, averaged over seeds, by the definition."""
    labels, given = answers.labels[rows], answers.predictions[:, rows]
    if not answers.is_correlation:
        return (given == labels).mean(axis=(0, 2))
    x, y = given - given.mean(axis=-1, keepdims=True), labels - labels.mean(axis=-1, keepdims=True)
    return ((x * y).sum(-1) / np.sqrt((x**2).sum(-1) * (y**2).sum(-1))).mean(axis=0)


def difference(models, rows):
    """Difference of the means over tasks, with a jackknife standard error (Efron and Tibshirani 1993, section 11.5)."""
    total, variance = 0.0, 0.0
    for task, chosen in rows.items():
        size = len(chosen)
        others = chosen[np.nonzero(~np.eye(size, dtype=bool))[1].reshape(size, size - 1)]

        def of(rows, task=task):
            return (metric(models[1][task], rows) - metric(models[0][task], rows)) / len(models[0])

        total += of(chosen[None])[0]
        variance += (size - 1) * of(others).var()
    return total, math.sqrt(variance)


def test_tasks_are_drawn_by_themselves_and_studentized(models):
    found = bootstrap_tasks(*models, num_resamples=4_000, seed=1)
    sizes = {"a": 120, "b": 90}
    value, error = difference(models, {task: np.arange(size) for task, size in sizes.items()})
    rng = np.random.default_rng(0)
    ratios = []
    for _ in range(400):
        rows = {task: rng.integers(size, size=size) for task, size in sizes.items()}
        draw, draw_error = difference(models, rows)
        ratios.append(abs(draw - value) / draw_error)
    assert found.difference == pytest.approx(value)
    assert found.high - value == pytest.approx(error * np.quantile(ratios, 0.95), rel=0.1)
    assert value - found.low == pytest.approx(found.high - value)
    assert found.p_value == pytest.approx(np.mean(np.array(ratios) >= value / error), abs=0.03)
    assert found.undefined == 0 and found.draws == 4_000 and found.remark == ""


def test_classes_alone_are_drawn_by_percentiles(models):
    found = bootstrap_tasks(*({"a": model["a"]} for model in models), num_resamples=4_000)
    right = [(model["a"].predictions == model["a"].labels).mean(axis=0) for model in models]
    expected = stats.bootstrap(
        (right[1] - right[0],), np.mean, n_resamples=4_000, method="percentile", random_state=1
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.01)


def test_a_model_does_not_differ_from_itself(models):
    found = bootstrap_tasks(models[0], models[0])
    assert (found.difference, found.low, found.high, found.p_value) == (0, 0, 0, 1)
    assert found.remark == ""


@pytest.mark.parametrize("collapsed", [0, 1, "seed"])
def test_constant_answers_have_no_p_value(models, collapsed):
    """They were significant: each comparison with NaN is false, and so no draw counted against the difference."""
    of = 1 if collapsed == "seed" else collapsed
    answers = models[of]["b"]
    constant = np.full_like(answers.predictions, 2.7)
    if collapsed == "seed":
        constant[1:] = answers.predictions[1:]
    models[of]["b"] = TaskPredictions(answers.labels, constant, True)
    found = bootstrap_tasks(*models, num_resamples=200)
    assert found.p_value is None
    assert math.isnan(found.difference) and math.isnan(found.low) and math.isnan(found.high)
    assert found == UNDEFINED or found.remark == UNDEFINED.remark


def test_undefined_draws_are_counted_and_count_against_a_difference():
    """One of six answers differs from the others: (5/6)^6 = 33.5 % of the draws leave it out."""
    labels = np.array([0.0, 1, 2, 3, 4, 5])
    baseline = TaskPredictions(labels, np.array([[1.0, 1, 1, 1, 1, 2]]), True)
    variant = TaskPredictions(labels, labels[None] + 0.01 * np.array([[1, -1, 1, 1, -1, -1]]), True)
    found = bootstrap_tasks({"t": baseline}, {"t": variant}, num_resamples=3_000)
    assert found.undefined / found.draws == pytest.approx((5 / 6) ** 6, abs=0.03)
    assert found.p_value > found.undefined / found.draws
    assert found.remark == f"{found.undefined:,} of 3,000 draws undefined"
    assert math.isfinite(found.low) and math.isfinite(found.high)


@pytest.mark.parametrize("size", [2, 3])
def test_few_examples_prove_little(size):
    """Two examples correlate by 1 or -1 whatever is predicted."""
    labels = np.arange(float(size))
    models = [
        {"t": TaskPredictions(labels, values[None], True)} for values in (-labels, labels + 0.1 * labels**2)
    ]
    found = bootstrap_tasks(*models, num_resamples=999)
    assert found.p_value is None or found.p_value >= 0.2


def test_the_level_is_kept_where_percentiles_do_not():
    """Two models equally good at 60 examples. In 300 trials a test of 5 % rejects in more than 26 with a probability of
    0.1 %; percentiles reject in 28."""
    rng = np.random.default_rng(3)
    rejected = 0
    for trial in range(300):
        labels = rng.normal(size=60)
        models = [
            {"t": TaskPredictions(labels, (labels + 0.4 * rng.normal(size=60))[None], True)} for _ in range(2)
        ]
        p_value = bootstrap_tasks(*models, num_resamples=299, seed=trial).p_value
        rejected += p_value is not None and p_value < 0.05
    assert 5 <= rejected <= 22


def test_tasks_that_differ_are_refused():
    one = {"a": TaskPredictions(np.zeros(3), np.zeros((1, 3)), False)}
    with pytest.raises(ValueError, match="the same tasks and examples"):
        bootstrap_tasks(one, {"a": TaskPredictions(np.zeros(4), np.zeros((1, 4)), False)})
