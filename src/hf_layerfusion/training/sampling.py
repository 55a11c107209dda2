"""The order in which examples come."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import LengthGroupedSampler


class SeededLengthGroupedSampler(LengthGroupedSampler):
    """Groups examples of like length, in an order that depends on nothing but `seed` and the epoch.

    The stock sampler draws from torch's global generator, which differs between the processes of a run as soon
    as they have drawn dropout masks for batches of unequal length. They then share out different permutations,
    and examples are left out.

    Args:
        *args: As for `LengthGroupedSampler`.
        seed: The order of epoch e is drawn from `seed + e`.
        epoch: Returns the number of the epoch that begins.
        **kwargs: As for `LengthGroupedSampler`.
    """

    def __init__(self, *args: Any, seed: int, epoch: Callable[[], int], **kwargs: Any) -> None:
        super().__init__(*args, generator=torch.Generator(), **kwargs)
        self.seed = seed
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        self.generator.manual_seed(self.seed + self.epoch())
        return super().__iter__()


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


def take_rows(arrays: Any, rows: npt.NDArray[np.intp]) -> Any:
    """The `rows` of an array, or of each array in a tuple; `None` stays."""
    if arrays is None:
        return None
    return tuple(take_rows(array, rows) for array in arrays) if isinstance(arrays, tuple) else arrays[rows]
