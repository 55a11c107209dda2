"""Bregman proximal term of SMART, which keeps the model close to its previous weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from torch import Tensor, nn

from hf_layerfusion.errors import UserError
from hf_layerfusion.regularizers.forward_passes import ForwardPasses, frozen
from hf_layerfusion.regularizers.regularizer import Penalty, Regularizer
from hf_layerfusion.regularizers.task_outputs import divergence


@dataclass(kw_only=True)
class Bregman(Regularizer):
    """Bregman proximal term with momentum (Jiang et al. 2020, section 3.2, equations 3 to 5).

    The term is μ · mean over texts of ℓ_s(f(x; θ), f(x; θ̃)), with a teacher θ̃ ← (1 − β) θ + β θ̃ after each step. ℓ_s
    is that of `Smart`. The teacher holds a copy of the trained weights in their own precision, and uses the dropout
    masks of the clean pass.

    Args:
        weight: Factor μ.
        every: See `Regularizer`.
        momentum: Momentum β, from 0 to 1. With 0 the teacher is the previous step, with 1 the initial weights.

    Logs:
        `bregman` (`bregman_<task>` for a named task): The term without weight.

    Raises:
        UserError: If a setting is out of range, or a saved teacher belongs to another model.
    """

    momentum: float = 0.99
    _teacher: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check(0 <= self.momentum <= 1, "momentum", "lie between 0 and 1")

    def penalty(self, passes: ForwardPasses) -> Penalty:
        """Compute the divergence between the model and its teacher."""
        self._start(passes.module)
        # Frozen, so that autocast does not reuse its cached copies of the model's own weights.
        with torch.no_grad(), frozen(passes.module), self._teaching(passes.module):
            targets = passes.logits(passes.rerun())
        kinds = passes.problem_types()
        values = {
            task: divergence(kinds[task], logits, targets[task]).mean()
            for task, logits in passes.logits(passes.outputs).items()
        }
        logs = {f"bregman_{task}" if task else "bregman": value.detach() for task, value in values.items()}
        return Penalty({task: self.weight * value for task, value in values.items()}, logs)

    @torch.no_grad()
    def after_step(self, model: nn.Module) -> None:
        """Move the teacher towards the model."""
        model = extract_model_from_parallel(model)
        self._start(model)
        for name, parameter in _trained(model):
            self._teacher[name].lerp_(parameter, 1 - self.momentum)

    def state_dict(self) -> dict[str, Any]:
        """Return the teacher's weights."""
        return dict(self._teacher)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the teacher's weights."""
        self._teacher = dict(state)

    def _start(self, model: nn.Module) -> None:
        trained = {name: parameter.detach() for name, parameter in _trained(model)}
        if not self._teacher.keys() <= trained.keys():
            raise UserError(
                f"Bregman's teacher must have no weights but the model's {len(trained)} trained ones, found "
                f"{len(self._teacher.keys() - trained.keys())} others; resume with the model and the frozen layers "
                "that the run began with"
            )
        for name, weight in trained.items():
            # Layers unfrozen later start from their current weights. A loaded teacher may be on the CPU.
            known = self._teacher.get(name)
            self._teacher[name] = weight.clone() if known is None else known.to(weight.device)

    @contextmanager
    def _teaching(self, model: nn.Module) -> Iterator[None]:
        """Give the model the teacher's weights inside the block.

        The weights are replaced in place, because recurrences keep lists of their weights and would not notice new
        parameters.
        """
        own = {name: model.get_parameter(name) for name in self._teacher}
        kept = {name: parameter.data for name, parameter in own.items()}
        for name, parameter in own.items():
            parameter.data = self._teacher[name]
        try:
            yield
        finally:
            for name, parameter in own.items():
                parameter.data = kept[name]


def _trained(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
