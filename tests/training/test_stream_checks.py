"""Training on streams: the same weights as on rows with a length, and what a stream cannot do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch

from hf_layerfusion.errors import UserError
from hf_layerfusion.training.stream_checks import check_stream
from hf_layerfusion.training.trainer import LayerFusionTrainer
from tests.tiny import tiny_tokenizer
from tests.training.small import rows, small_arguments, small_model, small_trainer, weights_digest


def stream_of(examples: list[dict[str, Any]]) -> datasets.IterableDataset:
    def read() -> Iterator[dict[str, Any]]:
        yield from examples

    return datasets.IterableDataset.from_generator(read)


class TorchStream(torch.utils.data.IterableDataset):
    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(rows(32))


@pytest.mark.parametrize(
    ("count", "settings"),
    [
        (32, {"max_steps": 4}),
        (32, {"max_steps": 7}),  # starts over in its middle
        (29, {"max_steps": 6}),  # its last batch is a small one
        (32, {"max_steps": 6, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}),
    ],
)
def test_a_stream_trains_to_the_weights_of_the_rows_in_its_order(
    tmp_path: Path, count: int, settings: dict[str, Any]
) -> None:
    digests = []
    for train in (rows(count), stream_of(rows(count))):
        trainer = small_trainer(
            tmp_path, small_model(0.1), train, train_sampling_strategy="sequential", **settings
        )
        torch.manual_seed(0)
        trainer.train()
        assert trainer.state.global_step == settings["max_steps"]
        digests.append(weights_digest(trainer.model))
    assert digests[0] == digests[1] != weights_digest(small_model(0.1))


def test_a_stream_that_ends_within_a_step_completes_it(tmp_path: Path) -> None:
    # 8 micro-batches in steps of 3: the stock Trainer would add the last two to the next pass's first step.
    found = []
    for train in (rows(29), stream_of(rows(29))):
        trainer = small_trainer(
            tmp_path,
            train=train,
            train_sampling_strategy="sequential",
            max_steps=6,
            per_device_train_batch_size=4,
            gradient_accumulation_steps=3,
        )
        trainer.train()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        found.append((losses, trainer.model.state_dict()))
    (losses, weights), (of_stream, weights_of_stream) = found
    assert of_stream == pytest.approx(losses, abs=1e-6)
    for name, weight in weights.items():
        torch.testing.assert_close(weights_of_stream[name], weight, rtol=0, atol=1e-6)


def test_columns_that_the_model_does_not_take_are_left_out(tmp_path: Path) -> None:
    examples = [row | {"text": "as it was"} for row in rows(8)]
    trainer = small_trainer(tmp_path, train=stream_of(examples), max_steps=1)
    trainer.train()
    plain = small_trainer(tmp_path, train=stream_of(rows(8)), max_steps=1)
    plain.train()
    assert weights_digest(trainer.model) == weights_digest(plain.model)


@pytest.mark.parametrize("train", [TorchStream(), stream_of(rows(32))], ids=["torch", "datasets"])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, r"num_train_epochs needs training data of a known length, found a stream .*; set max_steps"),
        (
            {"max_steps": 2, "train_sampling_strategy": "group_by_length"},
            "train_sampling_strategy=group_by_length needs training data of a known length, found a stream",
        ),
        (
            {"max_steps": 2, "class_balance": "sampling"},
            "class_balance=sampling needs training data of a known",
        ),
        (
            {"max_steps": 2, "class_balance": "weights"},
            "class_balance=weights needs training data of a known",
        ),
        ({"max_steps": 2, "unfreeze_per_epoch": 1}, "unfreeze_per_epoch=1 needs training data of a known"),
    ],
)
def test_options_that_need_a_length_refuse_a_stream(
    tmp_path: Path, train: Any, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        small_trainer(tmp_path, train=train, **settings)


def test_several_tasks_refuse_a_stream(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="training data of task 'a': must have a length, found a stream"):
        LayerFusionTrainer(
            small_model(),
            small_arguments(tmp_path, max_steps=2),
            train_dataset={"a": stream_of(rows(8)), "b": rows(8)},
            processing_class=tiny_tokenizer(),
        )


def test_head_first_refuses_a_stream(tmp_path: Path) -> None:
    args = small_arguments(tmp_path, max_steps=2, head_first_epochs=1.0)
    with pytest.raises(
        UserError, match=r"head_first_epochs=1.0 needs training data of a known .*; leave it out"
    ):
        check_stream(TorchStream(), args)
