from __future__ import annotations

from collections import Counter

import pytest
import torch
from datasets import Dataset
from transformers.trainer_pt_utils import LengthGroupedSampler

from hf_layerfusion.training.samplers import RowOrder, SeededSampler, row_lengths, seeded_generator

LENGTHS = [3 + (7 * row) % 11 for row in range(50)]
CLASSES = [int(row % 10 == 0) for row in range(50)]


def test_grouping_by_length_is_that_of_transformers() -> None:
    for epoch in range(3):
        ours = SeededSampler(RowOrder(50, 4, lengths=LENGTHS), seed=5, epoch=lambda epoch=epoch: epoch)
        generator = torch.Generator().manual_seed(5 + epoch)
        assert list(ours) == list(LengthGroupedSampler(4, lengths=LENGTHS, generator=generator))
        assert len(ours) == 50


@pytest.mark.parametrize("lengths", [None, LENGTHS])
def test_balanced_classes(lengths: list[int] | None) -> None:
    order = RowOrder(50, 4, lengths=lengths, classes=CLASSES)
    rows = order.draw(torch.Generator().manual_seed(0))
    assert Counter(CLASSES[row] for row in rows) == {0: 25, 1: 25}
    assert rows != order.draw(torch.Generator().manual_seed(1))


def test_as_they_stand() -> None:
    assert RowOrder(5, 2, shuffled=False).draw(torch.Generator()) == [0, 1, 2, 3, 4]


def test_the_generator_depends_on_each_number_of_its_key() -> None:
    keys = [(0,), (0, 0), (0, 1), (1, 0), (1, 0, 0), (0, 1, 0)]
    drawn = {tuple(torch.rand(3, generator=seeded_generator(*key)).tolist()) for key in keys}
    assert len(drawn) == len(keys)
    again = torch.rand(3, generator=seeded_generator(1, 0))
    assert tuple(again.tolist()) in drawn


def test_pairs_that_are_encoded_separately_are_as_long_as_their_longer_text() -> None:
    rows = Dataset.from_dict({"input_ids": [[[1, 2, 3], [1] * 22], [[1] * 5, [1]]]})
    assert row_lengths(rows, "length", None) == [22, 5]
