"""The log of a resumed run, which continues that of its checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import has_length

from hf_layerfusion.training.log_aggregation import TrainingLog


class ResumedLog(TrainerCallback):
    """Continues the log of a checkpoint, and does what was due at its epoch's end when it was saved before that.

    The stock Trainer logs means over the steps since the checkpoint, leaves out an evaluation that was due, and takes a
    step more where `max_steps` ends within an epoch.

    Args:
        training_log: The log.
        load: Loads from the checkpoint what else the Trainer has saved there.
        end_epoch: Logs, evaluates and saves as is due at the end of an epoch.
    """

    def __init__(
        self, training_log: TrainingLog, load: Callable[[Path], None], end_epoch: Callable[[], None]
    ) -> None:
        self.training_log, self.load, self.end_epoch = training_log, load, end_epoch
        self.begin(None)

    def begin(self, checkpoint: str | None) -> None:
        """Prepare for a training that resumes from a checkpoint, or from none."""
        self.checkpoint = checkpoint
        self._is_within_epoch = False  # when the checkpoint was saved
        self._steps_per_epoch: int | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Load the log. A run that was over takes no further step."""
        if self.checkpoint is None:
            return
        saved = self.training_log.load(self.checkpoint)
        self.load(Path(self.checkpoint))
        self._is_within_epoch = saved is not None and not saved["epoch_is_over"]
        batches = kwargs["train_dataloader"]
        if has_length(batches):
            self._steps_per_epoch = max(math.ceil(len(batches) / args.gradient_accumulation_steps), 1)
        if state.global_step >= state.max_steps:
            # The stock Trainer may have no epoch left to run.
            control.should_training_stop = True
            self.finish_epoch(state, control)

    def finish_epoch(self, state: TrainerState, control: TrainerControl) -> None:
        """Do what was due at the end of the checkpoint's last epoch, once, if that epoch is over."""
        is_within, self._is_within_epoch = self._is_within_epoch, False
        is_at_its_end = self._steps_per_epoch is not None and state.global_step % self._steps_per_epoch == 0
        if is_within and (control.should_training_stop or is_at_its_end):
            self.end_epoch()
