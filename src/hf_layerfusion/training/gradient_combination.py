"""Gradients of tasks that are combined by a rule instead of being added up."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from hf_layerfusion.gradient_surgery.conflicts import ConflictStatistics
from hf_layerfusion.gradient_surgery.gramian import TaskGradients
from hf_layerfusion.gradient_surgery.registry import task_weights
from hf_layerfusion.training.collators import TASKS
from hf_layerfusion.training.log_aggregation import Logs, LogSource
from hf_layerfusion.training.loss_weighting import SHARES
from hf_layerfusion.training.samplers import seeded_generator
from hf_layerfusion.training.task_data import TASK


class GradientSurgery(LogSource):
    """Takes each task's gradient by itself, and leaves in the parameters' `grad` what a rule makes of them.

    A step has one forward and one backward for each task, over all its micro-batches and processes; the rule sees the
    gradients of the whole step. Logs the cosines between the tasks' gradients, and how often they conflict.

    Args:
        rule: A name in `AGGREGATORS`.
        seed: The seed of rules that draw.
        step_losses: Returns the loss of each task of a micro-batch as it enters the sum of the step.
        averages: Whether the losses of a step's tasks are averaged instead of added up.
    """

    def __init__(
        self,
        rule: str,
        seed: int,
        step_losses: Callable[[nn.Module, dict[str, Any]], dict[str, Tensor]],
        averages: bool = False,
    ) -> None:
        self.rule, self.seed, self.step_losses, self.averages = rule, seed, step_losses, averages
        self.diverged: list[str] = []
        """Tasks whose gradient was not finite in the last step."""
        self.reset()

    def reset(self) -> None:
        """Start over, with another model's parameters."""
        self._gradients: TaskGradients | None = None
        self._conflicts = ConflictStatistics()

    def backward(
        self, model: nn.Module, batch: dict[str, Any], accelerator: Accelerator, step: int
    ) -> Tensor:
        """Run the backward passes of a micro-batch; at the last one of a step, combine the gradients.

        Args:
            model: The model, wrapped or not.
            batch: A micro-batch of several tasks.
            accelerator: Runs the backward.
            step: Number of the optimizer step.

        Returns:
            The sum of the losses, detached.
        """
        if self._gradients is None:
            self._gradients = TaskGradients(accelerator.unwrap_model(model).parameters())
        total: Tensor = torch.zeros((), device=accelerator.device)
        divisor = len(batch[TASKS]) if self.averages else 1
        for task, of_task in batch[TASKS].items():
            one = {TASK: task, **of_task, SHARES: {task: batch[SHARES][task]}}
            with self._gradients.of(task), _task_by_task(accelerator, model):
                loss = self.step_losses(model, one)[task] / divisor
                accelerator.backward(loss)
            total = total + loss.detach()
        if accelerator.sync_gradients:
            self._combine(self._gradients, step)
        return total

    def _combine(self, gradients: TaskGradients, step: int) -> None:
        gradients.reduce()
        gramian = gradients.gramian()
        squares = gramian.diagonal()
        self.diverged = [task for task, x in zip(gradients.tasks, squares, strict=True) if not x.isfinite()]
        if not gramian.isfinite().all():
            # No rule can handle it: the sum carries it on to where it stops the run or skips the step.
            gradients.combine(torch.ones(len(squares)))
            return
        self._conflicts.update(gradients.tasks, gramian)
        gradients.combine(task_weights(self.rule, gramian, seeded_generator(self.seed, step)))

    def add_to(self, logs: Logs, is_step: bool) -> None:
        """Add the cosines and the share of conflicts since the last entry."""
        if is_step:
            logs |= self._conflicts.logs()

    def log_state(self) -> dict[str, Any]:
        """Return the conflicts since the last entry."""
        return {"conflicts": self._conflicts.state()}

    def load_log_state(self, state: dict[str, Any]) -> None:
        """Continue from `state`, also that of a run that added the gradients up."""
        self._conflicts = ConflictStatistics(state.get("conflicts"))


def _task_by_task(accelerator: Accelerator, model: nn.Module) -> AbstractContextManager[None]:
    """Return a context in which a backward pass leaves the gradient of its task alone in the parameters' `grad`.

    Under DDP, gradients of the processes are averaged later, in few buckets. FSDP2 would keep them whole and out of
    sight until then, so each backward pass shards and averages its own, also in a step's earlier micro-batches, which
    the stock Trainer runs without.
    """
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(True)
        return nullcontext()
    return cast(AbstractContextManager[None], accelerator.no_sync(model))
