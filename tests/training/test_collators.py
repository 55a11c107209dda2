from __future__ import annotations

import torch
from transformers import DataCollatorWithPadding

from hf_layerfusion.regularizers.task_outputs import ONE_TASK, task_inputs
from hf_layerfusion.training.collators import MultitaskCollator, PaddingCollator
from tests.tiny import tiny_tokenizer


def test_plain_rows_are_padded_as_transformers_does() -> None:
    encode = tiny_tokenizer()
    rows = [
        {**encode(text, "the movie"), "labels": label, "id": "x"}
        for label, text in enumerate(["good", "a very bad day", "not so sad"])
    ]
    batch = PaddingCollator(encode)(rows)
    expected = DataCollatorWithPadding(encode)([{k: v for k, v in row.items() if k != "id"} for row in rows])
    assert batch.keys() == expected.keys()
    for name in batch:
        assert torch.equal(batch[name], expected[name])
    assert "labels" not in PaddingCollator(encode)([dict(encode("good"))])


def test_texts_that_stand_apart() -> None:
    rows = [
        {"input_ids": [[5, 6], [7]], "attention_mask": [[1, 1], [1]], "labels": 0.5},
        {"input_ids": [[8], [5, 6, 7]], "attention_mask": [[1], [1, 1, 1]], "labels": 4},
    ]
    batch = PaddingCollator(tiny_tokenizer())(rows)
    assert batch["input_ids"].tolist() == [[[5, 6, 0], [7, 0, 0]], [[8, 0, 0], [5, 6, 7]]]
    assert batch["attention_mask"].tolist() == [[[1, 1, 0], [1, 0, 0]], [[1, 0, 0], [1, 1, 1]]]
    assert batch["labels"].tolist() == [0.5, 4.0]
    assert batch["labels"].dtype == torch.float32
    as_tensors = [{"input_ids": torch.tensor([[1, 2], [3, 4]])}] * 2
    assert PaddingCollator(tiny_tokenizer())(as_tensors)["input_ids"].shape == (2, 2, 2)


def test_many_labels_a_row() -> None:
    rows = [{"input_ids": [5], "labels": [0.0, 1.0]}, {"input_ids": [6], "labels": [1.0, 1.0]}]
    assert PaddingCollator(tiny_tokenizer())(rows)["labels"].tolist() == [[0.0, 1.0], [1.0, 1.0]]


def test_the_task_is_named() -> None:
    collate = MultitaskCollator(PaddingCollator(tiny_tokenizer()))
    a = {"task": "a", "input_ids": [5, 6], "attention_mask": [1, 1], "labels": 1}
    b = {"task": "b", "input_ids": [7], "attention_mask": [1], "labels": 0.5}
    one = collate([a, a])
    assert one["task"] == "a"
    assert one["labels"].tolist() == [1, 1]
    assert task_inputs(one) == {"a": one}
    several = collate([a, b | {"repeated": True}])
    assert set(several) == {"tasks"}
    assert several["tasks"]["a"]["input_ids"].tolist() == [[5, 6]]
    assert several["tasks"]["b"]["input_ids"].tolist() == [[7]]
    assert several["tasks"]["b"]["repeated"] is True
    assert "repeated" not in several["tasks"]["a"]
    assert list(task_inputs(several)) == ["a", "b"]
    assert task_inputs({"labels": 1}) == {ONE_TASK: {"labels": 1}}
