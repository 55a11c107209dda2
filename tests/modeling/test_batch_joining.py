from __future__ import annotations

import pytest
import torch

from hf_layerfusion.modeling.batch_joining import flatten_pairs, join_batches
from hf_layerfusion.modeling.layer_routing import ALL_ROWS


def ids(*rows: list[int]) -> dict[str, torch.Tensor]:
    return {"input_ids": torch.tensor(rows)}


def test_batches_one_below_the_other_padded_on_the_right() -> None:
    one = {**ids([5, 6], [7, 1]), "attention_mask": torch.tensor([[1, 1], [1, 0]])}
    two = {**ids([8, 9, 10]), "token_type_ids": torch.tensor([[0, 0, 1]])}
    joined, routes = join_batches({"a": one, "b": two}, (), pad_token_id=1)
    assert joined["input_ids"].tolist() == [[5, 6, 1], [7, 1, 1], [8, 9, 10]]
    assert joined["attention_mask"].tolist() == [[1, 1, 0], [1, 0, 0], [1, 1, 1]]
    assert joined["token_type_ids"].tolist() == [[0, 0, 0], [0, 0, 0], [0, 0, 1]]
    assert [(r.task, r.rows, r.size) for r in routes] == [("a", slice(0, 2), 2), ("b", slice(2, 3), 1)]


def test_siamese_pairs_stand_one_text_after_the_other() -> None:
    pairs = {"input_ids": torch.arange(8).view(2, 2, 2)}
    joined, routes = join_batches({"a": ids([9, 9]), "b": pairs}, ("b",), 0)
    assert joined["input_ids"].tolist() == [[9, 9], [0, 1], [2, 3], [4, 5], [6, 7]]
    assert routes[1].rows == slice(1, 5)


def test_the_same_tensors_stand_there_once() -> None:
    shared, other = ids([5, 6], [7, 8]), ids([1, 2])
    joined, routes = join_batches({"a": shared, "b": other, "c": dict(shared)}, (), 0)
    assert joined["input_ids"].shape == (3, 2)
    assert routes[0].rows == routes[2].rows == slice(0, 2)
    joined, routes = join_batches({"a": shared, "c": dict(shared)}, (), 0)
    assert joined["input_ids"] is shared["input_ids"]
    assert [route.rows for route in routes] == [ALL_ROWS, ALL_ROWS]
    pairs = {"input_ids": torch.arange(8).view(2, 2, 2)}
    joined, routes = join_batches({"a": pairs, "b": pairs}, ("a", "b"), 0)
    assert joined["input_ids"].shape == (4, 2)


def test_embeddings_are_padded_with_zeros() -> None:
    joined, _ = join_batches(
        {"a": {"inputs_embeds": torch.ones(1, 2, 3)}, "b": {"inputs_embeds": torch.ones(1, 3, 3)}}, (), 7
    )
    assert joined["inputs_embeds"][0].tolist() == [[1, 1, 1], [1, 1, 1], [0, 0, 0]]
    assert joined["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]


@pytest.mark.parametrize(
    ("inputs", "is_siamese", "message"),
    [
        ({}, False, r"one of `input_ids`, `inputs_embeds` and `encoder_states`, found \[\]"),
        (
            {"input_ids": torch.ones(1, 2), "inputs_embeds": torch.ones(1, 2, 3)},
            False,
            "one of `input_ids`, `inputs_embeds` and `encoder_states`, found",
        ),
        (
            {"input_ids": torch.ones(1, 2, 3)},
            False,
            r"`input_ids` of task 't' must be \[B, T\], found \[1, 2, 3\]",
        ),
        ({"input_ids": torch.ones(2, 3)}, True, r"must be \[B, 2, T\].* found \[2, 3\]; MultitaskPipeline"),
        ({"input_ids": torch.ones(2, 3, 4)}, True, r"must be \[B, 2, T\].* found \[2, 3, 4\]"),
        (
            {"input_ids": torch.ones(2, 2, 4), "attention_mask": torch.ones(2, 4)},
            True,
            "`attention_mask` of task 't'",
        ),
    ],
)
def test_inputs_of_a_wrong_shape(inputs: dict[str, torch.Tensor], is_siamese: bool, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        flatten_pairs(inputs, "t", is_siamese)
