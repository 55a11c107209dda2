"""The gradients of several tasks: gathered one by one, compared by their inner products, combined into one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import combinations_with_replacement

import torch
from torch import Tensor, distributed, nn

from hf_layerfusion.errors import UserError

# Values of a gradient that are compared at a time: those of all tasks together stay in a processor's cache.
_CHUNK = 1 << 14


class TaskGradients:
    """Holds each task's gradient of one optimizer step, T gradients in all.

    For each task, in each micro-batch, run its backward inside `of(task)`; several micro-batches add up. Then
    `gramian` says how the tasks' gradients lie to each other, and `combine` leaves the weighted sum in the parameters'
    `grad`, where clipping and the optimizer find it.

    The tasks compete for the parameters that at least two of them use, and only these are compared and weighted.
    A parameter that only one task uses keeps that task's gradient.

    Args:
        parameters: the model's. Which of them are trained may change from step to step. Their `grad` must be empty
            when a step begins.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self._parameters = [*parameters]
        self._gradients: dict[str, list[Tensor | None]] = {}

    @property
    def tasks(self) -> list[str]:
        """The tasks that have a gradient, in the order in which they first came."""
        return list(self._gradients)

    @contextmanager
    def of(self, task: str) -> Iterator[None]:
        """What is added to the parameters' `grad` inside the block is added to this task's gradient.

        Under DDP the backward must run inside `no_sync`; `reduce` then averages over the processes.

        Raises:
            UserError: sparse gradients.
        """
        # The backward adds to what the task has from earlier micro-batches: no second copy of it is made.
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
        """Averages each task's gradient over the processes, in place. All processes must have the same tasks.

        Args:
            average: does so with the tensors that it is given; `average_over_processes` by default.
        """
        for gradients in self._gradients.values():
            (average or average_over_processes)([each for each in gradients if each is not None])

    def gramian(self) -> Tensor:
        """The inner products of the tasks' gradients over the parameters that at least two tasks use: `[T, T]`, in
        float64 on the CPU, in the order of `tasks`."""
        size = len(self._gradients)
        pairs = list(combinations_with_replacement(range(size), 2))
        products: dict[torch.device, list[Tensor]] = {}
        for gradients in zip(*self._gradients.values(), strict=True):
            used = {task: each for task, each in enumerate(gradients) if each is not None}
            if len(used) < 2:
                continue
            device = next(iter(used.values())).device
            for chunks in zip(*map(_chunks, used.values()), strict=True):
                parts = dict(zip(used, chunks, strict=True))
                zero = chunks[0].new_zeros(())
                found = [
                    torch.dot(parts[i], parts[j]) if i in parts and j in parts else zero for i, j in pairs
                ]
                products.setdefault(device, []).append(torch.stack(found))
        gramian = torch.zeros(size, size, dtype=torch.float64)
        rows, columns = torch.tensor(pairs).reshape(-1, 2).unbind(dim=1)
        for parts_of_device in products.values():
            # Summed in float64 on the CPU, as not every device knows it (Apple's MPS).
            gramian[rows, columns] += torch.stack(parts_of_device).cpu().double().sum(dim=0)
        return gramian + gramian.triu(1).T

    def combine(self, weights: Tensor) -> None:
        """Leaves Σ w_t g_t in the parameters' `grad`, and forgets the tasks' gradients.

        Args:
            weights: `[T]`, in the order of `tasks`.
        """
        factors = weights.tolist()
        for parameter, *gradients in zip(self._parameters, *self._gradients.values(), strict=True):
            used = [pair for pair in zip(gradients, factors, strict=True) if pair[0] is not None]
            if not used:
                continue
            (total, factor), *others = used
            if others:
                total.mul_(factor)
            for gradient, factor in others:
                total.add_(gradient, alpha=factor)
            parameter.grad = total
        self._gradients.clear()


def _chunks(gradient: Tensor) -> Sequence[Tensor]:
    """A gradient as vectors of float32 or better, small ones on the CPU."""
    flat = gradient.reshape(-1)
    parts = flat.split(_CHUNK) if flat.device.type == "cpu" else (flat,)
    return [part.to(torch.promote_types(part.dtype, torch.float32)) for part in parts]


def average_over_processes(gradients: Sequence[Tensor]) -> None:
    """Averages tensors over the processes of torch.distributed, in place; of a single process they are the average."""
    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        return
    works = [distributed.all_reduce(gradient, async_op=True) for gradient in gradients]
    for gradient, work in zip(gradients, works, strict=True):
        work.wait()
        gradient.div_(distributed.get_world_size())
