"""Logits and losses of a batch by task, and divergences between the outputs of two passes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_layerfusion.errors import UserError

ModelInputs = Mapping[str, Any]
TaskTensors = dict[str, Tensor]

ONE_TASK = ""
"""Name of the task in a batch that names none."""


def symmetric_kl(first: Tensor, second: Tensor) -> Tensor:
    """Return KL(p‖q) + KL(q‖p) of the distributions of two logits `[B, C]`, one value per row: `[B]` (SMART, section
    3.1).

    It is computed as Σ (p − q)(log p − log q), because the difference of two sums would lose the effect of small
    perturbations.
    """
    first, second = F.log_softmax(first, dim=-1), F.log_softmax(second, dim=-1)
    return ((first.exp() - second.exp()) * (first - second)).sum(dim=-1)


def symmetric_bernoulli_kl(first: Tensor, second: Tensor) -> Tensor:
    """Return the symmetric KL divergence of independent binary labels, summed over the labels: `[B]`."""
    return ((first.sigmoid() - second.sigmoid()) * (first - second)).sum(dim=-1)


def squared_error(first: Tensor, second: Tensor) -> Tensor:
    """Return (a − b)², the mean over the values of each row: `[B]` (SMART, section 3.1)."""
    return (first - second).square().mean(dim=-1)


DIVERGENCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "single_label_classification": symmetric_kl,
    "multi_label_classification": symmetric_bernoulli_kl,
    "regression": squared_error,
}


def divergence(problem_type: str, first: Tensor, second: Tensor) -> Tensor:
    """Return the divergence between two logits `[B, C]` of the same texts, one value per text: `[B]`, in float32 or
    better.

    Raises:
        UserError: If the logits have another shape, such as those of a token classifier.
    """
    return DIVERGENCES[problem_type](*checked_logits(first, second))


def checked_logits(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return two logits `[B, C]` of the same texts in float32 or better.

    Raises:
        UserError: If the logits have another shape, such as those of a token classifier.
    """
    if first.dim() != 2 or first.shape != second.shape:
        raise UserError(
            f"the model's logits must be [B, num_labels], the same in every pass, found {list(first.shape)} and "
            f"{list(second.shape)}; use a model that classifies whole texts"
        )
    if first.dtype != torch.float64:
        first, second = first.float(), second.float()
    return first, second


def task_inputs(inputs: ModelInputs) -> dict[str, Any]:
    """Return the batch of each task: the entries of `tasks`, or the whole batch for the task that it names, if any."""
    return dict(inputs["tasks"]) if "tasks" in inputs else {inputs.get("task", ONE_TASK): inputs}


def problem_types(config: Any, inputs: ModelInputs) -> dict[str, str]:
    """Return the problem type of each task of a batch.

    It is read from the model's configuration, or guessed from the number and type of labels as in transformers.
    """
    return {task: _problem_type(config, task, batch) for task, batch in task_inputs(inputs).items()}


def _problem_type(config: Any, task: str, inputs: ModelInputs) -> str:
    tasks = getattr(config, "tasks", None) or {}
    if task in tasks:
        return str(tasks[task].get("problem_type", "single_label_classification"))
    if config.problem_type is not None:
        return str(config.problem_type)
    if config.num_labels == 1:
        return "regression"
    labels = inputs.get("labels")
    is_class = labels is None or not labels.is_floating_point()
    return "single_label_classification" if is_class else "multi_label_classification"


def task_logits(inputs: ModelInputs, outputs: Any) -> TaskTensors:
    """Return the logits `[B, num_labels]` of each task of a batch.

    Raises:
        UserError: If the outputs contain none.
    """
    return _by_task(inputs, outputs, "logits", "logits")


def task_losses(inputs: ModelInputs, outputs: Any) -> TaskTensors:
    """Return the model's own loss of each task of a batch.

    Raises:
        UserError: If the outputs contain none, because the batch has no labels or the model computes no loss.
    """
    return _by_task(inputs, outputs, "loss", "losses")


def _by_task(inputs: ModelInputs, outputs: Any, of_one: str, of_several: str) -> TaskTensors:
    several = "tasks" in inputs
    name = of_several if several else of_one
    found: Any = outputs.get(name) if isinstance(outputs, Mapping) else None
    by_task: TaskTensors = dict(found or {}) if several else dict.fromkeys(task_inputs(inputs), found)
    if found is None or by_task.keys() != task_inputs(inputs).keys():
        names = sorted(outputs) if isinstance(outputs, Mapping) else "no names"
        raise UserError(
            f"the model must return '{name}' of every task by name, found {type(outputs).__name__} with {names}; "
            "give labels, and use a model that computes its loss and returns a ModelOutput"
        )
    return by_task
