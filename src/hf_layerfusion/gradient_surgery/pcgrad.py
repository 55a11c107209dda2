"""PCGrad: projection of a task's gradient onto the normal plane of each conflicting gradient."""

from __future__ import annotations

import torch
from torch import Generator, Tensor


def pcgrad(gramian: Tensor, generator: Generator) -> Tensor:
    """Return the weights of projecting conflicting gradients (Yu et al. 2020, Algorithm 1), from the Gram matrix alone.

    Every projection of task i's gradient is a combination Σ_k c_k g_k of the tasks' gradients, whose product with g_j
    is Σ_k c_k G_kj. The gradients themselves are not needed.

    Args:
        gramian: Inner products of the tasks' gradients, `[T, T]`.
        generator: Generator that draws the order of the other tasks for each task.

    Returns:
        Weights `[T]`: the sum of the projected gradients is Σ_t w_t g_t.
    """
    tasks = len(gramian)
    combinations = torch.eye(tasks, dtype=gramian.dtype)
    for task, combination in enumerate(combinations):
        for other in torch.randperm(tasks, generator=generator).tolist():
            product = combination @ gramian[other]
            if other != task and product < 0:
                combination[other] -= product / gramian[other, other]
    return combinations.sum(dim=0)
