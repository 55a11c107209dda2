"""Metrics of one classification or regression task, for use as `compute_metrics` of a `transformers.Trainer`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import expit
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, recall_score
from transformers import EvalPrediction

from hf_layerfusion.errors import UserError
from hf_layerfusion.metric_registry import IGNORED, PROBLEM_METRICS

MULTI_LABEL_THRESHOLD = 0.5
"""Sigmoid above which a label of a multi-label task is predicted."""

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class ComputeMetrics:
    """Function that converts an `EvalPrediction` to the metrics of a problem type; see `compute_metrics_for`."""

    problem_type: str

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the computed metrics."""
        return PROBLEM_METRICS[self.problem_type]

    def __call__(self, prediction: EvalPrediction) -> dict[str, float]:
        outputs, labels = _arrays(prediction)
        return _METRICS[self.problem_type](outputs, labels)


def compute_metrics_for(problem_type: str) -> ComputeMetrics:
    """Return the function that converts an `EvalPrediction` to the metrics of a `problem_type`.

    - `"single_label_classification"` (logits `[N, C]`, labels `[N]`): `accuracy`, `f1_macro`, `recall_macro` (the
      metric of TweetEval's sentiment task). Macro averages include the classes that occur among labels or predictions;
      a class that is predicted but never correctly counts as 0.
    - `"multi_label_classification"` (logits and 0/1 labels `[N, C]`): `f1_micro`, `f1_macro`, `subset_accuracy` (all
      labels of a text correct). A label that is neither present nor predicted counts as 0.
    - `"regression"` (predictions `[N]` or `[N, 1]`, targets `[N]`): `mse`, `mae`, `pearsonr`, `spearmanr`. The
      correlations are `nan` if predictions or targets are constant or there is only one row: they are undefined then,
      and 0 would mean a measured absence of correlation.

    Predictions may be a tuple, as returned by models that also output hidden states; the first entry is used.

    Raises:
        ValueError: If `problem_type` is unknown. When called: if there are no rows, shapes do not match, or predictions
            are not finite (arg max would treat NaN as the first class).
    """
    if problem_type not in _METRICS:
        raise ValueError(f"problem_type must be one of {', '.join(_METRICS)}; found {problem_type!r}")
    return ComputeMetrics(problem_type)


def predicted_labels(logits: Array) -> Array:
    """Return the predicted 0/1 labels `[N, C]` for multi-label `logits` `[N, C]`."""
    return (expit(logits) > MULTI_LABEL_THRESHOLD).astype(np.int64)


def single_label_metrics(predictions: Array, labels: Array) -> dict[str, float]:
    """Return `accuracy`, `f1_macro` and `recall_macro` of predicted classes `[N]` against `labels` `[N]`."""
    return {
        "accuracy": float(accuracy_score(labels, predictions)),
        "f1_macro": float(f1_score(labels, predictions, average="macro", zero_division=0)),
        "recall_macro": float(recall_score(labels, predictions, average="macro", zero_division=0)),
    }


def multi_label_metrics(predictions: Array, labels: Array) -> dict[str, float]:
    """Return `f1_micro`, `f1_macro` and `subset_accuracy` of predicted 0/1 labels `[N, C]` against `labels`."""
    return {
        "f1_micro": float(f1_score(labels, predictions, average="micro", zero_division=0)),
        "f1_macro": float(f1_score(labels, predictions, average="macro", zero_division=0)),
        "subset_accuracy": float((labels == predictions).all(axis=1).mean()),
    }


def regression_metrics(values: Array, targets: Array) -> dict[str, float]:
    """Return `mse`, `mae`, `pearsonr` and `spearmanr` of `values` `[N]` against `targets` `[N]`, in float64."""
    values, targets = values.astype(np.float64), targets.astype(np.float64)
    errors = values - targets
    defined = np.ptp(values) > 0 and np.ptp(targets) > 0
    return {
        "mse": float(np.square(errors).mean()),
        "mae": float(np.abs(errors).mean()),
        "pearsonr": float(pearsonr(targets, values).statistic) if defined else float("nan"),
        "spearmanr": float(spearmanr(targets, values).statistic) if defined else float("nan"),
    }


def check_rows(predictions: Array, labels: Array) -> None:
    """Check that there are rows, with one finite prediction for each label.

    Raises:
        ValueError: If there are none or their numbers differ.
        UserError: If a prediction is not finite.
    """
    if len(predictions) == 0:
        raise ValueError("metrics need at least one row; found none: check the evaluation file")
    if len(labels) != len(predictions):
        raise ValueError(f"each row needs one prediction; found {len(predictions)} for {len(labels)} labels")
    if not np.isfinite(predictions).all():
        rows = int((~np.isfinite(predictions)).reshape(len(predictions), -1).any(axis=1).sum())
        raise UserError(
            f"predictions must be finite; found NaN or infinity in {rows} of {len(predictions)} rows: "
            "training has diverged, lower the learning rate"
        )


def _arrays(prediction: EvalPrediction) -> tuple[Array, Array]:
    outputs = prediction.predictions
    logits = np.asarray(outputs[0] if isinstance(outputs, tuple) else outputs)
    labels = np.asarray(prediction.label_ids)
    check_rows(logits, labels)
    return logits, labels


def _single_label(logits: Array, labels: Array) -> dict[str, float]:
    if logits.ndim != 2 or labels.ndim != 1:
        raise ValueError(f"logits must be [N, C] and labels [N]; found {logits.shape} and {labels.shape}")
    labelled = labels != IGNORED
    if not labelled.any():
        return dict.fromkeys(single_label_metrics(np.zeros(1), np.zeros(1)), float("nan"))
    return single_label_metrics(logits.argmax(axis=1)[labelled], labels[labelled])


def _multi_label(logits: Array, labels: Array) -> dict[str, float]:
    if logits.ndim != 2 or labels.shape != logits.shape:
        raise ValueError(f"logits and labels must both be [N, C]; found {logits.shape} and {labels.shape}")
    return multi_label_metrics(predicted_labels(logits), labels.astype(np.int64))


def _regression(outputs: Array, targets: Array) -> dict[str, float]:
    if outputs.size != len(outputs) or targets.size != len(targets):
        raise ValueError(
            f"predictions and targets must hold one value a row; found {outputs.shape} and {targets.shape}"
        )
    return regression_metrics(outputs.reshape(-1), targets.reshape(-1))


_METRICS: dict[str, Callable[[Array, Array], dict[str, float]]] = {
    "single_label_classification": _single_label,
    "multi_label_classification": _multi_label,
    "regression": _regression,
}
