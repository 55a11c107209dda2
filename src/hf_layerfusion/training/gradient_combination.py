"""A Trainer that combines the gradients of tasks instead of adding them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_layerfusion.gradient_surgery.conflicts import ConflictStatistics
from hf_layerfusion.gradient_surgery.gramian import TaskGradients
from hf_layerfusion.gradient_surgery.registry import task_weights
from hf_layerfusion.training.collators import TASKS
from hf_layerfusion.training.loss_terms import RegularizedTraining
from hf_layerfusion.training.loss_weighting import SHARES
from hf_layerfusion.training.samplers import seeded_generator
from hf_layerfusion.training.task_data import TASK
from hf_layerfusion.training.training_arguments import LayerFusionTrainingArguments


class SurgicalTraining(RegularizedTraining):
    """With `gradient_surgery`, takes each task's gradient by itself, and steps along what the rule makes of them.

    A step has one forward and backward for each task, over all its micro-batches and processes; the rule sees the
    gradients of the whole step.
    """

    def __init__(
        self,
        model: PreTrainedModel | nn.Module | None = None,
        args: LayerFusionTrainingArguments | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(model, args, **kwargs)
        self._gradients: TaskGradients | None = None
        self._conflicts = ConflictStatistics()
        self._diverged: list[str] = []

    def reset(self) -> None:
        """As `MultitaskTraining.reset`; the gradients' parameters may be another model's now."""
        super().reset()
        self._gradients = None
        self._conflicts = ConflictStatistics()

    def log_state(self) -> dict[str, Any]:
        """Return `RegularizedTraining.log_state` with the conflicts."""
        return super().log_state() | {"conflicts": self._conflicts.state()}

    def load_log_state(self, state: dict[str, Any]) -> None:
        """Take up what `log_state` returned."""
        super().load_log_state(state)
        self._conflicts = ConflictStatistics(state["conflicts"])

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """As the stock method; with surgery, a backward for each task, and at the step's last micro-batch the combined
        gradient in the parameters' `grad`."""
        if self.args.gradient_surgery is None:
            return super().training_step(model, inputs, num_items_in_batch)
        model.train()
        if self._gradients is None:
            self._gradients = TaskGradients(self.accelerator.unwrap_model(model).parameters())
        inputs = self._prepare_inputs(inputs)
        shares, total = inputs[SHARES], torch.zeros((), device=self.args.device)
        divisor = len(inputs[TASKS]) if self.args.task_loss == "mean" else 1
        for task, batch in inputs[TASKS].items():
            one = {TASK: task, **batch, SHARES: {task: shares[task]}}
            # The processes' gradients are averaged task by task below, before they are compared.
            with self._gradients.of(task), self.accelerator.no_sync(model):
                with self.compute_loss_context_manager():
                    loss = self.step_losses(model, one)[0][task] / divisor
                self.accelerator.backward(loss)
            total += loss.detach()
        if self.accelerator.sync_gradients:
            self._combine(self._gradients)
        return total

    def _combine(self, gradients: TaskGradients) -> None:
        gradients.reduce()
        gramian = gradients.gramian()
        squares = gramian.diagonal()
        self._diverged = [task for task, x in zip(gradients.tasks, squares, strict=True) if not x.isfinite()]
        if not gramian.isfinite().all():
            # No rule knows what to make of it: the sum carries it on to where it stops the run or skips the step.
            gradients.combine(torch.ones(len(squares)))
            return
        self._conflicts.update(gradients.tasks, gramian)
        generator = seeded_generator(self.args.seed, self.state.global_step)
        gradients.combine(task_weights(str(self.args.gradient_surgery), gramian, generator))

    def diverged_tasks(self) -> list[str]:
        """As `MultitaskTraining.diverged_tasks`; else the tasks whose gradient was not finite in this step."""
        return super().diverged_tasks() or self._diverged

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As the stock method; adds the cosines between the tasks' gradients, and how often they were in conflict."""
        if "learning_rate" in logs:
            logs |= self._conflicts.logs()
        super().log(logs, start_time)
