"""The options of a run: those of `transformers.TrainingArguments`, and ours."""

from dataclasses import dataclass, field
from typing import Any

from transformers import TrainingArguments
from transformers.trainer_utils import IntervalStrategy, SchedulerType

from hf_layerfusion.errors import UserError


@dataclass
class LayerFusionTrainingArguments(TrainingArguments):
    """Every field of `TrainingArguments`, with its meaning, and the fields below.

    Two defaults differ: `logging_nan_inf_filter` is False, because a loss that is not finite stops the run;
    `restore_callback_states_from_checkpoint` is True, because a resumed run counts on towards early stopping.

    Raises:
        UserError: a value out of its range, or two options that exclude each other.
    """

    fusion_learning_rate: float | None = field(
        default=None,
        metadata={
            "help": "Initial learning rate of all that is not the pretrained encoder: fuser and head. "
            "Default: learning_rate."
        },
    )
    epoch_decay: float = field(
        default=1.0,
        metadata={
            "help": "Every learning rate is multiplied by this after each epoch (GRUBERT, section 2.3: 0.9). "
            "Below 1 it needs lr_scheduler_type=constant."
        },
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={
            "help": "Stop after this many evaluations in a row without a better metric_for_best_model. "
            "Needs load_best_model_at_end. Default: never."
        },
    )
    logging_nan_inf_filter: bool = field(
        default=False,
        metadata={"help": "Leave losses that are not finite out of the logged and the evaluation loss."},
    )
    restore_callback_states_from_checkpoint: bool = field(
        default=True,
        metadata={"help": "Resume with the callbacks' states, such as the count towards early stopping."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_rates()
        self._check_early_stopping()

    def _check_rates(self) -> None:
        rate = self.fusion_learning_rate
        if rate is not None and not 0 <= rate < float("inf"):
            raise UserError(
                f"fusion_learning_rate must be a finite number of 0 or more, found {rate}; "
                "leave it out to train fuser and head at learning_rate"
            )
        if not 0 < self.epoch_decay <= 1:
            raise UserError(
                f"epoch_decay must be above 0 and at most 1, found {self.epoch_decay}; "
                "1 keeps the rates, 0.9 takes a tenth off after each epoch"
            )
        if self.epoch_decay == 1:
            return
        if self.lr_scheduler_type != SchedulerType.CONSTANT:
            raise UserError(
                f"epoch_decay={self.epoch_decay} is a schedule of its own and excludes "
                f"lr_scheduler_type={SchedulerType(self.lr_scheduler_type).value}; "
                "set lr_scheduler_type=constant or epoch_decay=1"
            )
        if self.warmup_steps:
            raise UserError(
                f"epoch_decay={self.epoch_decay} has no warm-up, found warmup_steps={self.warmup_steps}; "
                "set warmup_steps=0 or epoch_decay=1"
            )

    def _check_early_stopping(self) -> None:
        patience = self.early_stopping_patience
        if patience is None:
            return
        if patience < 1:
            raise UserError(
                f"early_stopping_patience must be 1 or more, found {patience}; "
                "leave it out to train every epoch"
            )
        if not self.load_best_model_at_end or self.eval_strategy == IntervalStrategy.NO:
            raise UserError(
                f"early_stopping_patience={patience} needs evaluations and the best model at the end, found "
                f"eval_strategy={IntervalStrategy(self.eval_strategy).value} and "
                f"load_best_model_at_end={self.load_best_model_at_end}; "
                "set eval_strategy=epoch, save_strategy=epoch and load_best_model_at_end=True"
            )

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled, and so what `training_args.bin` holds: everything but the Hub's token."""
        return self.__dict__ | {"hub_token": None}
