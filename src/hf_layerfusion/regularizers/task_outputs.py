"""What a model puts out for a batch, task by task, and how far two outputs are apart."""

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
"""The name of the task of a batch that names none."""


def symmetric_kl(first: Tensor, second: Tensor) -> Tensor:
    """KL(p‖q) + KL(q‖p) of the distributions of two logits `[B, C]`, for each row: `[B]` (SMART, section 3.1).

    Computed as Σ (p − q)(log p − log q): the difference of two sums would lose what small perturbations change.
    """
    first, second = F.log_softmax(first, dim=-1), F.log_softmax(second, dim=-1)
    return ((first.exp() - second.exp()) * (first - second)).sum(dim=-1)


def symmetric_bernoulli_kl(first: Tensor, second: Tensor) -> Tensor:
    """As `symmetric_kl`, where each logit is a label of its own, which holds or not; summed over the labels."""
    return ((first.sigmoid() - second.sigmoid()) * (first - second)).sum(dim=-1)


def squared_error(first: Tensor, second: Tensor) -> Tensor:
    """(a − b)², for each row the mean over its values: `[B]` (SMART, section 3.1)."""
    return (first - second).square().mean(dim=-1)


DIVERGENCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "single_label_classification": symmetric_kl,
    "multi_label_classification": symmetric_bernoulli_kl,
    "regression": squared_error,
}


def divergence(problem_type: str, first: Tensor, second: Tensor) -> Tensor:
    """How far two logits `[B, C]` of the same texts are apart, for each text: `[B]`, in float32 or better.

    Raises:
        UserError: logits of another shape, as of a model that labels tokens.
    """
    return DIVERGENCES[problem_type](*checked_logits(first, second))


def checked_logits(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Two logits `[B, C]` of the same texts, in float32 or better.

    Raises:
        UserError: logits of another shape, as of a model that labels tokens.
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
    """The batch of each task in `inputs`: of those below `tasks`, or of the one that it names, or names not."""
    return dict(inputs["tasks"]) if "tasks" in inputs else {inputs.get("task", ONE_TASK): inputs}


def problem_types(config: Any, inputs: ModelInputs) -> dict[str, str]:
    """What each task of a batch is about, by the model's configuration; where that does not say, guessed from the
    number of labels and their type as transformers does."""
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
    """The logits `[B, num_labels]` of each task of a batch.

    Raises:
        UserError: outputs that hold none.
    """
    return _by_task(inputs, outputs, "logits", "logits")


def task_losses(inputs: ModelInputs, outputs: Any) -> TaskTensors:
    """The model's own loss of each task of a batch.

    Raises:
        UserError: outputs that hold none, because the batch has no labels or the model computes no loss.
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
            f"the model must put out '{name}' of every task by name, found {type(outputs).__name__} with {names}; "
            "give labels, and use a model that computes its loss and returns a ModelOutput"
        )
    return by_task
