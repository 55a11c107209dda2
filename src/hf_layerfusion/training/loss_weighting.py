"""Weights of micro-batches by which their gradients add up to that of the undivided batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import slice_tensors
from torch import Tensor
from transformers.trainer_pt_utils import find_batch_size

from hf_layerfusion.data.soft_labels import TEACHER_LOGITS
from hf_layerfusion.regularizers.task_outputs import task_inputs
from hf_layerfusion.training.task_data import REPEATED
from hf_layerfusion.training.training_arguments import LayerFusionTrainingArguments

SHARES = "shares"
"""The key under which a training batch carries its weights, by task; the model never sees it."""


def count_items(batch: dict[str, Any], label_names: Sequence[str], device: torch.device) -> Tensor:
    """Return the number of terms that a model's mean loss runs over: labels other than -100, or else rows. With a
    teacher's predictions, all rows count.

    Args:
        batch: The batch; one marked as `REPEATED` counts as 0, and the mark is taken away.
        label_names: Names of the model's labels.
        device: The device of the result.
    """
    labels = batch.get(label_names[0]) if len(label_names) == 1 else None
    if batch.pop(REPEATED, False):
        return torch.zeros((), dtype=torch.int64, device=device)
    if TEACHER_LOGITS in batch:  # rows without a label have a loss too
        return torch.tensor(len(batch[TEACHER_LOGITS]), device=device)
    if isinstance(labels, Tensor) and not labels.is_floating_point():
        return (labels != -100).sum().to(device)
    return torch.tensor(find_batch_size(batch), device=device)


class LossWeighting:
    """Weighs each micro-batch by its share of the examples of its optimizer step, on all processes.

    The loss of the model must be a mean over the examples of its batch. Where a step trains several tasks, each has
    shares of its own.

    Args:
        args: Number of processes, and whether the mean is over all of them.
        label_names: Names of the model's labels.
    """

    def __init__(self, args: LayerFusionTrainingArguments, label_names: Sequence[str]) -> None:
        self.args, self.label_names = args, label_names

    def weigh(self, batches: list[Any], accelerator: Accelerator, device: torch.device) -> None:
        """Give each micro-batch of a step its `SHARES`, in place.

        Args:
            batches: The micro-batches of this process.
            accelerator: Sums over the processes.
            device: The device of the shares.
        """
        tasks = list(task_inputs(batches[0]))
        items = torch.stack(
            [
                torch.stack(
                    [count_items(batch, self.label_names, device) for batch in task_inputs(batch).values()]
                )
                for batch in batches
            ]
        )
        total = items.sum(dim=0)
        averages = self.args.average_tokens_across_devices and self.args.world_size > 1
        if averages:
            total = accelerator.reduce(total, reduction="sum")
        shares = items / total.clamp(min=1)  # no label at all: a share of 0
        if averages:
            shares = shares * self.args.world_size  # DDP averages gradients over the processes
        for batch, of_batch in zip(batches, shares.unbind(), strict=True):
            batch[SHARES] = dict(zip(tasks, of_batch.unbind(), strict=True))


def weigh_losses(losses: dict[str, Tensor], shares: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the losses of a micro-batch's tasks times its shares; tasks without a share keep theirs."""
    weighed = dict(losses)
    for task, share in shares.items():
        # The mean over no label at all is not a number; it is not an error unless the whole batch has none.
        weighed[task] = torch.where(share == 0, share, losses[task] * share)
    return weighed


def to_complete_the_step(batch: Any, count: int) -> list[Any]:
    """Return what a step lacks at the end of a stream: `count` times a row of its last micro-batch, which counts as 0.

    The stock Trainer steps at every `gradient_accumulation_steps`-th micro-batch of an epoch and at the last one of a
    known length. Where a stream ends in between, it would add these gradients to the next epoch's first step.
    """
    return [slice_tensors(batch, slice(0, 1)) | {REPEATED: True} for _ in range(count)]


def is_evened_out(args: LayerFusionTrainingArguments, accelerator: Accelerator) -> bool:
    """Return whether accelerate has filled up the batch that was read last by rows from the start of the epoch."""
    config = accelerator.dataloader_config
    return (
        args.world_size > 1
        and bool(accelerator.gradient_state.end_of_dataloader)
        and args.train_sampling_strategy != "batch_rebalance"
        and not (args.dataloader_drop_last or config.split_batches or config.dispatch_batches)
    )


def without_repeats(batch: Any, num_rows: int, batch_size: int, process: int, num_processes: int) -> Any:
    """Return the last micro-batch of an epoch without the rows that accelerate repeats to even it out.

    accelerate starts over at the epoch's first examples until each process has a full batch. A process that has nothing
    but such repeats keeps one row, for DDP's sake, and counts it as 0.

    Args:
        batch: This process's micro-batch.
        num_rows: Rows of the data set.
        batch_size: Rows of a micro-batch.
        process: Number of this process.
        num_processes: Number of all.
    """
    remainder = num_rows % (batch_size * num_processes)
    if remainder == 0:
        return batch
    rows = max(remainder - batch_size * process, 0)
    batch = slice_tensors(batch, slice(0, max(rows, 1)))
    batch[REPEATED] = rows == 0
    return batch
