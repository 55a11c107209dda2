"""Evaluation whose predictions and loss do not depend on how rows are shared out among batches and processes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator
from accelerate.data_loader import BatchSamplerShard, IterableDatasetShard
from accelerate.utils import recursively_apply, slice_tensors
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Sampler, SequentialSampler
from transformers import EvalPrediction, TrainingArguments
from transformers.trainer_pt_utils import find_batch_size
from transformers.trainer_utils import EvalLoopOutput

from hf_layerfusion.training.loss_weighting import count_items
from hf_layerfusion.training.samplers import LengthSortedSampler, row_lengths, take_rows
from hf_layerfusion.training.task_data import REPEATED

# A stream is read by each process itself: worker processes would each take rows out of turn, and count them unseen.
_NO_WORKERS: dict[str, Any] = {
    "dataloader_num_workers": 0,
    "dataloader_prefetch_factor": None,
    "dataloader_persistent_workers": False,
    "dataloader_multiprocessing_context": None,
}


@contextmanager
def changed(options: Any, **values: Any) -> Iterator[None]:
    """Set attributes of an object for the duration of a block."""
    before = {name: getattr(options, name) for name in values}
    for name, value in values.items():
        setattr(options, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(options, name, value)


def evaluation_sampler(args: TrainingArguments, dataset: Any, main_input: str | None) -> Sampler | None:
    """Return the order in which rows are evaluated: from the longest to the shortest with `group_by_length`.

    Args:
        args: `train_sampling_strategy`, and `eval_do_concat_batches=False`, with which batches reach the user as they
            come and stay in the rows' order.
        dataset: The rows; None is returned for a stream.
        main_input: The column whose length counts where there is no column of lengths.
    """
    if isinstance(dataset, IterableDataset):
        return None
    if args.train_sampling_strategy == "group_by_length" and args.eval_do_concat_batches:
        return LengthSortedSampler(row_lengths(dataset, args.length_column_name, main_input))
    return SequentialSampler(cast(Sized, dataset))


@contextmanager
def every_row(args: TrainingArguments, accelerator: Accelerator, dataset: Any) -> Iterator[None]:
    """Set the options of data loading so that a data loader made in the block shows every row exactly once.

    `dataloader_drop_last` and `accelerator_config` are for training.

    Args:
        args: The run's options.
        accelerator: Shares batches out.
        dataset: The rows.
    """
    options: dict[str, Any] = {"dataloader_drop_last": False, "dataloader_in_order": True}
    if isinstance(dataset, IterableDataset):
        options |= _NO_WORKERS
    shared_out = {"split_batches": False, "dispatch_batches": False, "even_batches": True}
    with changed(args, **options), changed(accelerator.dataloader_config, **shared_out):
        yield


class CountedStream(IterableDataset):
    """A stream that counts the rows of its last reading.

    accelerate hands whole shards of a `datasets.IterableDataset` to the processes, so that one would run out of rows
    before the others. This one is read by every process, which takes its share of each batch.

    Args:
        stream: A `datasets.IterableDataset`, or any other that gives the same rows each time.
    """

    def __init__(self, stream: IterableDataset) -> None:
        self.stream = stream
        self.count = 0

    def __len__(self) -> int:
        return len(cast(Sized, self.stream))  # a TypeError where it has none, as for any stream

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of a stream that has one, for its order."""
        if hasattr(self.stream, "set_epoch"):
            self.stream.set_epoch(epoch)

    def __iter__(self) -> Iterator[Any]:
        self.count = 0
        for row in self.stream:
            self.count += 1
            yield row


class Share(NamedTuple):
    """A process's share of the rows of an evaluation.

    Attributes:
        rows: All rows.
        processes: Number of processes that they are shared out to.
        process: Number of this one.
    """

    rows: Any
    processes: int
    process: int

    @classmethod
    def of(cls, dataloader: DataLoader) -> Share | None:
        """Return the share that a data loader of accelerate's gives, or None for one that shares nothing out."""
        batches, rows = getattr(dataloader, "batch_sampler", None), dataloader.dataset
        if isinstance(batches, BatchSamplerShard) and not batches.split_batches and batches.even_batches:
            return cls(rows, batches.num_processes, batches.process_index)
        if isinstance(rows, IterableDatasetShard):
            rows, shard = rows.dataset, rows
            return cls(rows, shard.num_processes, shard.process_index)
        return cls(rows, 1, 0) if isinstance(rows, CountedStream) else None

    def __len__(self) -> int:
        return self.rows.count if isinstance(self.rows, CountedStream) else len(self.rows)


