"""PCGrad: a task's gradient loses what points against another task's."""

from __future__ import annotations

import torch
from torch import Generator, Tensor


def pcgrad(gramian: Tensor, generator: Generator) -> Tensor:
    """Projecting conflicting gradients (Yu et al. 2020, Algorithm 1), on the Gram matrix.

    Every projection of task i's gradient leaves a combination Σ_k c_k g_k of the tasks' gradients, whose product with
    g_j is Σ_k c_k G_kj: no gradient has to be touched.

    Args:
        gramian: inner products of the tasks' gradients, `[T, T]`.
        generator: draws for each task the order of the others.

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
