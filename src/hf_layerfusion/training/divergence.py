"""Keeps losses and gradients that are not finite away from the weights: the run stops, or skips the step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState
from transformers.utils import logging

from hf_layerfusion.errors import UserError
from hf_layerfusion.training.log_aggregation import Logs, LogSource
from hf_layerfusion.training.stock_trainer import mark_skipped
from hf_layerfusion.training.training_arguments import LayerFusionTrainingArguments

logger = logging.get_logger(__name__)


class SkippedSteps(TrainerCallback, ExportableState):
    """Counts skipped optimizer steps, and ends a run that diverged in every step of an epoch.

    The count is part of `trainer_state.json`, and a resumed run continues it.
    """

    def __init__(self) -> None:
        self.total = 0
        self.steps_of_epoch = 0
        self.diverged_in_epoch = 0

    def count(self, is_taken: bool, has_diverged: bool) -> None:
        """Count a step. One that an fp16 scaler skips while it looks for its scale has not diverged."""
        self.total += not is_taken
        self.steps_of_epoch += 1
        self.diverged_in_epoch += has_diverged

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"args": {}, "attributes": dict(vars(self))}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Register the counter in `TrainerState`, including for checkpoints written before it existed."""
        if state.global_step == 0:  # after an attempt that was given up, too
            self.total = self.steps_of_epoch = self.diverged_in_epoch = 0
        self.on_step_end(args, state, control, **kwargs)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Keep the counter in `TrainerState`."""
        state.stateful_callbacks[type(self).__name__] = self.state()

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Raise `UserError` if the epoch had steps and all of them were skipped."""
        steps, diverged = self.steps_of_epoch, self.diverged_in_epoch
        self.steps_of_epoch = self.diverged_in_epoch = 0
        if steps and diverged == steps:
            raise UserError(
                f"every step of the epoch that ended at step {state.global_step} was skipped, as losses or gradients "
                f"were not finite (learning_rate={args.learning_rate}); lower it, and look for labels that are not "
                "finite"
            )


class DivergenceGuard(TrainerCallback, LogSource):
    """Stops a run, or skips a step, whose loss or gradient is not finite.

    With `on_divergence="skip"` the step is skipped on all processes: weights, optimizer state and schedule stay as they
    were, its losses are in no mean of the log, and it is counted as skipped. Losses are observed without waiting for
    the device; the decision falls once a step, before the optimizer's.

    Args:
        args: `on_divergence`, and what messages name.
        accelerator: Gathers over the processes, and holds the gradient scaler, if there is one.
        counter: Returns the counter of skipped steps; a resumed run replaces it.
        snapshot: Returns a function that takes back what the log sums up from then on.
        diverged_tasks: Returns the tasks of the step whose loss or gradient was not finite, where that is known.
    """

    def __init__(
        self,
        args: LayerFusionTrainingArguments,
        accelerator: Callable[[], Accelerator],
        counter: Callable[[], SkippedSteps],
        snapshot: Callable[[], Callable[[], None]],
        diverged_tasks: Callable[[], Iterable[str]],
    ) -> None:
        self.args, self.accelerator, self.counter = args, accelerator, counter
        self.snapshot_log, self.diverged_tasks = snapshot, diverged_tasks
        self.reset()

    def reset(self) -> None:
        """Forget earlier steps."""
        self.grad_norm: Tensor | float | None = None
        self._losses_are_finite = torch.ones((), dtype=torch.bool, device=self.args.device)
        self._is_taken = True
        self._rollback: Callable[[], None] = lambda: None
        # Steps, and those whose loss was left out: since the last entry of the log, and in all.
        self._steps, self._left_out = [0, 0], [0, 0]

    def begin_step(self) -> None:
        """Remember the log's sums, to which the step's losses will be added."""
        if self.args.on_divergence == "skip":
            self._rollback = self.snapshot_log()

    def observe(self, loss: Tensor) -> None:
        """Remember whether the loss of a micro-batch is finite, without waiting for its value."""
        self._losses_are_finite &= torch.isfinite(loss.detach()).all()

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Decide whether the step is taken.

        Raises:
            UserError: The loss or the gradient is not finite, with `on_divergence="stop"`.
        """
        accelerator = self.accelerator()
        losses_are_finite = bool(accelerator.gather(self._losses_are_finite.int()).all())
        self._is_taken = losses_are_finite and math.isfinite(self.grad_norm or 0.0)
        # An fp16 scaler skips steps whose gradients overflow by itself, and lowers its scale.
        by_scaler = losses_are_finite and accelerator.scaler is not None
        has_diverged = not self._is_taken and not by_scaler
        if has_diverged:
            self._skip_or_stop(state, "gradient" if losses_are_finite else "training loss")
            # Without gradients the optimizer's step does nothing.
            kwargs["model"].zero_grad(set_to_none=True)
        self._losses_are_finite.fill_(True)
        self._steps = [count + 1 for count in self._steps]
        self._left_out = [count + has_diverged for count in self._left_out]
        self.counter().count(self._is_taken, has_diverged)

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Let the scheduler wait for a step that was skipped."""
        mark_skipped(kwargs["optimizer"], not self._is_taken)

    def _skip_or_stop(self, state: TrainerState, what: str) -> None:
        tasks = sorted(set(gather_object(list(self.diverged_tasks()))))
        what += f" of {', '.join(tasks)}" if tasks else ""
        what += f" is not finite at step {state.global_step + 1} (epoch {state.epoch or 0:.2f}, "
        what += f"learning_rate={self.args.learning_rate})"
        if self.args.on_divergence == "stop":
            raise UserError(
                f"{what}; the step was not taken and the checkpoints in {self.args.output_dir} hold finite weights: "
                "resume with a lower learning_rate, look for labels that are not finite, or set on_divergence=skip"
            )
        logger.warning(f"{what}; the step is skipped")
        self._rollback()

    def add_to(self, logs: Logs, is_step: bool) -> None:
        """Leave skipped steps out of mean losses, which are not a number where all were skipped; add `skipped_steps`,
        the number so far, where steps may be skipped or were."""
        for name, place in (("loss", 0), ("train_loss", 1)):
            if self._left_out[place] and name in logs:
                counted = self._steps[place] - self._left_out[place]
                logs[name] = logs[name] * self._steps[place] / counted if counted else math.nan
        if is_step:
            self._steps[0] = self._left_out[0] = 0
            if self.args.on_divergence == "skip" or self.counter().total:
                logs["skipped_steps"] = self.counter().total

    def log_state(self) -> dict[str, Any]:
        """Return the number of steps, and of those left out."""
        return {"steps": self._steps, "left_out": self._left_out}

    def load_log_state(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self._steps, self._left_out = list(state["steps"]), list(state["left_out"])
