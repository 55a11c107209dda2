"""A Trainer whose evaluation gives the same answers however the rows are shared out among batches and processes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch
from accelerate.data_loader import BatchSamplerShard, IterableDatasetShard
from accelerate.utils import recursively_apply, slice_tensors
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, SequentialSampler
from transformers import EvalPrediction
from transformers.trainer_pt_utils import LengthGroupedSampler, find_batch_size
from transformers.trainer_utils import EvalLoopOutput

from hf_layerfusion.training.loss_weighting import WeighingTrainer
from hf_layerfusion.training.samplers import LengthSortedSampler, take_rows
from hf_layerfusion.training.task_data import REPEATED, TaskDataset

# A stream is read by each process itself: worker processes would each take rows out of turn, and count them unseen.
_NO_WORKERS: dict[str, Any] = {
    "dataloader_num_workers": 0,
    "dataloader_prefetch_factor": None,
    "dataloader_persistent_workers": False,
    "dataloader_multiprocessing_context": None,
}


class EvaluatingTrainer(WeighingTrainer):
    """The stock Trainer, but its evaluation does not depend on how the rows are shared out.

    For any number of rows, processes and data loader workers, and any `accelerator_config`:

    - Prediction i answers row i, in what `predict` returns as in what `compute_metrics` is given, also where the
      batches are sorted by length.
    - Every row is predicted, with `dataloader_drop_last` too, which is for training.
    - The loss is the mean over all rows (labels other than -100), each counted once. Where accelerate fills up the
      last batches of several processes with rows from the start, these count for nothing.
    - A stream is read in full by every process, which predicts its share; its length need not be known.
    """

    compute_metrics: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._share: Share | None = None
        self._batch_losses: list[Tensor] = []

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Evaluate as `Trainer.evaluation_loop` does, with predictions in the rows' order and the loss of all rows.

        torch's generator stays as it was. A data loader draws a seed each time it starts: where a checkpoint is saved
        between the end of an epoch and its evaluation, the run that resumes from it would otherwise draw other dropout
        masks.
        """
        rows = rows_of_predictions(dataloader)
        self._share, self._batch_losses = Share.of(dataloader), []
        with torch.random.fork_rng(devices=[]), self._metrics_by_row(rows):
            output = super().evaluation_loop(
                dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
            )
        metrics = dict(output.metrics or {})
        if self._batch_losses:
            metrics[f"{metric_key_prefix}_loss"] = self._mean_loss()
        if self._share is not None and isinstance(self._share.rows, CountedStream):
            output = output._replace(num_samples=len(self._share))
        if rows is not None:
            output = output._replace(
                predictions=take_rows(output.predictions, rows), label_ids=take_rows(output.label_ids, rows)
            )
        return output._replace(metrics=metrics)

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Any, Any]:
        """Predict a batch, without the rows that accelerate repeats to fill up the last one."""
        own = self._own_rows(inputs)
        size = cast(int, find_batch_size(inputs))
        if own is not None:
            inputs = slice_tensors(inputs, slice(0, max(own, 1)))
        items = self._count_items(dict(inputs) | {REPEATED: own == 0}, self.args.device)
        loss, logits, labels = self.predict_batch(model, inputs, prediction_loss_only, ignore_keys)
        if loss is not None:
            loss = loss.detach()
            self._batch_losses.append(torch.stack([loss.float(), items.to(loss.device).float()]))
        if own is None:
            return loss, logits, labels
        # What is gathered must be of one size on all processes; what stands behind the own rows is cut off then.
        return loss, _filled_up(logits, size), _filled_up(labels, size)

    def predict_batch(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any
    ) -> tuple[Tensor | None, Any, Any]:
        """Loss, logits and labels of a batch, as `Trainer.prediction_step` returns them."""
        return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)

    def _own_rows(self, inputs: Any) -> int | None:
        """Return how many rows of a batch are the process's own, or None where all are."""
        gradients = self.accelerator.gradient_state
        if self._share is None or self._share.processes == 1 or not gradients.end_of_dataloader:
            return None  # a single process' last batch is as short as it is, not filled up
        size = cast(int, find_batch_size(inputs))
        rest = len(self._share) % (size * self._share.processes)
        # By which accelerate cuts off what it gathers. Of a stream it knows no length.
        gradients.active_dataloader.remainder = rest
        own = min(max(rest - size * self._share.process, 0), size)
        return None if rest == 0 or own == size else own

    def _mean_loss(self) -> float:
        gathered = self.accelerator.gather(torch.stack(self._batch_losses)).cpu().double()
        losses, items = gathered[gathered[:, 1] > 0].unbind(dim=1)
        finite = losses.isfinite()
        if self.args.logging_nan_inf_filter and finite.any():
            losses, items = losses[finite], items[finite]
        total = items.sum().item()
        return (losses * items).sum().item() / total if total else math.nan

    @contextmanager
    def _metrics_by_row(self, rows: npt.NDArray[np.intp] | None) -> Iterator[None]:
        """Gives `compute_metrics` everything in the order of the rows."""
        given: Callable[[EvalPrediction], Any] | None = self.compute_metrics
        if given is None or rows is None or self.args.batch_eval_metrics:
            yield
            return

        def by_row(found: EvalPrediction) -> Any:
            names = ("predictions", "label_ids", "inputs", "losses")
            return given(EvalPrediction(**{name: take_rows(getattr(found, name), rows) for name in names}))

        self.compute_metrics = by_row
        try:
            yield
        finally:
            self.compute_metrics = given

    # The data loaders of evaluation

    def _get_dataloader(
        self,
        dataset: Dataset,
        description: str,
        batch_size: int,
        sampler_fn: Callable[[Dataset], Sampler] | None = None,
        is_training: bool = False,
        dataloader_key: str | None = None,
    ) -> DataLoader:
        if is_training:
            return super()._get_dataloader(
                dataset, description, batch_size, sampler_fn, is_training, dataloader_key
            )
        options: dict[str, Any] = {"dataloader_drop_last": False, "dataloader_in_order": True}
        config = self.accelerator.dataloader_config
        if config.split_batches:
            batch_size = max(batch_size // self.args.world_size, 1)
        if isinstance(dataset, IterableDataset):
            dataset = CountedStream(dataset)
            options |= _NO_WORKERS
        shared_out = {"split_batches": False, "dispatch_batches": False, "even_batches": True}
        with _changed(self.args, options), _changed(config, shared_out):
            return super()._get_dataloader(
                dataset, description, batch_size, sampler_fn, is_training, dataloader_key
            )

    def _get_eval_sampler(self, eval_dataset: Dataset) -> Sampler | None:
        if self.args.train_sampling_strategy == "group_by_length" and not self.args.eval_do_concat_batches:
            return SequentialSampler(cast(Sized, eval_dataset))  # batches that the user is given as they come
        if isinstance(eval_dataset, TaskDataset):
            if self.args.train_sampling_strategy != "group_by_length":
                return super()._get_eval_sampler(eval_dataset)
            return LengthSortedSampler(eval_dataset.lengths(self.args.length_column_name))
        sampler = super()._get_eval_sampler(eval_dataset)
        return LengthSortedSampler(sampler.lengths) if isinstance(sampler, LengthGroupedSampler) else sampler


class CountedStream(IterableDataset):
    """A stream that counts the rows of its last reading.

    Args:
        stream: a `datasets.IterableDataset`, or any other that gives the same rows each time.
    """

    def __init__(self, stream: IterableDataset) -> None:
        self.stream = stream
        self.count = 0

    def __len__(self) -> int:
        return len(cast(Sized, self.stream))  # a TypeError where it has none, as for any stream

    def __iter__(self) -> Iterator[Any]:
        self.count = 0
        for row in self.stream:
            self.count += 1
            yield row


class Share(NamedTuple):
    """A process's share of the rows of an evaluation.

    Attributes:
        rows: all rows.
        processes: number of processes that they are shared out to.
        process: place of this one.
    """

    rows: Any
    processes: int
    process: int

    @classmethod
    def of(cls, dataloader: DataLoader) -> Share | None:
        """The share that a loader of accelerate's gives; None for one that shares nothing out."""
        batches, rows = getattr(dataloader, "batch_sampler", None), dataloader.dataset
        if isinstance(batches, BatchSamplerShard) and not batches.split_batches and batches.even_batches:
            return cls(rows, batches.num_processes, batches.process_index)
        if isinstance(rows, IterableDatasetShard):
            rows, shard = rows.dataset, rows
            return cls(rows, shard.num_processes, shard.process_index)
        return cls(rows, 1, 0) if isinstance(rows, CountedStream) else None

    def __len__(self) -> int:
        return self.rows.count if isinstance(self.rows, CountedStream) else len(self.rows)


def rows_of_predictions(dataloader: DataLoader) -> npt.NDArray[np.intp] | None:
    """Where each row's prediction stands among those of a loader; None where they stand in the order of the rows."""
    batches = getattr(dataloader, "batch_sampler", None)
    while isinstance(batches, BatchSamplerShard):  # accelerate's share of a process
        batches = batches.batch_sampler
    sampler = getattr(batches, "sampler", None)
    return np.argsort(sampler.order) if isinstance(sampler, LengthSortedSampler) else None


def _filled_up(tensors: Any, size: int) -> Any:
    """Tensors with their last row repeated up to `size` rows."""
    return recursively_apply(
        lambda tensor: tensor[torch.arange(size, device=tensor.device).clamp(max=len(tensor) - 1)], tensors
    )


@contextmanager
def _changed(options: Any, values: dict[str, Any]) -> Iterator[None]:
    before = {name: getattr(options, name) for name in values}
    for name, value in values.items():
        setattr(options, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(options, name, value)
