"""A device that knows no float64, as Apple's MPS."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Refusing(TorchDispatchMode):
    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outputs = func(*args, **(kwargs or {}))
        for output in tree_leaves(outputs):
            if isinstance(output, torch.Tensor) and output.device.type == self.device:
                assert output.dtype != torch.float64, f"{func} makes float64 on a device that has none"
        return outputs


@contextmanager
def device_without_float64() -> Iterator[torch.device]:
    """A device to and from which tensors move, but without values and without a backward pass."""
    with FakeTensorMode(allow_non_fake_inputs=True), _Refusing("mps"):
        yield torch.device("mps")


@contextmanager
def without_float64() -> Iterator[None]:
    """Refuses float64 on the CPU, for what never leaves a model's device."""
    with _Refusing("cpu"):
        yield
