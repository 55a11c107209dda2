"""Intervals of metrics: each draw's score is that of scikit-learn and scipy on the texts drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from hf_layerfusion.evaluation.intervals import metric_intervals
from hf_layerfusion.evaluation.metrics import multi_label_metrics, regression_metrics, single_label_metrics

RANDOM = np.random.default_rng(0)
NUM_TEXTS, NUM_DRAWS = 23, 40


def classes() -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    return RANDOM.integers(4, size=NUM_TEXTS), RANDOM.integers(1, 5, size=(2, NUM_TEXTS))


def several_labels() -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    return RANDOM.integers(2, size=(NUM_TEXTS, 3)), RANDOM.integers(2, size=(2, NUM_TEXTS, 3))


def values() -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    return RANDOM.integers(5, size=NUM_TEXTS) / 2, RANDOM.normal(size=(2, NUM_TEXTS)).round(1)


@pytest.mark.parametrize(
    ("problem_type", "drawn", "metrics"),
    [
        ("single_label_classification", classes, single_label_metrics),
        ("multi_label_classification", several_labels, multi_label_metrics),
        ("regression", values, regression_metrics),
    ],
)
def test_intervals_are_those_of_the_metrics_on_the_drawn_texts(
    problem_type: str, drawn: Any, metrics: Any
) -> None:
    labels, predictions = drawn()
    found = metric_intervals(problem_type, labels, predictions, NUM_DRAWS, seed=3)
    whole = [metrics(each, labels) for each in predictions]
    chosen = np.random.default_rng(3).integers(NUM_TEXTS, size=(NUM_DRAWS, NUM_TEXTS))
    draws = [[metrics(each[rows], labels[rows]) for each in predictions] for rows in chosen]
    assert found.keys() == whole[0].keys()
    for name, interval in found.items():
        scores = [np.mean([of_seed[name] for of_seed in draw]) for draw in draws]
        assert interval.value == pytest.approx(np.mean([of_seed[name] for of_seed in whole]))
        assert interval[1:] == pytest.approx(np.quantile(scores, [0.025, 0.975]))


def test_a_correlation_of_constant_predictions_is_undefined() -> None:
    found = metric_intervals("regression", [1.0, 2.0, 3.0], [[2.0, 2.0, 2.0]], 10)
    assert np.isnan(found["pearsonr"]).all() and np.isnan(found["spearmanr"]).all()
    assert found["mae"].value == pytest.approx(2 / 3)


@pytest.mark.parametrize("shape", [(0,), (1, 2), (1, 3, 1)])
def test_predictions_of_other_texts_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"must be \[seeds, \*labels.shape\]"):
        metric_intervals("regression", np.zeros(3), np.zeros(shape))
