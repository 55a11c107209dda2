"""Collection of each task's gradient, their inner products, and their combination."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import combinations_with_replacement
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor

from hf_layerfusion.errors import UserError

# Number of values of a gradient that are compared at a time, so that those of all tasks fit in the CPU cache.
_CHUNK = 1 << 14

BUCKET_BYTES = 25 * 2**20
"""Bytes that are reduced over the processes at a time, as in DDP."""


class TaskGradients:
    """Gradients of the tasks in one optimizer step, T in all.

    For each task in each micro-batch, run its backward pass inside `of(task)`; gradients of several micro-batches add
    up. Then `gramian` returns the inner products of the tasks' gradients, and `combine` leaves the weighted sum in the
    parameters' `grad`, for clipping and the optimizer.

    The tasks compete for the parameters that at least two of them use, and only these are compared and weighted. A
    parameter used by a single task keeps the gradient of that task.

    Args:
        parameters: Parameters of the model. Which of them require gradients may change between steps. Their `grad` must
            be empty at the start of a step.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self._parameters = [*parameters]
        self._gradients: dict[str, list[Tensor | None]] = {}

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks with a gradient, in the order in which they were added."""
        return list(self._gradients)

    @contextmanager
    def of(self, task: str) -> Iterator[None]:
        """Context in which gradients added to the parameters' `grad` are added to this task's gradient.

        Under DDP the backward pass must run inside `no_sync`; `reduce` then averages over the processes.

        Raises:
            UserError: If a gradient is sparse.
        """
        # The backward pass adds to the gradient of earlier micro-batches, so that no second copy is needed.
        earlier = self._gradients.get(task, [None] * len(self._parameters))
        for parameter, gradient in zip(self._parameters, earlier, strict=True):
            parameter.grad = gradient
        yield
        self._gradients[task] = [parameter.grad for parameter in self._parameters]
        for parameter in self._parameters:
            if parameter.grad is not None and parameter.grad.layout != torch.strided:
                raise UserError(
                    f"gradient surgery needs dense gradients, found {parameter.grad.layout}; "
                    "set sparse=False in the model's embeddings"
                )
            parameter.grad = None

    def reduce(self, average: Callable[[Sequence[Tensor]], None] | None = None) -> None:
        """Average each task's gradient over the processes, in place. All processes must have the same tasks.

        Gradients that FSDP2 shards are averages already, and stay as they are.

        Args:
            average: Function that averages the given tensors in place; `average_over_processes` by default.
        """
        found = [
            each
            for gradients in self._gradients.values()
            for each in gradients
            if each is not None and not isinstance(each, DTensor)
        ]
        (average or average_over_processes)(found)

    def gramian(self) -> Tensor:
        """Return the inner products of the tasks' gradients over the parameters that at least two tasks use.

        The matrix `[T, T]` is in float64 on the CPU, in the order of `tasks`. Of gradients that are sharded, each
        process adds the products of its shards, and these are summed over the processes.
        """
        size = len(self._gradients)
        pairs = list(combinations_with_replacement(range(size), 2))
        products: dict[tuple[torch.device, _Groups], list[Tensor]] = {}
        for gradients in zip(*self._gradients.values(), strict=True):
            used = {task: each for task, each in enumerate(gradients) if each is not None}
            if len(used) < 2:
                continue
            first = next(iter(used.values()))
            place = first.device, _sharding_groups(first)
            for chunks in zip(*map(_chunks, used.values()), strict=True):
                parts = dict(zip(used, chunks, strict=True))
                zero = chunks[0].new_zeros(())
                found = [
                    torch.dot(parts[i], parts[j]) if i in parts and j in parts else zero for i, j in pairs
                ]
                products.setdefault(place, []).append(torch.stack(found))
        gramian = torch.zeros(size, size, dtype=torch.float64)
        rows, columns = torch.tensor(pairs).reshape(-1, 2).unbind(dim=1)
        for (device, groups), parts_of_place in products.items():
            # Summed in float64 on the CPU, because some devices do not support it (Apple's MPS).
            total = torch.stack(parts_of_place).cpu().double().sum(dim=0)
            for group in groups:
                total = total.to(device)
                distributed.all_reduce(total, group=group)
            gramian[rows, columns] += total.cpu()
        return gramian + gramian.triu(1).T

    def combine(self, weights: Tensor) -> None:
        """Store Σ w_t g_t in the parameters' `grad` and discard the tasks' gradients.

        Args:
            weights: Weights `[T]`, in the order of `tasks`.
        """
        factors = weights.tolist()
        for parameter, *gradients in zip(self._parameters, *self._gradients.values(), strict=True):
            used = [pair for pair in zip(gradients, factors, strict=True) if pair[0] is not None]
            if not used:
                continue
            (total, factor), *others = used
            if others:
                _local(total).mul_(factor)
            for gradient, factor in others:
                _local(total).add_(_local(gradient), alpha=factor)
            parameter.grad = total
        self._gradients.clear()


_Groups = tuple[distributed.ProcessGroup, ...]


def _local(gradient: Tensor) -> Tensor:
    """Return this process's shard of a gradient, or a gradient that is not sharded."""
    return gradient.to_local() if isinstance(gradient, DTensor) else gradient


