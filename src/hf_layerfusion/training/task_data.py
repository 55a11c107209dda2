"""The data sets of several tasks as one, and the batches of an epoch."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count, groupby, pairwise
from typing import Any, NamedTuple, cast

import torch
from datasets import Dataset as ArrowDataset
from torch.utils.data import DataLoader, Dataset
from transformers import TrainingArguments
from transformers.trainer_utils import has_length, seed_worker

from hf_layerfusion.errors import UserError
from hf_layerfusion.training.samplers import RowOrder, is_apart, seeded_generator
from hf_layerfusion.training.task_mixing import TaskMixing

Row = dict[str, Any]

TASK = "task"
"""The key under which a row or a batch names its task."""

REPEATED = "repeated"
"""The key that marks a row, or a task's batch, which is there for the other processes' sake and counts for nothing."""

SWAPPED = "swapped_"
"""Prefix of the name of a column that holds a pair in the other order."""

LABELS = "labels"


class Pick(NamedTuple):
    """One row of a batch.

    Attributes:
        task: whose row.
        row: its index in the task's data set.
        swapped: a pair in its other order.
        repeated: the row fills the place of a process that would have none.
    """

    task: str
    row: int
    swapped: bool = False
    repeated: bool = False


class TaskDataset(Dataset[Row]):
    """One task's rows, each with its task's name; columns `swapped_…` are left out.

    Args:
        task: the task's name: letters, digits, `_`, `-` and `.`.
        rows: a `datasets.Dataset`, or any data set of dictionaries with a length.
        role: "training", "evaluation" or "prediction", for messages.

    Raises:
        UserError: the name, no length, or no rows.
    """

    def __init__(self, task: str, rows: Any, role: str) -> None:
        if not isinstance(task, str) or not re.fullmatch(r"\w[\w.-]*", task):
            raise UserError(
                f"a task's name must be made of letters, digits, '_', '-' and '.', found {task!r}; rename it"
            )
        if not has_length(rows):
            raise UserError(
                f"{role} data of task '{task}': must have a length, found a stream of {type(rows).__name__}; "
                "load it without streaming"
            )
        if len(rows) == 0:
            raise UserError(
                f"{role} data of task '{task}': must have rows, found none; check its file or leave the task out"
            )
        self.task = task
        self.rows = rows
        self.columns: list[str] = rows.column_names if isinstance(rows, ArrowDataset) else list(rows[0])
        self.is_swappable = any(column.startswith(SWAPPED) for column in self.columns)
        self.has_labels = LABELS in self.columns

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[Row]:
        """Return several rows at once, as a `DataLoader` asks for them."""
        return self.picked([Pick(self.task, index) for index in indices])

    def picked(self, picks: list[Pick]) -> list[Row]:
        """Return the rows of `picks`, all of this task."""
        indices = [pick.row for pick in picks]
        if isinstance(self.rows, ArrowDataset):
            rows = self.rows.__getitems__(indices)
        else:
            rows = [self.rows[index] for index in indices]
        return [{TASK: self.task, **_as_picked(row, pick)} for row, pick in zip(rows, picks, strict=True)]

    def in_both_orders(self) -> list[Any]:
        """Return the rows and, where pairs may be swapped, the same rows with the pairs in their other order."""
        if not self.is_swappable:
            return [self.rows]
        names = [name for name in self.columns if name.startswith(SWAPPED)]
        kept = [name for name in self.columns if name not in names]
        if isinstance(self.rows, ArrowDataset):
            others = self.rows.select_columns(names)
            others = others.rename_columns({name: name.removeprefix(SWAPPED) for name in names})
            return [self.rows.select_columns(kept), others]
        picks = [Pick(self.task, row) for row in range(len(self))]
        return [self.picked(picks), self.picked([pick._replace(swapped=True) for pick in picks])]

    def column(self, name: str) -> Sequence[Any]:
        """Return all values of one column."""
        if isinstance(self.rows, ArrowDataset):
            return cast("Sequence[Any]", self.rows[name])
        return [row[name] for row in self.rows]

    def lengths(self, column: str) -> list[int]:
        """Return the number of tokens of each row, of the longer text if those of a pair are encoded apart.

        Args:
            column: holds them ready; where it is missing, `input_ids` is measured.
        """
        if column in self.columns:
            return list(self.column(column))
        return [max(map(len, ids)) if is_apart(ids) else len(ids) for ids in self.column("input_ids")]


class MultitaskDataset(Dataset[Row]):
    """The training rows of several tasks, each found by its `Pick`.

    Args:
        datasets: each task's rows.

    Raises:
        UserError: no task, as `TaskDataset`, or a task without labels.
    """

    def __init__(self, datasets: Mapping[str, Any]) -> None:
        if not datasets:
            raise UserError("train_dataset must hold at least one task, found an empty dictionary; add one")
        self.rows_of_epoch: int | None = None
        """The rows that an epoch shows, once they are mixed; the Trainer counts them."""
        self.tasks = {task: TaskDataset(task, rows, "training") for task, rows in datasets.items()}
        for task, dataset in self.tasks.items():
            if not dataset.has_labels:
                raise UserError(
                    f"training data of task '{task}': must have a column '{LABELS}', found "
                    f"{', '.join(dataset.columns)}; add the labels or leave the task out"
                )

    def __len__(self) -> int:
        return sum(map(len, self.tasks.values())) if self.rows_of_epoch is None else self.rows_of_epoch

    def __getitem__(self, pick: Pick) -> Row:
        return self.__getitems__([pick])[0]

    def __getitems__(self, picks: list[Pick]) -> list[Row]:
        """Return the rows of one batch."""
        return [
            row
            for task, group in groupby(picks, key=lambda pick: pick.task)
            for row in self.tasks[task].picked(list(group))
        ]


def task_loader(
    args: TrainingArguments,
    dataset: MultitaskDataset,
    batches: MultitaskBatchSampler,
    collate: Callable[[list[Row]], Any],
) -> DataLoader[Row]:
    """Return the data loader of the training batches of several tasks.

    Args:
        args: Workers and seeds.
        dataset: The rows.
        batches: Their order.
        collate: Makes a batch.
    """
    dataset.rows_of_epoch = batches.num_examples()
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=args.dataloader_num_workers,
        pin_memory=args.dataloader_pin_memory,
        persistent_workers=args.dataloader_persistent_workers,
        multiprocessing_context=args.dataloader_multiprocessing_context,
        prefetch_factor=args.dataloader_prefetch_factor,
        in_order=args.dataloader_in_order,
        worker_init_fn=partial(seed_worker, num_workers=args.dataloader_num_workers, rank=args.process_index),
    )


def _as_picked(row: Mapping[str, Any], pick: Pick) -> Row:
    chosen = {name: value for name, value in row.items() if not name.startswith(SWAPPED)}
    if pick.swapped:
        chosen |= {name.removeprefix(SWAPPED): row[name] for name in row if name.startswith(SWAPPED)}
    if pick.repeated:
        chosen[REPEATED] = True
    return chosen


@dataclass
class MultitaskBatchSampler:
    """The batches of an epoch, a micro-batch of a process at a time; the same for the same seed and epoch.

    An optimizer step takes a batch of each of its tasks and shares it out, in even parts, among the micro-batches of
    all processes. Where a batch has fewer rows than parts, its first row stands in for the rest, marked.

    Attributes:
        mixing: the tasks of each step.
        orders: the order of each task's rows.
        swappable: tasks whose pairs come in random order.
        parts: micro-batches of an optimizer step: accumulation steps times processes. Accelerate deals them out in
            turn.
        drop_last: leaves out the last batch of a task where it is not full.
        seed: where all chance comes from.
        epoch: returns the number of the epoch that begins.
    """

    mixing: TaskMixing
    orders: Mapping[str, RowOrder]
    swappable: frozenset[str]
    parts: int
    drop_last: bool
    seed: int
    epoch: Callable[[], int]

    def __len__(self) -> int:
        return len(self.mixing) * self.parts

    def __iter__(self) -> Iterator[list[Pick]]:
        for step in self._steps(self.epoch()):
            shares = [_even_parts(batch, self.parts) for batch in step]
            for part in range(self.parts):
                yield [pick for share in shares for pick in share[part]]

    def num_examples(self) -> int:
        """Return the number of rows of an epoch; of the first one where tasks are drawn at random."""
        return sum(len(batch) for step in self._steps(0) for batch in step)

    def _steps(self, epoch: int) -> Iterator[list[list[Pick]]]:
        batches = {task: self._batches(place, task, epoch) for place, task in enumerate(self.orders)}
        for tasks in self.mixing.steps(epoch, seeded_generator(self.seed, epoch)):
            yield [next(batches[task]) for task in tasks]

    def _batches(self, place: int, task: str, epoch: int) -> Iterator[list[Pick]]:
        """Yield one batch after the other, pass after pass, without end."""
        order = self.orders[task]
        end = order.num_rows - (order.num_rows % order.batch_size if self.drop_last else 0)
        for number in count():
            generator = seeded_generator(self.seed, epoch, place, number)
            rows = order.draw(generator)
            swapped = [False] * len(rows)
            if task in self.swappable:
                swapped = (torch.rand(len(rows), generator=generator) < 0.5).tolist()
            picks = [Pick(task, row, swap) for row, swap in zip(rows, swapped, strict=True)]
            for start in range(0, end, order.batch_size):
                yield picks[start : start + order.batch_size]


def _even_parts(batch: list[Pick], parts: int) -> list[list[Pick]]:
    size, larger = divmod(len(batch), parts)
    ends = [part * size + min(part, larger) for part in range(parts + 1)]
    shares = [batch[start:end] for start, end in pairwise(ends)]
    return [share or [batch[0]._replace(repeated=True)] for share in shares]
