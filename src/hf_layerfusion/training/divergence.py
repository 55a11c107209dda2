"""A Trainer whose weights no loss or gradient reaches that is not finite: the run stops, or skips the step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import TrainOutput
from transformers.utils import logging

from hf_layerfusion.errors import UserError
from hf_layerfusion.training.gradient_combination import SurgicalTraining
from hf_layerfusion.training.training_arguments import LayerFusionTrainingArguments

logger = logging.get_logger(__name__)


class SkippedSteps(TrainerCallback, ExportableState):
    """Counts the steps that were not taken, and ends a run that diverged in every step of an epoch. The count lies in
    `trainer_state.json`, and a resumed run goes on with it."""

    def __init__(self) -> None:
        self.total = 0
        self.steps_of_epoch = 0
        self.diverged_in_epoch = 0

    def count(self, is_taken: bool, has_diverged: bool) -> None:
        """Counts a step. One that an fp16 scaler skips, as it looks for its scale, has not diverged."""
        self.total += not is_taken
        self.steps_of_epoch += 1
        self.diverged_in_epoch += has_diverged

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"args": {}, "attributes": dict(vars(self))}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Finds a place in the state, also in that of a checkpoint which knew of no counting."""
        state.stateful_callbacks[type(self).__name__] = self.state()

    on_step_end = on_train_begin

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Raises `UserError` if the epoch had steps, and all were skipped."""
        steps, diverged = self.steps_of_epoch, self.diverged_in_epoch
        self.steps_of_epoch = self.diverged_in_epoch = 0
        if steps and diverged == steps:
            raise UserError(
                f"every step of the epoch that ended at step {state.global_step} was skipped, as losses or gradients "
                f"were not finite (learning_rate={args.learning_rate}); lower it, and look for labels that are not "
                "finite"
            )


class GuardedTraining(SurgicalTraining):
    """A loss or gradient that is not finite never reaches the weights.

    By `on_divergence`, the run stops, or the step is skipped on all processes: weights, the optimizer's state and the
    schedule stay as they were, its losses are in no mean of the log, and `skipped_steps` counts it.
    """

    args: LayerFusionTrainingArguments

    def __init__(
        self,
        model: PreTrainedModel | nn.Module | None = None,
        args: LayerFusionTrainingArguments | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(model, args, **kwargs)
        self.add_callback(SkippedSteps())
        self._losses_are_finite = torch.ones((), dtype=torch.bool, device=self.args.device)
        self._is_taken = True
        self._take_back: Callable[[], None] = lambda: None
        # Steps, and those whose loss was left out: since the last entry of the log, and in all.
        self._steps, self._left_out = [0, 0], [0, 0]

    @property
    def skipped_steps(self) -> int:
        """Optimizer steps of the run that were not taken, an fp16 scaler's among them."""
        return self._counter.total

    @property
    def _counter(self) -> SkippedSteps:
        # Not kept: a resumed run puts another in its place.
        return next(each for each in self.callback_handler.callbacks if isinstance(each, SkippedSteps))

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """As the stock method."""
        self._losses_are_finite.fill_(True)
        self._steps, self._left_out = [0, 0], [0, 0]
        self.remove_callback(SkippedSteps)
        self.add_callback(SkippedSteps())
        output = super().train(*args, **kwargs)
        return output._replace(training_loss=output.metrics.get("train_loss", output.training_loss))

    def log_state(self) -> dict[str, Any]:
        """Return `SurgicalTraining.log_state` with the steps that were left out."""
        return super().log_state() | {"steps": self._steps, "left_out": self._left_out}

    def load_log_state(self, state: dict[str, Any]) -> None:
        """Take up what `log_state` returned."""
        super().load_log_state(state)
        self._steps, self._left_out = list(state["steps"]), list(state["left_out"])

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor | int | None]:
        """As the stock method; a step begins."""
        if self.args.on_divergence == "skip":
            total, rollback = self._tr_loss.clone(), self.keep_losses()

            def begin_again() -> None:
                self._tr_loss.copy_(total)
                rollback()

            self._take_back = begin_again
        return super().get_batch_samples(epoch_iterator, num_batches, device)

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """As `SurgicalTraining.training_step`; remembers whether the loss was finite, without waiting for it."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._losses_are_finite &= torch.isfinite(loss)
        return loss

    def _get_grad_norm(self, model: nn.Module, grad_norm: Tensor | float | None = None) -> Tensor | float:
        # The last call before the optimizer's step: the weights are still those of the step before.
        norm = super()._get_grad_norm(model, grad_norm)
        losses_are_finite = bool(self.accelerator.gather(self._losses_are_finite.int()).all())
        self._is_taken = losses_are_finite and math.isfinite(norm)
        # An fp16 scaler skips steps whose gradients overflow by itself, and goes on.
        by_scaler = losses_are_finite and self.accelerator.scaler is not None
        has_diverged = not self._is_taken and not by_scaler
        if has_diverged:
            self._skip_or_stop(model, "gradient" if losses_are_finite else "training loss")
        self._losses_are_finite.fill_(True)
        self._steps = [count + 1 for count in self._steps]
        self._left_out = [count + has_diverged for count in self._left_out]
        self._counter.count(self._is_taken, has_diverged)
        return norm

    def _get_learning_rate(self) -> float:
        # Called between the optimizer's step and the scheduler's, which is not made where accelerate says that the
        # optimizer's was skipped. It knows only of scalers, and not of those of fused optimizers.
        self.optimizer._is_overflow = not self._is_taken
        return super()._get_learning_rate()

    def _skip_or_stop(self, model: nn.Module, what: str) -> None:
        tasks = sorted(set(gather_object(self.diverged_tasks())))
        what += f" of {', '.join(tasks)}" if tasks else ""
        what += f" is not finite at step {self.state.global_step + 1} (epoch {self.state.epoch or 0:.2f}, "
        what += f"learning_rate={self.args.learning_rate})"
        if self.args.on_divergence == "stop":
            raise UserError(
                f"{what}; the step was not taken and the checkpoints in {self.args.output_dir} hold finite weights: "
                "resume with a lower learning_rate, look for labels that are not finite, or set on_divergence=skip"
            )
        logger.warning(f"{what}; the step is skipped")
        self._take_back()
        # Without gradients the optimizer's step does nothing.
        model.zero_grad(set_to_none=True)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As the stock method; a mean loss is that of the steps that it was not left out of, not a number where there
        was none. Adds `skipped_steps`, the number so far, where steps may be skipped or were."""
        for name, place in (("loss", 0), ("train_loss", 1)):
            if self._left_out[place] and name in logs:
                counted = self._steps[place] - self._left_out[place]
                logs[name] = logs[name] * self._steps[place] / counted if counted else math.nan
        if "learning_rate" in logs:
            self._steps[0] = self._left_out[0] = 0
            if self.args.on_divergence == "skip" or self.skipped_steps:
                logs["skipped_steps"] = self.skipped_steps
        super().log(logs, start_time)
