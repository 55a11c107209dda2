"""Targets of training rows that a teacher has predicted, with or without a label of their own."""

import math
from typing import Any

__all__ = ["TEACHER_LOGITS", "unlabelled_target"]

TEACHER_LOGITS = "teacher_logits"
"""The column that holds the teacher's prediction of a training row: logits `[C]`, of a regression its value `[1]`."""


def unlabelled_target(problem_type: str, num_labels: int) -> Any:
    """Return the label of a row that has none: -100, NaN or a list of NaN.

    Args:
        problem_type: as in transformers' configurations.
        num_labels: number of the model's outputs.
    """
    if problem_type == "single_label_classification":
        return -100  # as in torch
    return float("nan") if problem_type == "regression" else [float("nan")] * num_labels


def is_unlabelled(target: Any, problem_type: str) -> bool:
    """Return whether a label, as a Python value, is that of a row that has none; see `unlabelled_target`."""
    if isinstance(target, list):
        return bool(target) and all(is_unlabelled(number, "regression") for number in target)
    if problem_type == "single_label_classification":
        return bool(target == -100)
    return isinstance(target, float) and math.isnan(target)
