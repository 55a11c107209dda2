"""The global batch of a run, which a resumed run must keep."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from transformers import TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import logging

from hf_layerfusion.errors import UserError
from hf_layerfusion.training.training_arguments import LayerFusionTrainingArguments

logger = logging.get_logger(__name__)

ARGUMENTS_NAME = "training_args.json"


class GlobalBatch(NamedTuple):
    """The rows of an optimizer step and how they are shared out.

    Attributes:
        rows: in a micro-batch of a process.
        accumulation: micro-batches of a process.
        processes: their number.
    """

    rows: int
    accumulation: int
    processes: int

    @property
    def size(self) -> int:
        """The rows of an optimizer step."""
        return self.rows * self.accumulation * self.processes

    def __str__(self) -> str:
        return f"{self.size} rows ({self.rows} x {self.accumulation} on {self.processes} processes)"


def global_batch(args: TrainingArguments) -> GlobalBatch:
    """Return the global batch of a run."""
    return GlobalBatch(args.train_batch_size, args.gradient_accumulation_steps, args.world_size)


def global_batch_of(checkpoint: Path) -> GlobalBatch | None:
    """Return the global batch that a checkpoint was trained with, or None if it does not say."""
    try:
        rows = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME)).train_batch_size
        options = json.loads((checkpoint / ARGUMENTS_NAME).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    # Each process leaves the state of its generators; a single one, in a file without a number.
    processes = len(list(checkpoint.glob("rng_state_*.pth"))) or 1
    return None if rows is None else GlobalBatch(rows, options["gradient_accumulation_steps"], processes)


def loss_depends_on_device_batch(args: LayerFusionTrainingArguments) -> bool:
    """Return whether the loss depends on which rows share a device, as SMART's sum over the texts of a pass does."""
    return any(settings.get("mode") == "smart-pytorch" for settings in args.named_regularizers.values())


def check_global_batch(checkpoint: Path, args: TrainingArguments, by_device: bool = False) -> None:
    """Check that a run goes on with the global batch of its checkpoint. How that is shared out may change.

    Args:
        checkpoint: its folder.
        args: the run's.
        by_device: whether the loss depends on which rows share a device (`loss_depends_on_device_batch`), so that their
            number must stay.

    Raises:
        UserError: another number of rows, so that steps, epochs and the order of the rows would be others; with
            `dataloader_drop_last` another accumulation, which leaves other rows out.
    """
    before, now = global_batch_of(checkpoint), global_batch(args)
    if before is None or args.auto_find_batch_size:
        return
    rules = {
        "": before.size != now.size,
        " and so is per_device_train_batch_size, as the loss depends on which rows share a device": by_device
        and before.rows != now.rows,
        " and so is gradient_accumulation_steps, as dataloader_drop_last leaves rows out": args.dataloader_drop_last
        and before.accumulation != now.accumulation,
    }
    for rule, is_broken in rules.items():
        if is_broken:
            raise UserError(
                f"resume_from_checkpoint: an optimizer step must have the {before} of {checkpoint}, found {now}; set "
                "per_device_train_batch_size, gradient_accumulation_steps and the number of processes so that their "
                f"product is the same{rule}"
            )
    if before.processes != now.processes:
        logger.warning(
            f"{checkpoint} was saved by {before.processes} processes and is resumed by {now.processes}: rows and steps "
            "stay the same, dropout masks are drawn anew"
        )
