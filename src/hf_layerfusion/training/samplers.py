"""Samplers: the order of the rows of one data set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Sampler
from transformers import TrainingArguments
from transformers.trainer_pt_utils import LengthGroupedSampler, get_length_grouped_indices

from hf_layerfusion.training.class_balance import balanced_rows


@dataclass(frozen=True)
class RowOrder:
    """Draws the order of the rows for one pass over a data set.

    Attributes:
        num_rows: number of rows.
        batch_size: rows of an optimizer step, on all processes together. Grouping by length needs it.
        lengths: number of tokens of each row, to group rows of like length; None leaves them ungrouped.
        classes: class of each row, to show each class as often as any other; None shows each row once.
        shuffled: False takes the rows as they stand.
    """

    num_rows: int
    batch_size: int
    lengths: Sequence[int] | None = None
    classes: Sequence[int] | None = None
    shuffled: bool = True

    def draw(self, generator: torch.Generator) -> list[int]:
        """Draw the indices of the rows, as many as there are rows."""
        rows: Sequence[int] = range(self.num_rows)
        if self.classes is not None:
            rows = balanced_rows(self.classes, generator)
        if self.lengths is not None:
            lengths = [self.lengths[row] for row in rows]
            order: list[int] = get_length_grouped_indices(lengths, self.batch_size, generator=generator)
        elif self.shuffled:
            order = torch.randperm(len(rows), generator=generator).tolist()
        else:
            return list(rows)
        return [rows[index] for index in order]


class SeededSampler(Sampler[int]):
    """Rows in an order that depends on nothing but `seed` and the epoch.

    The stock samplers draw from torch's global generator, which differs between the processes of a run as soon
    as they have drawn dropout masks for batches of unequal length. They then share out different permutations,
    and examples are left out.

    Args:
        order: draws the rows of an epoch.
        seed: The order of epoch e is drawn from `seed + e`.
        epoch: Returns the number of the epoch that begins.
    """

    def __init__(self, order: RowOrder, seed: int, epoch: Callable[[], int]) -> None:
        self.order = order
        self.seed = seed
        self.epoch = epoch

    def __len__(self) -> int:
        return self.order.num_rows

    def __iter__(self) -> Iterator[int]:
        return iter(self.order.draw(torch.Generator().manual_seed(self.seed + self.epoch())))


def seeded_sampler(
    args: TrainingArguments,
    dataset: Any,
    classes: Sequence[int] | None,
    main_input: str | None,
    epoch: Callable[[], int],
) -> SeededSampler:
    """Return the sampler of a training set that is grouped by length or balanced by class.

    Args:
        args: Batch size, grouping and seed.
        dataset: The rows.
        classes: The class of each row, to show each class equally often; None shows each row once.
        main_input: The column whose length counts where there is no column of lengths.
        epoch: Returns the number of the epoch that begins.
    """
    grouped = args.train_sampling_strategy == "group_by_length"
    order = RowOrder(
        len(dataset),
        # All examples of an optimizer step, so that the order does not depend on how they are shared out.
        args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
        lengths=row_lengths(dataset, args.length_column_name, main_input) if grouped else None,
        classes=classes,
    )
    return SeededSampler(order, args.seed if args.data_seed is None else args.data_seed, epoch)


class LengthSortedSampler(Sampler[int]):
    """Examples from the longest to the shortest, the cheapest order for evaluation; ties as they stand.

    Args:
        lengths: number of tokens of each example.
    """

    def __init__(self, lengths: Sequence[int]) -> None:
        self.order = sorted(range(len(lengths)), key=lambda index: -lengths[index])

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[int]:
        return iter(self.order)


def seeded_generator(*key: int) -> torch.Generator:
    """Return a generator whose draws depend only on the numbers of `key`, which are 0 or more."""
    # With its length, as (1,) and (1, 0) are the same to numpy.
    state = np.random.SeedSequence([len(key), *key]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


def take_rows(arrays: Any, rows: npt.NDArray[np.intp]) -> Any:
    """Return the `rows` of an array, or of each array in a tuple, list or dictionary; `None` stays."""
    if isinstance(arrays, tuple | list):
        return type(arrays)(take_rows(array, rows) for array in arrays)
    if isinstance(arrays, Mapping):
        return {name: take_rows(array, rows) for name, array in arrays.items()}
    return None if arrays is None else arrays[rows]


def is_apart(input_ids: Any) -> bool:
    """Return whether the ids of a row are two lists, of separately encoded texts; an empty list is a single text."""
    return len(input_ids) > 0 and np.ndim(input_ids[0]) > 0


def row_lengths(dataset: Any, column: str, main_input: str | None) -> list[int]:
    """Return the number of tokens of each row of a data set.

    Args:
        dataset: Rows with inputs.
        column: Holds the lengths; where it is missing, the main input is measured, of separately encoded pairs the
            longer text.
        main_input: The main input's name; None for `input_ids`.
    """
    if hasattr(dataset, "lengths"):  # of a task, whose pairs may be encoded apart
        return list(dataset.lengths(column))
    names = getattr(dataset, "column_names", ())
    lengths = dataset[column] if column in names else None
    main_input = main_input or "input_ids"
    if lengths is None and main_input in names and len(dataset) > 0 and is_apart(dataset[0][main_input]):
        lengths = [max(map(len, texts)) for texts in dataset[main_input]]
    # The sampler measures, and refuses rows that have no such input.
    return list(
        LengthGroupedSampler(1, dataset=dataset, lengths=lengths, model_input_name=main_input).lengths
    )
