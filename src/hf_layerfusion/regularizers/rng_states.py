"""The states of torch's random generators: dropout masks that come back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor


class RandomStates(NamedTuple):
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
    def capture(cls, device: torch.device) -> RandomStates:
        """The present ones."""
        accelerator = None
        if device.type != "cpu":
            accelerator = torch.get_device_module(device).get_rng_state(device)
        return cls(device, torch.get_rng_state(), accelerator)

    def restore(self) -> None:
        """Makes them the present ones."""
        torch.set_rng_state(self.cpu)
        if self.accelerator is not None:
            torch.get_device_module(self.device).set_rng_state(self.accelerator, self.device)

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """Draws anew from these inside the block, and goes on after it as if the block had drawn nothing."""
        before = RandomStates.capture(self.device)
        self.restore()
        try:
            yield
        finally:
            before.restore()