def _sharding_groups(gradient: Tensor) -> _Groups:
    """Return the groups of processes over which a gradient is sharded."""
    if not isinstance(gradient, DTensor):
        return ()
    mesh = gradient.device_mesh
    return tuple(
        mesh.get_group(dim) for dim, placement in enumerate(gradient.placements) if placement.is_shard()
    )


def _chunks(gradient: Tensor) -> Sequence[Tensor]:
    """Return a gradient, or this process's shard of it, as vectors of float32 or better, in small chunks on the CPU."""
    flat = _local(gradient).reshape(-1)
    parts = flat.split(_CHUNK) if flat.device.type == "cpu" else (flat,)
    return [part.to(torch.promote_types(part.dtype, torch.float32)) for part in parts]


def average_over_processes(gradients: Sequence[Tensor], bucket_bytes: int = BUCKET_BYTES) -> None:
    """Average tensors over the processes of torch.distributed, in place; with a single process they are unchanged.

    Tensors are reduced in buckets, as in DDP: a model has hundreds of small ones, and each reduction costs a round
    trip. While one bucket is on its way the next is filled.

    Args:
        gradients: Dense tensors, the same on all processes in number, shape and order.
        bucket_bytes: Size of a bucket; a larger tensor is a bucket of its own.
    """
    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        return
    on_their_way: deque[tuple[list[Tensor], Tensor, Any]] = deque()
    for bucket in buckets(gradients, bucket_bytes):
        flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
        on_their_way.append((bucket, flat, distributed.all_reduce(flat, async_op=True)))
        if len(on_their_way) > 2:
            _take_average(*on_their_way.popleft())
    while on_their_way:
        _take_average(*on_their_way.popleft())


def buckets(tensors: Iterable[Tensor], size: int) -> Iterator[list[Tensor]]:
    """Yield tensors in groups of one type and device, of at most `size` bytes each unless a single one is larger."""
    open_buckets: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for tensor in tensors:
        bucket = open_buckets.setdefault((tensor.dtype, tensor.device), [])
        if bucket and sum(each.nbytes for each in bucket) + tensor.nbytes > size:
            yield open_buckets.pop((tensor.dtype, tensor.device))
            bucket = open_buckets.setdefault((tensor.dtype, tensor.device), [])
        bucket.append(tensor)
    yield from open_buckets.values()


def _take_average(bucket: list[Tensor], flat: Tensor, work: Any) -> None:
    work.wait()
    flat.div_(distributed.get_world_size())
    for tensor, average in zip(bucket, flat.split([each.numel() for each in bucket]), strict=True):
        tensor.copy_(average.view_as(tensor))
