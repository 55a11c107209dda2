"""Statistics of the conflicts between the gradients of tasks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor


def cosines(gramian: Tensor) -> Tensor:
    """Return the cosines between the tasks' gradients, `[T, T]`, from their inner products.

    Cosines with a zero gradient are 0.
    """
    norms = gramian.diagonal().sqrt()
    products = norms[:, None] * norms
    return torch.where(products > 0, gramian / products, 0)


class ConflictStatistics:
    """Accumulator of gradient conflicts over the steps between two logs.

    Args:
        state: State returned by another instance, to continue from.
    """

    def __init__(self, state: dict[str, Any] | None = None) -> None:
        state = state or {"cosines": [], "any": []}
        self._cosines: dict[tuple[str, str], list[float]] = {
            (first, second): list(values) for first, second, values in state["cosines"]
        }
        self._any: list[bool] = list(state["any"])

    def state(self) -> dict[str, Any]:
        """Return the accumulated statistics as JSON."""
        cosines = [[first, second, list(values)] for (first, second), values in self._cosines.items()]
        return {"cosines": cosines, "any": list(self._any)}

    def update(self, tasks: Sequence[str], gramian: Tensor) -> None:
        """Count a step with the Gram matrix `[T, T]` of the gradients of `tasks`."""
        angles = cosines(gramian)
        found = {(tasks[i], tasks[j]): angles[i, j].item() for i, j in combinations(range(len(tasks)), 2)}
        for (first, second), cosine in found.items():
            self._cosines.setdefault((min(first, second), max(first, second)), []).append(cosine)
        self._any.append(any(cosine < 0 for cosine in found.values()))

    def logs(self) -> dict[str, float]:
        """Return the values to log and reset the statistics; empty if no step was counted.

        Returns:
            `cosine_<task>_<task>`: the mean over the steps in which both were trained. `conflict_<task>_<task>`: the
                share of these steps in which it was negative. `conflict`: the share of steps with any such pair.
        """
        logs = {}
        for (first, second), values in sorted(self._cosines.items()):
            logs[f"cosine_{first}_{second}"] = sum(values) / len(values)
            logs[f"conflict_{first}_{second}"] = sum(value < 0 for value in values) / len(values)
        if self._any:
            logs["conflict"] = sum(self._any) / len(self._any)
        self._cosines.clear()
        self._any.clear()
        return logs
