"""A Trainer whose log, and last step, are the same whether it was interrupted or not."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_pt_utils import nested_gather
from transformers.trainer_utils import TrainOutput

from hf_layerfusion.training.training_arguments import LayerFusionTrainingArguments

LOG_STATE_NAME = "log_state.json"


class _EpochEnds(TrainerCallback):
    """Knows whether the epoch of the last step has ended."""

    def __init__(self) -> None:
        self.is_over = False

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.is_over = False

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.is_over = True


class LogKeepingTrainer(Trainer):
    """The stock Trainer, but a resumed run

    - logs means over all steps since the last entry of the log, and a `train_loss` of all steps of the run (stock: of
      those since the checkpoint);
    - does what was due at the end of an epoch whose last step's checkpoint was saved before that: an entry of the log,
      an evaluation (stock: left out);
    - takes no step after its last one (stock: one or more where `max_steps` ends within an epoch).

    What a subclass adds up for the log it gives to `log_state` and takes back in `load_log_state`.
    """

    args: LayerFusionTrainingArguments
    control: TrainerControl
    _tr_loss: Tensor
    _total_loss_scalar: float
    _globalstep_last_logged: int
    _initial_global_step: int

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._epoch_ends = _EpochEnds()
        self.add_callback(self._epoch_ends)
        self._saved_log: dict[str, Any] | None = None
        self._steps_before = 0
        self._last_grad_norm: float | None = None
        self._last_learning_rate: float | None = None

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """Train, as `Trainer.train` does."""
        self._saved_log, self._steps_before = None, 0
        self._epoch_ends.is_over = False
        return super().train(*args, **kwargs)

    def log_state(self) -> dict[str, Any]:
        """Return what has been added up for the log, as JSON. Called on every process, at the same step."""
        return {
            "loss": nested_gather(self._tr_loss, self.args.parallel_mode).mean().item(),
            "logged_loss": self._total_loss_scalar,
            "last_logged": self._globalstep_last_logged,
            "epoch_is_over": self._epoch_ends.is_over,
            "grad_norm": self._last_grad_norm,
            "learning_rate": self._last_learning_rate,
        }

    def load_log_state(self, state: dict[str, Any]) -> None:
        """Take up what `log_state` returned."""
        self._tr_loss = torch.tensor(state["loss"], dtype=self._tr_loss.dtype, device=self._tr_loss.device)
        self._total_loss_scalar = state["logged_loss"]
        self._globalstep_last_logged = state["last_logged"]
        self._last_grad_norm, self._last_learning_rate = state["grad_norm"], state["learning_rate"]
        self._steps_before = self.state.global_step

    # What the stock methods call

    def _get_grad_norm(self, model: nn.Module, grad_norm: Tensor | float | None = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm)
        self._last_grad_norm = None if norm is None else float(norm)
        return norm

    def _get_learning_rate(self) -> float:
        self._last_learning_rate = super()._get_learning_rate()
        return self._last_learning_rate

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        state = self.log_state()
        if self.args.should_save:
            (Path(output_dir) / LOG_STATE_NAME).write_text(json.dumps(state) + "\n", encoding="utf-8")

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        path = None if checkpoint is None else Path(checkpoint) / LOG_STATE_NAME
        if path is not None and path.exists():  # a checkpoint of an earlier version has none
            self._saved_log = json.loads(path.read_text(encoding="utf-8"))

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        is_at_end = self.state.global_step >= self.state.max_steps
        per_epoch = kwargs["num_update_steps_per_epoch"]
        at_boundary = self.state.global_step % per_epoch == 0
        self._take_up(
            at_boundary or is_at_end or self.control.should_training_stop,
            kwargs["model"],
            kwargs["trial"],
            kwargs["ignore_keys_for_eval"],
            kwargs["start_time"],
        )
        if is_at_end:
            self.control.should_training_stop = True
        if not self.control.should_training_stop:
            super()._run_epoch(*args, **kwargs)

    def _finalize_training(self, trial: Any, num_train_samples: float, start_time: float) -> TrainOutput:
        self._take_up(True, self.model_wrapped, trial, None, start_time)
        of_this_part = self._initial_global_step
        if self._steps_before:
            self._initial_global_step = 0  # the mean loss is that of all steps
        try:
            return super()._finalize_training(trial, num_train_samples, start_time)
        finally:
            self._initial_global_step = of_this_part

    def _take_up(
        self, epoch_ends: bool, model: nn.Module, trial: Any, ignore_keys: list[str] | None, start_time: float
    ) -> None:
        """Once after resuming: take up the log, and end the epoch if that was due when the checkpoint was saved."""
        saved, self._saved_log = self._saved_log, None
        if saved is None:
            return
        self.load_log_state(saved)
        if saved["epoch_is_over"] or not epoch_ends:
            return
        stops = self.control.should_training_stop
        self.control.should_log = self.control.should_evaluate = self.control.should_save = False
        self.control = self.callback_handler.on_epoch_end(self.args, self.state, self.control)
        self._maybe_log_save_evaluate(
            self._tr_loss,
            self._last_grad_norm,
            model,
            trial,
            math.ceil(self.state.epoch or 0),
            ignore_keys,
            start_time,
            learning_rate=self._last_learning_rate,
        )
        self.control.should_training_stop |= stops

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, as `Trainer.log` does; speeds are those of the part that was run."""
        if self._steps_before and "train_loss" in logs:
            share = 1 - self._steps_before / max(self.state.global_step, 1)
            for name in ("train_samples_per_second", "train_steps_per_second"):
                if name in logs:
                    logs[name] *= share
        super().log(logs, start_time)
