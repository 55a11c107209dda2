"""Dropout masks that come back: the states of torch's random generators, and on the CPU the masks themselves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class GeneratorStates(NamedTuple):
    """States of the generators that a model draws its dropout masks from.

    Attributes:
        device: where the model is.
        cpu: the CPU generator's.
        accelerator: that of the generator of `device`; None on the CPU.
    """

    device: torch.device
    cpu: Tensor
    accelerator: Tensor | None

    @classmethod
    def now(cls, device: torch.device) -> GeneratorStates:
        """The present ones."""
        accelerator = None
        if device.type != "cpu":
            accelerator = torch.get_device_module(device).get_rng_state(device)
        return cls(device, torch.get_rng_state(), accelerator)

    def set(self) -> None:
        """Makes them the present ones."""
        torch.set_rng_state(self.cpu)
        if self.accelerator is not None:
            torch.get_device_module(self.device).set_rng_state(self.accelerator, self.device)


class Moment(NamedTuple):
    """A moment of a pass.

    Attributes:
        states: the generators' states.
        masks: how many masks were drawn before.
    """

    states: GeneratorStates
    masks: int


class Dropout(TorchDispatchMode):
    """The dropout masks of a pass, for others to have them too.

    Setting the generators back does it everywhere. On the CPU drawing the masks anew takes a third of a forward pass of
    a small encoder, so there they can be kept, a byte a value. They are not if the pass draws anything else.

    Args:
        device: where the model is.
        keep_masks: on the CPU; not for passes that are run again in the backward, outside of `replayed`.
    """

    def __init__(self, device: torch.device, keep_masks: bool) -> None:
        super().__init__()
        self._device = device
        self._start = GeneratorStates.now(device)
        self._masks: list[Tensor] | None = [] if keep_masks and device.type == "cpu" else None
        self._next: int | None = None  # of the mask that comes next; None in the first pass

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """The first pass runs inside the block."""
        if self._masks is None:
            yield
        else:
            with self:
                yield

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """Another pass has the masks of the first inside the block; after it, the generators go on as if it had drawn
        nothing."""
        before = GeneratorStates.now(self._device)
        self._next = 0
        try:
            self._start.set()
            with self.recorded():
                yield
        finally:
            before.set()

    def moment(self) -> Moment:
        """The present moment of the first pass."""
        return Moment(GeneratorStates.now(self._device), len(self._masks or ()))

    def go_to(self, moment: Moment) -> None:
        """Goes on with the masks that the first pass drew from `moment` on."""
        moment.states.set()
        self._next = moment.masks

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Each operation of a pass, those that draw being the ones of interest."""
        if torch.Tag.nondeterministic_seeded not in func.tags or self._masks is None:
            return func(*args, **(kwargs or {}))
        if self._next is not None:
            self._next += 1
            return args[0].copy_(self._masks[self._next - 1])
        drawn = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.bernoulli_.float:
            self._masks.append(drawn.bool())
        else:
            self._masks = None
        return drawn
