"""Distillation: a loss towards a teacher's predictions beside the loss towards the labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from datasets import Dataset as ArrowDataset
from torch import Tensor
from torch.nn import functional as F

from hf_layerfusion.data.arrow_tables import column_values
from hf_layerfusion.data.soft_labels import TEACHER_LOGITS
from hf_layerfusion.errors import UserError
from hf_layerfusion.metric_registry import IGNORED
from hf_layerfusion.regularizers.task_outputs import ONE_TASK, problem_types
from hf_layerfusion.training.task_data import LABELS, Row

__all__ = ["distillation_loss", "hard_loss", "soft_loss"]


TEMPERATURE = 2.0
"""The default of `distillation_temperature`."""


def soft_loss(student: Tensor, teacher: Tensor, problem_type: str, temperature: float = 1.0) -> Tensor:
    """Return the loss of each row towards the teacher's prediction, `[B]` (Hinton et al. 2015, section 2).

    - One class a text: T² KL(q‖p) of the distributions q = softmax(teacher / T) and p = softmax(student / T). The
      factor T² keeps the size of the gradient.
    - Several classes a text: T² times the binary cross-entropy of σ(student / T) to the probabilities σ(teacher / T),
      averaged over the classes.
    - Regression: the squared error to the teacher's value; there is no temperature.

    Args:
        student: logits `[B, C]`.
        teacher: logits `[B, C]`.
        problem_type: as in transformers' configurations.
        temperature: T.
    """
    if problem_type == "regression":
        return (student - teacher).square().mean(dim=-1)
    student, teacher = student / temperature, teacher / temperature
    if problem_type == "multi_label_classification":
        terms = F.binary_cross_entropy_with_logits(student, teacher.sigmoid(), reduction="none").mean(dim=-1)
    else:
        target = F.log_softmax(teacher, dim=-1)
        terms = F.kl_div(F.log_softmax(student, dim=-1), target, reduction="none", log_target=True).sum(
            dim=-1
        )
    return temperature**2 * terms


def hard_loss(student: Tensor, labels: Tensor, problem_type: str) -> Tensor:
    """Return the loss of each row towards its label, `[B]`, as transformers' classifiers have it; 0 without a label.

    Args:
        student: logits `[B, C]`.
        labels: `[B]`, or `[B, C]` for several classes a text. Rows without a label have -100, or NaN where labels
            are floats.
        problem_type: as in transformers' configurations.
    """
    if problem_type == "single_label_classification":
        return F.cross_entropy(student, labels.long(), ignore_index=IGNORED, reduction="none")
    labels = labels.view_as(student).to(student.dtype)
    is_labelled = labels.isfinite().all(dim=-1)
    labels = labels.nan_to_num()
    if problem_type == "regression":
        terms = (student - labels).square()
    else:
        terms = F.binary_cross_entropy_with_logits(student, labels, reduction="none")
    return terms.mean(dim=-1) * is_labelled


def distillation_loss(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor | None,
    problem_type: str,
    weight: float = 0.5,
    temperature: float = 1.0,
) -> Tensor:
    """Return the mean over the rows of `weight` times `soft_loss` plus `1 - weight` times `hard_loss`.

    Rows without a label have the first term alone, and so have all rows where `labels` is None. The mean is over all
    rows, so that parts of a batch add up to the whole.

    Raises:
        UserError: if the teacher's predictions have another shape than the student's.
    """
    if student.dim() != 2 or student.shape != teacher.shape:
        raise UserError(
            f"{TEACHER_LOGITS} must have the shape of the model's logits, {list(student.shape)}, found "
            f"{list(teacher.shape)}; use a teacher with the same labels"
        )
    if student.dtype != torch.float64:
        student = student.float()
    soft = soft_loss(student, teacher.to(student.dtype), problem_type, temperature)
    hard = torch.zeros_like(soft) if labels is None else hard_loss(student, labels, problem_type)
    return (weight * soft + (1 - weight) * hard).mean()


class Distillation:
    """The loss of a training batch that holds a teacher's predictions.

    Args:
        weight: factor of the loss towards the teacher; that towards the labels has `1 - weight`.
        temperature: see `soft_loss`; None for `TEMPERATURE`.
    """

    def __init__(self, weight: float, temperature: float | None = None) -> None:
        self.weight, self.temperature = weight, TEMPERATURE if temperature is None else temperature

    def prepare(
        self, config: Any, batch: dict[str, Any]
    ) -> tuple[dict[str, Any], Callable[[Any, Any], dict[str, Tensor]]]:
        """Return the inputs of the model, without labels, and the function that computes the loss of its outputs.

        Args:
            config: the model's configuration.
            batch: a training batch.

        Raises:
            UserError: the batch has no predictions of a teacher.
        """
        if TEACHER_LOGITS not in batch:
            raise UserError(
                f"distillation_weight={self.weight} needs the teacher's predictions of every training row, found a "
                f"batch without {TEACHER_LOGITS}; add that column, as Teacher.add_to does"
            )
        problem_type = problem_types(config, batch)[ONE_TASK]
        if config.problem_type is None:
            config.problem_type = problem_type  # as transformers' classifiers do, which here see no labels
        teacher, labels = batch[TEACHER_LOGITS], batch.get(LABELS)
        inputs = {name: value for name, value in batch.items() if name not in (TEACHER_LOGITS, LABELS)}

        def losses(_: Any, outputs: Any) -> dict[str, Tensor]:
            logits = outputs["logits"]
            loss = distillation_loss(logits, teacher, labels, problem_type, self.weight, self.temperature)
            return {ONE_TASK: loss}

        return inputs, losses


class TeacherCollator:
    """Adds the teacher's predictions to the batches of another collator.

    Args:
        collate: makes a batch of rows without that column.
    """

    def __init__(self, collate: Callable[[list[Row]], Any]) -> None:
        self.collate = collate

    def __call__(self, rows: list[Row]) -> dict[str, Any]:
        batch = dict(self.collate([{n: v for n, v in row.items() if n != TEACHER_LOGITS} for row in rows]))
        if TEACHER_LOGITS in rows[0]:
            batch[TEACHER_LOGITS] = torch.from_numpy(
                np.array([row[TEACHER_LOGITS] for row in rows], dtype=np.float32)
            )
        return batch


def check_temperature(temperature: float | None, problem_type: str | None) -> None:
    """Check that a regression has no temperature.

    Raises:
        UserError: it has one.
    """
    if temperature is not None and problem_type == "regression":
        raise UserError(
            f"distillation_temperature={temperature:g} is of classes, found a regression; leave it out"
        )


def check_teacher(train_dataset: Any, config: Any) -> None:
    """Check labels and teacher's predictions of training rows before the first step, where the rows are at hand.

    Raises:
        UserError: there are no predictions, they are not finite, or have another number of classes than the model; or
            the labels of classes are no integers.
    """
    if isinstance(train_dataset, ArrowDataset):
        columns = train_dataset.column_names
    elif isinstance(train_dataset, list) and train_dataset:
        columns = list(train_dataset[0])
    else:
        return  # `Distillation.prepare` checks each batch
    if TEACHER_LOGITS not in columns:
        raise UserError(
            f"distillation_weight needs the teacher's predictions of every training row, found no column "
            f"{TEACHER_LOGITS} among {', '.join(columns)}; add it, as Teacher.add_to does"
        )
    if isinstance(train_dataset, ArrowDataset):
        logits = np.array(train_dataset.with_format("numpy")[TEACHER_LOGITS][:], dtype=np.float64)
    else:
        logits = np.array([row[TEACHER_LOGITS] for row in train_dataset], dtype=np.float64)
    found = None if logits.ndim != 2 else logits.shape[1]
    if len(logits) and found != config.num_labels:
        raise UserError(
            f"{TEACHER_LOGITS} must hold {config.num_labels} numbers a row, the model's outputs, found "
            f"{'single numbers' if found is None else found}; use a teacher with the same labels"
        )
    if not np.isfinite(logits).all():
        row = int(np.isfinite(logits).all(axis=-1).argmin())
        raise UserError(
            f"{TEACHER_LOGITS} must be finite, found NaN or infinity in row {row}; remove the row"
        )
    _check_labels(train_dataset, config)


def _check_labels(rows: Any, config: Any) -> None:
    """Check that each row has an integer where the model gives it one of several classes.

    Raises:
        UserError: a row has none, or a fraction.
    """
    if config.num_labels == 1 or config.problem_type == "multi_label_classification":
        return
    labels: list[Any] = []
    if isinstance(rows, ArrowDataset):
        name = next((name for name in (LABELS, "label") if name in rows.column_names), None)
        if name is not None and not _are_integers(rows, name):
            labels = column_values(rows, name)
    else:
        labels = [row.get(LABELS, row.get("label", IGNORED)) for row in rows]
    for row, label in enumerate(labels):
        if label is None or isinstance(label, float):
            raise UserError(
                f"the labels of classes must be integers, {IGNORED} for a row without one, found {label} in row {row}; "
                "convert them"
            )


def _are_integers(rows: ArrowDataset, name: str) -> bool:
    """Return whether a column holds an integer in each row, by its type."""
    dtype = str(getattr(rows.features[name], "dtype", ""))
    return dtype.startswith("int") and not rows.data.column(name).null_count