class ShardedEvaluation:
    """One pass over the rows of an evaluation, in place of its data loader.

    accelerate fills up the last batches of several processes with rows from the start. Here these are cut off before
    the model sees them, and count for nothing.

    Iterating over it yields batches of this process's own rows (at least one, since all processes run the model equally
    often). `gather` then gives the rows of all processes, and `loss` the mean over all of them.

    Args:
        dataloader: The data loader, prepared by accelerate.
        accelerator: Gathers over the processes.
        label_names: Names of the model's labels.
    """

    def __init__(self, dataloader: DataLoader, accelerator: Accelerator, label_names: list[str]) -> None:
        self.dataloader, self.accelerator, self.label_names = dataloader, accelerator, label_names
        self.order = order_of_predictions(dataloader)
        """The position of each row's prediction among those of the loader; None where rows come in order."""
        self._share = Share.of(dataloader)
        self._losses: list[Tensor] = []
        self._all_rows: int | None = None  # of the batch, on all processes, where it was filled up
        self._size = self._own = 0

    def __getattr__(self, name: str) -> Any:
        if name == "dataloader":  # not set yet, as when it is copied
            raise AttributeError(name)
        return getattr(self.dataloader, name)

    def __len__(self) -> int:
        return len(self.dataloader)

    def __iter__(self) -> Iterator[Any]:
        for batch in self.dataloader:
            self._size = find_batch_size(batch) or 0
            self._all_rows, self._own = None, self._size
            if self._share is not None and self._share.processes > 1 and self._is_last():
                rest = len(self._share) % (self._size * self._share.processes)
                if rest:
                    self._all_rows = rest
                    self._own = min(max(rest - self._size * self._share.process, 0), self._size)
                    batch = slice_tensors(batch, slice(0, max(self._own, 1)))
            yield batch

    def _is_last(self) -> bool:
        return bool(self.accelerator.gradient_state.end_of_dataloader)

    def count_items(self, batch: dict[str, Any], device: torch.device) -> Tensor:
        """Return the number of terms that the mean loss of the current batch runs over."""
        return count_items(dict(batch) | {REPEATED: self._own == 0}, self.label_names, device)

    def add_loss(self, loss: Tensor, items: Tensor) -> None:
        """Add the mean loss of the current batch over so many items."""
        loss = loss.detach().mean()
        self._losses.append(torch.stack([loss.float(), items.to(loss.device).float()]))

    def gather(self, tensors: Any, gather: Callable[[Any], Any]) -> Any:
        """Return what all processes have of the current batch, row by row, each row once.

        Args:
            tensors: Tensors of this process's rows.
            gather: Does so where no batch was filled up.
        """
        if self._all_rows is None:
            return gather(tensors)
        # All processes gather the same number of rows; what lies behind the own ones is cut off.
        gathered = self.accelerator.gather(_filled_up(tensors, self._size))
        return slice_tensors(gathered, slice(0, self._all_rows))

    def loss(self, ignores_nan: bool = False) -> float | None:
        """Return the mean loss over all rows, or labels other than -100, of all processes; None without any loss.

        Args:
            ignores_nan: Leaves out batches whose loss is not finite.
        """
        if not self._losses:
            return None
        gathered = self.accelerator.gather(torch.stack(self._losses)).cpu().double()
        losses, items = gathered[gathered[:, 1] > 0].unbind(dim=1)
        finite = losses.isfinite()
        if ignores_nan and finite.any():
            losses, items = losses[finite], items[finite]
        total = items.sum().item()
        return (losses * items).sum().item() / total if total else math.nan

    def by_row(self, compute_metrics: Callable[[EvalPrediction], Any]) -> Callable[[EvalPrediction], Any]:
        """Return a function of metrics that is given everything in the order of the rows."""
        order = self.order
        if order is None:
            return compute_metrics

        def compute(found: EvalPrediction) -> Any:
            names = ("predictions", "label_ids", "inputs", "losses")
            return compute_metrics(
                EvalPrediction(**{name: take_rows(getattr(found, name), order) for name in names})
            )

        return compute

    def corrected(self, output: EvalLoopOutput, prefix: str, ignores_nan: bool) -> EvalLoopOutput:
        """Return an evaluation's output with the loss of all rows, and predictions in the rows' order.

        Args:
            output: The stock Trainer's output.
            prefix: The prefix of its metrics.
            ignores_nan: See `loss`.
        """
        metrics = dict(output.metrics or {})
        loss = self.loss(ignores_nan)
        if loss is not None:
            metrics[f"{prefix}_loss"] = loss
        if self._share is not None and isinstance(self._share.rows, CountedStream):
            output = output._replace(num_samples=len(self._share))
        if self.order is not None:
            output = output._replace(
                predictions=take_rows(output.predictions, self.order),
                label_ids=take_rows(output.label_ids, self.order),
            )
        return output._replace(metrics=metrics)


def order_of_predictions(dataloader: DataLoader) -> npt.NDArray[np.intp] | None:
    """Return the position of each row's prediction among those of a loader; None where rows come in order."""
    batches = getattr(dataloader, "batch_sampler", None)
    while isinstance(batches, BatchSamplerShard):  # accelerate's share of a process
        batches = batches.batch_sampler
    sampler = getattr(batches, "sampler", None)
    return np.argsort(sampler.order) if isinstance(sampler, LengthSortedSampler) else None


def _filled_up(tensors: Any, size: int) -> Any:
    """Return tensors with their last row repeated up to `size` rows."""
    return recursively_apply(
        lambda tensor: tensor[torch.arange(size, device=tensor.device).clamp(max=len(tensor) - 1)], tensors
    )
