"""A Trainer whose gradient is that of the undivided batch, however the batch is divided."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from functools import reduce
from typing import Any, cast

import torch
from accelerate.utils import slice_tensors
from torch import Tensor, nn
from transformers.trainer_pt_utils import find_batch_size
from transformers.trainer_utils import has_length

from hf_layerfusion.regularizers.task_outputs import ONE_TASK, task_inputs
from hf_layerfusion.training.log_aggregation import LogKeepingTrainer
from hf_layerfusion.training.task_data import REPEATED
from hf_layerfusion.training.training_arguments import LayerFusionTrainingArguments

SHARES = "shares"
"""Where a training batch carries its shares to `step_losses`; the model never sees them."""


class WeighingTrainer(LogKeepingTrainer):
    """The stock Trainer, but each micro-batch weighs as its share of the examples of its optimizer step.

    The model's loss must be a mean over the examples of its batch. Where a step trains several tasks, the shares are
    those of each task by itself.
    """

    args: LayerFusionTrainingArguments
    # step_losses weighs each micro-batch by its share: nothing is left for the stock Trainer to divide by.
    loss_is_scaled_for_ga = True

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor | int | None]:
        """The micro-batches of an optimizer step, each with its share of each task's examples on all processes."""
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self.compute_loss_func is not None or not batches:
            return batches, num_items
        batches[-1] = self._without_repeats(batches[-1])
        if not has_length(self.train_dataset):
            batches += self._to_complete_the_step(batches[-1], num_batches - len(batches))
        tasks = list(task_inputs(batches[0]))
        items = torch.stack(
            [
                torch.stack([self._count_items(batch, device) for batch in task_inputs(batch).values()])
                for batch in batches
            ]
        )
        total = items.sum(dim=0)
        if self._averages_over_processes:
            total = self.accelerator.reduce(total, reduction="sum")
        shares = items / total
        if self._averages_over_processes:
            shares = shares * self.args.world_size  # DDP averages gradients over the processes
        for batch, of_batch in zip(batches, shares.unbind(), strict=True):
            batch[SHARES] = dict(zip(tasks, of_batch.unbind(), strict=True))
        return batches, None

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, Any]:
        """The loss of a batch; in training, the sum of its `step_losses`."""
        if self.compute_loss_func is not None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        losses, outputs = self.step_losses(model, inputs)
        loss = reduce(torch.add, losses.values())
        return (loss, outputs) if return_outputs else loss

    def step_losses(self, model: nn.Module, inputs: dict[str, Any]) -> tuple[dict[str, Tensor], Any]:
        """The loss of each task as it enters the sum over tasks, micro-batches and processes.

        Args:
            model: the model, wrapped or not.
            inputs: a micro-batch with its shares, as `get_batch_samples` gives it; one without counts in full.

        Returns:
            The losses by task, `ONE_TASK` the name of one without, and the model's output.
        """
        inputs = dict(inputs)
        shares = inputs.pop(SHARES, {})
        losses, outputs = self.task_losses(model, inputs)
        for task, share in shares.items():
            # The mean over no label at all is not a number; it is not an error unless the whole batch has none.
            losses[task] = torch.where(share == 0, share, losses[task] * share)
        return losses, outputs

    def task_losses(self, model: nn.Module, inputs: dict[str, Any]) -> tuple[dict[str, Tensor], Any]:
        """The mean loss over the batch of each task, and the model's output. What a training method adds to a
        task's loss is added here."""
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True)
        return {ONE_TASK: loss}, outputs

    @property
    def _averages_over_processes(self) -> bool:
        return self.args.average_tokens_across_devices and self.args.world_size > 1

    def _count_items(self, batch: dict[str, Any], device: torch.device) -> Tensor:
        """How many terms the model's mean runs over: labels other than -100, or else rows; 0 for mere repeats."""
        labels = batch.get(self.label_names[0]) if len(self.label_names) == 1 else None
        if batch.pop(REPEATED, False):
            return torch.zeros((), dtype=torch.int64, device=device)
        if isinstance(labels, Tensor) and not labels.is_floating_point():
            return (labels != -100).sum().to(device)
        return torch.tensor(find_batch_size(batch), device=device)

    def _to_complete_the_step(self, batch: Any, count: int) -> list[Any]:
        """What a step lacks at the end of a stream: `count` times a row of its last micro-batch that counts none.

        The stock Trainer steps at every `gradient_accumulation_steps`-th micro-batch of an epoch and at the last one
        of a known length. Where a stream ends in between, it would add these gradients to the next epoch's first step.
        """
        return [slice_tensors(batch, slice(0, 1)) | {REPEATED: True} for _ in range(count)]

    def _without_repeats(self, batch: Any) -> Any:
        """The last micro-batch of a step, less the rows that accelerate repeats at an epoch's end.

        There accelerate starts over at the epoch's first examples until each process has a full batch. A process
        that has nothing but such repeats keeps one row, for DDP's sake, and counts none.
        """
        args, config = self.args, self.accelerator.dataloader_config
        evened = (
            args.world_size > 1
            and self.accelerator.gradient_state.end_of_dataloader
            and has_length(self.train_dataset)
            and args.train_sampling_strategy != "batch_rebalance"
            and not (args.dataloader_drop_last or config.split_batches or config.dispatch_batches)
        )
        examples = len(cast(Sized, self.train_dataset)) if evened else 0
        remainder = examples % (self._train_batch_size * args.world_size)
        if remainder == 0:
            return batch
        rows = max(remainder - self._train_batch_size * args.process_index, 0)
        batch = slice_tensors(batch, slice(0, max(rows, 1)))
        batch[REPEATED] = rows == 0
        return batch
