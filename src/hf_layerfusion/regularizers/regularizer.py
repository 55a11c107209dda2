"""Interface of the regularization terms, and the function that adds them to a model's loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any, NamedTuple

import torch
from accelerate.utils import extract_model_from_parallel
from torch import Tensor, nn

from hf_layerfusion.errors import UserError
from hf_layerfusion.regularizers.encoder_layers import checkpointed
from hf_layerfusion.regularizers.forward_passes import ForwardPasses
from hf_layerfusion.regularizers.task_outputs import ModelInputs, TaskTensors, task_losses

SETTING_TYPES: dict[str, tuple[Any, str]] = {
    "int": (Integral, "a whole number"),
    "float": (Real, "a number"),
    "bool": (bool, "true or false"),
    "str": (str, "a name"),
    "bool | None": ((bool, type(None)), "true or false, or left out"),
}
"""Accepted types of a setting, and their description, by its annotation."""


class Penalty(NamedTuple):
    """Contribution of a regularizer to the loss of a batch.

    Attributes:
        losses: Weighted terms by task, scalars in the unit of the task's loss.
        logs: Scalars to log, by name.
    """

    losses: TaskTensors
    logs: dict[str, Tensor]


@dataclass(kw_only=True)
class Regularizer(ABC):
    """Base class of the terms that are added to the model's own loss and need further passes over the batch.

    A new one is a subclass with `penalty` and a row in `REGULARIZERS`.

    Args:
        weight: Factor λ of the term.
        every: Interval n in steps. The term is added at every n-th step only, multiplied by n, which costs an n-th of
            the time.

    Raises:
        UserError: If a setting has the wrong type or is out of range.
    """

    weight: float = 1.0
    every: int = 1

    def __post_init__(self) -> None:
        for setting in fields(self):
            if setting.init:
                kind, words = SETTING_TYPES[getattr(setting.type, "__name__", str(setting.type))]
                self._check(isinstance(getattr(self, setting.name), kind), setting.name, f"be {words}")
        self._check(0 <= self.weight < float("inf"), "weight", "be a finite number of 0 or more")
        self._check(self.every >= 1, "every", "be 1 or more; 1 adds the term at each step")

    def _check(self, holds: bool, name: str, rule: str) -> None:
        if not holds:
            raise UserError(f"{type(self).__name__}: {name} must {rule}; found {getattr(self, name)!r}")

    @property
    def noise_layer(self) -> int | None:
        """Layer whose output receives noise; 0 is the word embeddings, None means no noise."""
        return None

    @abstractmethod
    def penalty(self, passes: ForwardPasses) -> Penalty:
        """Compute the term for a batch whose clean pass has been run."""

    def after_step(self, model: nn.Module) -> None:
        """Update internal state after an optimizer step has changed the weights."""
        return

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a resumed run needs in addition to the settings."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state returned by `state_dict`."""
        return


class RegularizedPass(NamedTuple):
    """Result of a training pass with regularization terms.

    Attributes:
        outputs: Outputs of the model in the clean pass.
        losses: Loss of each task, including all terms.
        logs: Scalars to log, by name.
    """

    outputs: Any
    losses: TaskTensors
    logs: dict[str, Tensor]


def regularized_pass(
    model: nn.Module,
    inputs: ModelInputs,
    regularizers: Sequence[Regularizer],
    step: int = 0,
    losses: Callable[[ModelInputs, Any], TaskTensors] = task_losses,
    low_memory: bool = False,
) -> RegularizedPass:
    """Run a batch and add regularization terms to its losses.

    Args:
        model: Any `PreTrainedModel` that classifies texts, bare or wrapped for distributed training.
        inputs: The batch with labels, as the arguments of the model: of one task, of a named `task`, or of several
            `tasks`.
        regularizers: The terms to add.
        step: Index of the optimizer step, for terms that are not added at every step.
        losses: Function that returns the losses of a batch by task from its inputs and outputs; by default the model's
            own losses.
        low_memory: Whether the encoders' layers keep no activations and are recomputed in the backward pass: the same
            gradients with less memory than a plain step, for a quarter more time.

    Raises:
        UserError: If a term cannot be computed for the model or the batch.
    """
    due = [each for each in regularizers if step % each.every == 0]
    if not due:
        recomputes = low_memory and torch.is_grad_enabled()
        with checkpointed(extract_model_from_parallel(model)) if recomputes else nullcontext():
            outputs = model(**inputs)
        return RegularizedPass(outputs, losses(inputs, outputs), {})
    layers = {each.noise_layer for each in due if each.noise_layer is not None}
    passes = ForwardPasses(model, inputs, layers, losses, low_memory)
    total, logs = passes.losses(passes.outputs), {}
    for each in due:
        penalty = each.penalty(passes)
        total = {task: loss + each.every * penalty.losses[task] for task, loss in total.items()}
        logs.update(penalty.logs)
    return RegularizedPass(passes.outputs, total, logs)
