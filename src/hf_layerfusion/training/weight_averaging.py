"""Averages of the weights over training steps, which are evaluated and kept in place of the last weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_layerfusion.training.sharded_weights import gathered, placed_like, set_weights

AVERAGE_NAME = "weight_average.safetensors"
"""The file of a checkpoint that holds the average in fp32 and the weights that training goes on from."""

_STEPS, _AVERAGE, _OWN = "steps", "average.", "own."


class WeightAverage(TrainerCallback):
    """Keeps an average of the trained weights. Evaluations, checkpoints and the trained model have the average.

    With `decay`, an exponential moving average (Polyak and Juditsky 1992; Tarvainen and Valpola 2017): after optimizer
    step t, from 1, `average = d * average + (1 - d) * weights` with `d = min(decay, t / (t + 9))`, so that the first
    steps are soon forgotten. With `last`, the plain mean over the steps of the last part of training (stochastic weight
    averaging: Izmailov et al. 2018, without its cyclical rate). Steps that were skipped do not count.

    Frozen parameters and buffers are not averaged. The averages are kept in fp32.

    Args:
        decay: The decay of the moving average, in (0, 1), or None.
        last: The share of the steps of training whose weights are averaged, in (0, 1], or None.
    """

    def __init__(self, decay: float | None = None, last: float | None = None) -> None:
        self.decay, self.last = decay, last
        self.reset()

    def reset(self) -> None:
        """Forget the weights."""
        self.steps = 0
        self.average: dict[str, Tensor] = {}
        self._trained: frozenset[str] | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Note the parameters that are trained: `unfreeze_per_epoch` gives some of them a gradient later."""
        model = cast(nn.Module, kwargs["model"])
        self._trained = frozenset(name for name, weights in model.named_parameters() if weights.requires_grad)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Add the weights of a step that was taken."""
        if getattr(kwargs["optimizer"], "step_was_skipped", False):
            return
        if self.last is not None and state.global_step <= (1 - self.last) * state.max_steps:
            return
        self.add(cast(nn.Module, kwargs["model"]))

    @torch.no_grad()
    def add(self, model: nn.Module) -> None:
        """Add the weights of a model to the average."""
        self.steps += 1
        share = 1 / self.steps if self.decay is None else 1 - min(self.decay, self.steps / (self.steps + 9))
        for name, weights in model.named_parameters():
            if not (weights.requires_grad if self._trained is None else name in self._trained):
                continue
            if name not in self.average:
                self.average[name] = weights.detach().float().clone()
            else:
                average = self.average[name].to(weights.device)
                self.average[name] = average.lerp_(weights.detach().float(), share)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Give the trained model the average, unless the best checkpoint's has been loaded."""
        self.put_into(cast(nn.Module, kwargs["model"]))

    @torch.no_grad()
    def put_into(self, model: nn.Module) -> None:
        """Give a model the average, where there is one."""
        for name, weights in model.named_parameters():
            if name in self.average:
                weights.copy_(self.average[name])

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Give a model the average while the block runs, and its own weights back after it."""
        own = self._own_weights(model)
        self.put_into(model)
        try:
            yield
        finally:
            self._restore(model, own)

    def save(self, model: nn.Module, checkpoint: Path, writes: bool = True) -> None:
        """Write the average and a model's own weights into a checkpoint.

        Args:
            model: The model. Where its weights are sharded, every process must call this.
            checkpoint: The folder.
            writes: Whether this process writes.
        """
        if not self.average:
            return
        own = ((name, weights) for name, weights in model.named_parameters() if name in self.average)
        tensors = {_AVERAGE + name: t for name, t in gathered(self.average.items(), writes).items()}
        tensors |= {_OWN + name: t for name, t in gathered(own, writes).items()}
        if writes:
            tensors = {name: values.contiguous() for name, values in tensors.items()}
            save_file({**tensors, _STEPS: torch.tensor(self.steps)}, checkpoint / AVERAGE_NAME)

    def load(self, model: nn.Module, checkpoint: Path) -> None:
        """Read what `save` wrote, and give the model its own weights back. A checkpoint may hold no average yet."""
        self.reset()
        if not (checkpoint / AVERAGE_NAME).is_file():
            return
        tensors = load_file(checkpoint / AVERAGE_NAME)
        self.steps = int(tensors.pop(_STEPS))
        for name, weights in model.named_parameters():
            if _AVERAGE + name in tensors:
                self.average[name] = placed_like(tensors[_AVERAGE + name], weights)
            if _OWN + name in tensors:
                set_weights(weights, tensors[_OWN + name])

    def _own_weights(self, model: nn.Module) -> dict[str, Tensor]:
        return {
            name: weights.detach().clone()
            for name, weights in model.named_parameters()
            if name in self.average
        }

    @torch.no_grad()
    def _restore(self, model: nn.Module, own: dict[str, Tensor]) -> None:
        for name, weights in model.named_parameters():
            if name in own:
                weights.copy_(own[name])
