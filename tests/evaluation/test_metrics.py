import warnings

import numpy as np
import pytest
from transformers import EvalPrediction

from hf_layerfusion.evaluation.metrics import compute_metrics_for, predicted_labels


def metrics(problem_type, predictions, labels):
    return compute_metrics_for(problem_type)(EvalPrediction(predictions=predictions, label_ids=labels))


def one_hot(classes, num_classes):
    return np.eye(num_classes, dtype=np.float32)[classes]


def test_single_label_by_hand():
    # true 0 0 0 1 1 2, predicted 0 0 1 1 2 2
    found = metrics(
        "single_label_classification", one_hot([0, 0, 1, 1, 2, 2], 3), np.array([0, 0, 0, 1, 1, 2])
    )
    # F1: 2*2/(2*2+0+1) = 4/5; 2*1/(2*1+1+1) = 1/2; 2*1/(2*1+1+0) = 2/3. Recall: 2/3, 1/2, 1.
    assert found == pytest.approx(
        {"accuracy": 4 / 6, "f1_macro": (4 / 5 + 1 / 2 + 2 / 3) / 3, "recall_macro": (2 / 3 + 1 / 2 + 1) / 3}
    )
    assert all(type(value) is float for value in found.values())


def test_class_predicted_but_never_true_counts_zero_and_warns_not():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = metrics("single_label_classification", one_hot([0, 1], 2), np.array([0, 0]))
    assert found["recall_macro"] == pytest.approx((1 / 2 + 0) / 2)


def test_tuple_of_outputs_counts_its_first():
    logits, labels = one_hot([0, 1], 2), np.array([0, 0])
    with_states = (logits, np.zeros((2, 5, 8)))
    assert metrics("single_label_classification", with_states, labels) == metrics(
        "single_label_classification", logits, labels
    )


def test_multi_label_by_hand():
    logits = np.array([[3.0, -3.0], [3.0, 3.0], [-3.0, -3.0], [3.0, -3.0]])
    labels = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    found = metrics("multi_label_classification", logits, labels)
    # first label: 3 right, none wrong; second: one false alarm, one missed
    assert found == pytest.approx({"f1_micro": 6 / 8, "f1_macro": (1 + 0) / 2, "subset_accuracy": 2 / 4})


def test_multi_label_threshold_is_half_of_the_sigmoid():
    assert predicted_labels(np.array([[0.01, -0.01, 0.0]])).tolist() == [[1, 0, 0]]


@pytest.mark.parametrize("shape", [(4,), (4, 1)])
def test_regression_by_hand(shape):
    predictions, targets = np.array([1.0, 2.0, 3.0, 5.0]), np.array([1.0, 3.0, 2.0, 4.0])
    found = metrics("regression", predictions.reshape(shape), targets)
    centred_p, centred_t = predictions - 2.75, targets - 2.5
    pearson = (centred_p @ centred_t) / np.sqrt((centred_p @ centred_p) * (centred_t @ centred_t))
    # ranks 1 2 3 4 and 1 3 2 4: 1 - 6 * 2 / (4 * 15)
    assert found == pytest.approx({"mse": 3 / 4, "mae": 3 / 4, "pearsonr": pearson, "spearmanr": 0.8})


@pytest.mark.parametrize("predictions", [np.array([2.0, 2.0]), np.array([[2.0]])])
def test_correlation_of_constant_predictions_is_undefined(predictions):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = metrics("regression", predictions, np.arange(len(predictions), dtype=float))
    assert np.isnan(found["pearsonr"])
    assert np.isnan(found["spearmanr"])
    assert np.isfinite(found["mse"])


@pytest.mark.parametrize(
    ("problem_type", "predictions", "labels", "message"),
    [
        ("single_label_classification", np.zeros((0, 2)), np.zeros(0), "at least one row"),
        ("single_label_classification", np.zeros((3, 2)), np.zeros(2), "3 for 2 labels"),
        ("single_label_classification", np.zeros(3), np.zeros(3), r"\[N, C\]"),
        ("single_label_classification", np.array([[0, np.nan], [0, 1]]), np.zeros(2), "1 of 2 rows"),
        ("multi_label_classification", np.zeros((3, 2)), np.zeros(3), r"\[N, C\]"),
        ("regression", np.zeros((3, 2)), np.zeros(3), "one value a row"),
    ],
)
def test_bad_input_is_refused(problem_type, predictions, labels, message):
    with pytest.raises(ValueError, match=message):
        metrics(problem_type, predictions, labels)


def test_unknown_problem_type_is_refused_at_once():
    with pytest.raises(ValueError, match="'ranking'"):
        compute_metrics_for("ranking")


def test_rows_without_a_label_do_not_count():
    compute = compute_metrics_for("single_label_classification")
    logits = np.array([[2.0, 1.0], [0.0, 1.0], [3.0, 0.0], [0.0, 3.0]])
    assert compute(EvalPrediction(logits, np.array([0, 1, -100, -100]))) == {
        "accuracy": 1.0, "f1_macro": 1.0, "recall_macro": 1.0
    }  # fmt: skip
    assert all(np.isnan(value) for value in compute(EvalPrediction(logits, np.full(4, -100))).values())
