"""Weights that FSDP2 shards over the processes: the same start everywhere, whole tensors, freeing of gathered ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor


@torch.no_grad()
def share_weights(model: nn.Module, device: torch.device) -> None:
    """Give every process the weights and buffers of the first one, as DDP does.

    FSDP2 shards what each process has, and a head that every process drew by itself would be made of parts of several.

    Args:
        model: The model, not sharded yet.
        device: The device of the processes' communication; the model may be elsewhere.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        shared = tensor.to(device)
        distributed.broadcast(shared, src=0)
        tensor.copy_(shared)


def gathered(tensors: Iterable[tuple[str, Tensor]], keeps: bool) -> dict[str, Tensor]:
    """Return whole tensors by name. Every process must call it, with the same tensors in the same order.

    Args:
        tensors: Names and tensors, sharded or not.
        keeps: Whether this process keeps them; otherwise it only takes part, and the result is empty. Sharded tensors
            are kept on the CPU, since all of them together may not fit on the device.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in tensors:
        whole = tensor.detach()
        if isinstance(whole, DTensor):
            whole = whole.full_tensor()
            whole = whole.cpu() if keeps else whole
        if keeps:
            found[name] = whole
    return found


def placed_like(tensor: Tensor, other: Tensor) -> Tensor:
    """Return a whole tensor, the same on every process, on the device of another one and sharded as that is."""
    tensor = tensor.to(other.device)
    if isinstance(other, DTensor):
        return distribute_tensor(tensor, other.device_mesh, other.placements)
    return tensor


@torch.no_grad()
def set_weights(parameter: Tensor, whole: Tensor) -> None:
    """Give a parameter, sharded or not, the values of a whole tensor. Every process must call it."""
    parameter.copy_(placed_like(whole, parameter))


def reshard(model: nn.Module) -> None:
    """Free the weights that a forward pass without a backward pass left gathered.

    `model.parameters()` are then the shards that the optimizer trains, and no copies of them that are soon discarded.
    """
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


@contextmanager
def own_class(model: nn.Module) -> Iterator[None]:
    """Give a sharded model the class that it had before, while the block runs.

    `fully_shard` makes a subclass of it. A model that is saved records its class, and copies the code of it for use
    without the package: of the subclass, this would be code of torch.
    """
    sharded = type(model)
    if issubclass(sharded, FSDPModule):
        model.__class__ = next(each for each in sharded.__bases__ if each is not FSDPModule)
    try:
        yield
    finally:
        model.__class__ = sharded
