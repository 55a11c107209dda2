"""Capture and replay of torch's random states, so that passes share their dropout masks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor


class RandomStates(NamedTuple):
    """States of the random generators that a model draws dropout masks from.

    Attributes:
        device: Device of the model.
        cpu: State of the CPU generator.
        accelerator: State of the generator of `device`; None on the CPU.
    """

    device: torch.device
    cpu: Tensor
    accelerator: Tensor | None

    @classmethod
    def capture(cls, device: torch.device) -> RandomStates:
        """Capture the current states."""
        accelerator = None
        if device.type != "cpu":
            accelerator = torch.get_device_module(device).get_rng_state(device)
        return cls(device, torch.get_rng_state(), accelerator)

    def restore(self) -> None:
        """Make these states the current ones."""
        torch.set_rng_state(self.cpu)
        if self.accelerator is not None:
            torch.get_device_module(self.device).set_rng_state(self.accelerator, self.device)

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """Context that draws from these states, and restores the previous ones at its end."""
        before = RandomStates.capture(self.device)
        self.restore()
        try:
            yield
        finally:
            before.restore()
