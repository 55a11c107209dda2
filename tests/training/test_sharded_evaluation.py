"""Each row's answer stands at the row's place, and each row counts once; two processes: test_two_processes.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.training.evaluated import CASES, check, evaluate
from tests.training.small import rows, small_trainer


@pytest.mark.parametrize("name", CASES)
def test_row_by_row(name: str, tmp_path: Path) -> None:
    check(evaluate(tmp_path, name), name)


def test_options_of_training_stay_as_they_were(tmp_path: Path) -> None:
    shared_out = {"split_batches": False, "dispatch_batches": True, "even_batches": False}
    trainer = small_trainer(tmp_path, dataloader_drop_last=True, accelerator_config=shared_out)
    trainer.predict(rows(5))
    assert trainer.args.dataloader_drop_last
    assert {name: getattr(trainer.accelerator, name) for name in shared_out} == shared_out


def test_rows_without_a_label_do_not_count_in_the_loss(tmp_path: Path) -> None:
    given = rows(7, seed=3)
    unlabelled = [row | {"labels": -100} if place in (1, 2, 6) else row for place, row in enumerate(given)]
    trainer = small_trainer(tmp_path, per_device_eval_batch_size=3)
    alone = trainer.predict([row for row in unlabelled if row["labels"] != -100])
    found = trainer.predict(unlabelled)
    assert found.metrics["test_loss"] == pytest.approx(alone.metrics["test_loss"], abs=1e-6)


def test_losses_and_inputs_are_given_to_metrics_in_the_order_of_the_rows(tmp_path: Path) -> None:
    seen: dict[str, Any] = {}
    trainer = small_trainer(
        tmp_path,
        train_sampling_strategy="group_by_length",
        per_device_eval_batch_size=1,
        include_for_metrics=["inputs", "loss"],
    )
    given = rows(5, seed=3)
    alone = [trainer.predict([row]).metrics["test_loss"] for row in given]
    trainer.compute_metrics = lambda found: seen.update(inputs=found.inputs, losses=found.losses) or {}
    trainer.predict(given)
    assert seen["losses"] == pytest.approx(alone, abs=1e-6)
    assert np.unique(alone).size == 5
    for row, inputs in zip(given, seen["inputs"], strict=True):
        assert inputs[: len(row["input_ids"])].tolist() == row["input_ids"]


def test_persistent_workers_show_the_rows_that_are_given(tmp_path: Path) -> None:
    options = {"dataloader_num_workers": 1, "dataloader_persistent_workers": True}
    trainer, other = small_trainer(tmp_path, **options), rows(8, seed=5)
    own = trainer.evaluate()["eval_loss"]
    assert trainer.evaluate(other)["eval_loss"] == small_trainer(tmp_path).evaluate(other)["eval_loss"] != own
    assert trainer.evaluate()["eval_loss"] == own
