"""What a tasks file may say, against what the data side measures."""

import numpy as np
import pytest
from transformers import EvalPrediction

from hf_layerfusion.evaluation.metrics import compute_metrics_for
from hf_layerfusion.experiments.multitask.tasks import CHOOSING_METRICS
from hf_layerfusion.training.multitask_evaluation import LESS_IS_BETTER

ROWS = {
    "single_label_classification": (np.eye(2), np.array([0, 1])),
    "multi_label_classification": (np.eye(2), np.eye(2)),
    "regression": (np.array([0.0, 1.0]), np.array([0.0, 1.0])),
}


@pytest.mark.parametrize("problem_type", ROWS)
def test_a_task_may_be_chosen_by_all_that_is_measured_of_which_more_is_better(problem_type):
    measured = compute_metrics_for(problem_type)(EvalPrediction(*ROWS[problem_type]))
    assert [*CHOOSING_METRICS[problem_type]] == [name for name in measured if name not in LESS_IS_BETTER]
