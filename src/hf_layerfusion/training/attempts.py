"""Attempts of `auto_find_batch_size`, each of which starts as the first one did."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_layerfusion.regularizers.rng_states import RandomStates


class _Start(NamedTuple):
    """State of a training before its first step; tensors are kept in the memory of the CPU."""

    weights: dict[str, Tensor]
    trained: dict[str, bool]
    optimizer: dict[str, Any]
    random: RandomStates


class Attempts(TrainerCallback):
    """Gives up everything that an attempt has changed before it ran out of memory.

    With `auto_find_batch_size` the stock Trainer starts over with a smaller batch, but goes on from the weights and the
    state of the optimizer that the attempt left, and so would the sums of the log, counts of skipped steps, averages of
    weights and what regularizers remember. Each attempt then is the run that its batch size would be by itself.

    Must be called before other callbacks that train or load something at the beginning of a training.

    Args:
        forget: Resets what the Trainer's parts have summed up.
    """

    def __init__(self, forget: Callable[[], None]) -> None:
        self.forget = forget
        self.begin()

    def begin(self) -> None:
        """Prepare for a training, whose next attempt is its first."""
        self._start: _Start | None = None

    @torch.no_grad()
    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Keep the start of the first attempt, and go back to it for each further one."""
        if not args.auto_find_batch_size:
            return
        model, optimizer = kwargs["model"], kwargs["optimizer"]
        if self._start is None:
            self._start = _Start(
                {name: tensor.detach().to("cpu", copy=True) for name, tensor in _tensors(model).items()},
                {name: weights.requires_grad for name, weights in model.named_parameters()},
                copy.deepcopy(optimizer.state_dict()),
                RandomStates.capture(args.device),
            )
            return
        for name, tensor in _tensors(model).items():
            tensor.copy_(self._start.weights[name])
        for name, weights in model.named_parameters():
            weights.requires_grad_(self._start.trained[name])
        optimizer.load_state_dict(copy.deepcopy(self._start.optimizer))
        self._start.random.restore()
        self.forget()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Free the memory."""
        self.begin()


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}
