"""The interface of what is added to a model's own loss, and the one call that adds it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any, NamedTuple

from torch import Tensor, nn

from hf_layerfusion.errors import UserError
from hf_layerfusion.regularizers.forward_passes import ForwardPasses
from hf_layerfusion.regularizers.task_outputs import ModelInputs, TaskTensors, task_losses

SETTING_TYPES: dict[str, tuple[Any, str]] = {
    "int": (Integral, "a whole number"),
    "float": (Real, "a number"),
    "bool": (bool, "true or false"),
    "str": (str, "a name"),
    "bool | None": ((bool, type(None)), "true or false, or left out"),
}
"""By the annotation of a setting, what its values must be."""


class Penalty(NamedTuple):
    """What a regularizer adds to a batch's loss.

    Attributes:
        losses: by task, scalars in the unit of the task's loss, weighted.
        logs: what is worth logging, scalars by name.
    """

    losses: TaskTensors
    logs: dict[str, Tensor]


@dataclass(kw_only=True)
class Regularizer(ABC):
    """A term beside the model's own loss, from further passes over the batch.

    A new one is a subclass with `penalty` and a row in `REGULARIZERS`.

    Args:
        weight: its factor λ.
        every: it is added at every n-th step only, n times as heavy, which costs an n-th.

    Raises:
        UserError: a setting of another type or out of its range.
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
        """The layer whose output it adds noise to, 0 the word embeddings; None for no noise."""
        return None

    @abstractmethod
    def penalty(self, passes: ForwardPasses) -> Penalty:
        """The term for a batch, whose clean pass is made."""

    def after_step(self, model: nn.Module) -> None:
        """Called when an optimizer step has changed the weights."""
        return

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs beside the settings."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up what `state_dict` gave."""
        return


class RegularizedPass(NamedTuple):
    """A training pass and what is added to its loss.

    Attributes:
        outputs: the model's, of the clean pass.
        losses: by task, the loss and all that is added to it.
        logs: scalars by name.
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
    """Runs a batch, and adds to its loss what `regularizers` make of further passes.

    Args:
        model: the model, bare or wrapped for several processes: any `PreTrainedModel` that classifies texts.
        inputs: the batch, labels included, as the model takes it: of one task, of a named `task`, or of several
            `tasks`.
        regularizers: the terms.
        step: number of the optimizer step, for terms that are not added at each.
        losses: the losses of a batch by task, given its inputs and outputs; the model's own by default.
        low_memory: the encoders' layers keep no activations, but are run again in the backward: the same gradients, in
            less memory than a plain step's, for a quarter more time.

    Raises:
        UserError: a model or a batch that a term cannot be made of.
    """
    due = [each for each in regularizers if step % each.every == 0]
    if not due:
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
