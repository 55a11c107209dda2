"""Tests of the tasks file against the data side's own measurements."""

import numpy as np
import pytest
from transformers import EvalPrediction

from hf_layerfusion.evaluation.metrics import compute_metrics_for
from hf_layerfusion.metric_registry import METRICS, selection_metrics

ROWS = {
    "single_label_classification": (np.eye(2), np.array([0, 1])),
    "multi_label_classification": (np.eye(2), np.eye(2)),
    "regression": (np.array([0.0, 1.0]), np.array([0.0, 1.0])),
}


@pytest.mark.parametrize("problem_type", ROWS)
def test_a_task_may_be_chosen_by_all_that_is_measured_of_which_more_is_better(problem_type):
    measured = compute_metrics_for(problem_type)(EvalPrediction(*ROWS[problem_type]))
    assert [*selection_metrics(problem_type)] == [
        name for name in measured if METRICS[name].greater_is_better
    ]
