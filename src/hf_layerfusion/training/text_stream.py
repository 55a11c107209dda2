"""Training data from a stream of texts, shuffled and encoded on the fly, and reproducible on resuming."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import datasets
import numpy as np
from torch.utils.data import IterableDataset

DRAW = "draw"
"""Where a row of a stream carries the seed of what is drawn for it; see `TextStream`."""


class TextStream(IterableDataset):
    """Model inputs from a stream of texts, in another order each epoch, with no more than a buffer in memory.

    Each row has `DRAW`, a seed that seed, epoch and place in the stream determine and nothing else: what is drawn by
    it is the same whether a run was interrupted, or shared out among processes, or not.

    Args:
        texts: rows with `columns`.
        length: their number, so that the Trainer can count epochs.
        encode: from a batch of texts, a list for each of `columns`, to the columns of the model's inputs.
        seed: of the order and the draws.
        buffer_size: number of rows that each next one is drawn from; 0 keeps the order.
        columns: columns of texts.
    """

    def __init__(
        self,
        texts: datasets.IterableDataset,
        length: int,
        encode: Callable[..., dict[str, list[Any]]],
        seed: int,
        buffer_size: int = 0,
        columns: Sequence[str] = ("text",),
    ) -> None:
        shuffled = texts.shuffle(seed=seed, buffer_size=buffer_size) if buffer_size else texts
        self.rows = shuffled.map(
            encode, batched=True, input_columns=list(columns), remove_columns=list(columns)
        )
        self.length, self.seed, self.epoch = length, seed, 0

    def with_draws_of(self, seed: int) -> TextStream:
        """Return the same rows in the same order, with another seed for what is drawn for them."""
        other = copy.copy(self)
        other.seed = seed
        return other

    def __len__(self) -> int:
        return self.length

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; accelerate's data loader calls it before each one."""
        self.epoch = epoch
        self.rows.set_epoch(epoch)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for place, row in enumerate(self.rows):
            draw = np.random.SeedSequence([self.seed, self.epoch, place]).generate_state(1)
            yield {**row, DRAW: int(draw[0])}
