"""Tests of auto_find_batch_size: a run that ran out of memory is the run of the batch size that it found."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

from tests.tiny import tiny_config
from tests.training.small import InfiniteLoss, rows, small_model, small_trainer, weights_digest
from tests.training.small_tasks import small_tasks_model, tasks_trainer

FOUND = 7  # accelerate tries nine tenths of 8


class OutOfMemory(TrainerCallback):
    """Runs out of memory at a step of the first attempt, as CUDA does."""

    def __init__(self, step: int) -> None:
        self.step, self.attempts = step, 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.attempts += 1
        self.first_step = state.global_step

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.attempts == 1 and state.global_step == self.first_step + self.step:
            raise RuntimeError("CUDA out of memory.")


def diverging_model() -> InfiniteLoss:
    return InfiniteLoss(tiny_config("bert", 2))


def logged(trainer: Any) -> list[dict[str, Any]]:
    timed = ("train_runtime", "train_samples_per_second", "train_steps_per_second", "total_flos")
    timed += ("eval_runtime", "eval_samples_per_second", "eval_steps_per_second")
    return [{k: v for k, v in entry.items() if k not in timed} for entry in trainer.state.log_history]


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "averages": {"ema_decay": 0.9, "logging_steps": 3},
    "a part of the steps": {"average_last": 0.5},
    "weights between start and end": {"weight_interpolation": 0.5},
    "remembered weights": {"regularizers": {"bregman": {"weight": 5.0, "momentum": 0.5}}, "logging_steps": 3},
    "frozen layers": {"unfreeze_per_epoch": 1},
    "patience": {
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "load_best_model_at_end": True,
        "early_stopping_patience": 2,
    },
    "schedule": {"lr_scheduler_type": "linear", "warmup_steps": 3},
}


@pytest.mark.parametrize("case", CASES)
def test_the_run_is_that_of_the_batch_size_that_was_found(tmp_path: Path, case: str) -> None:
    found = []
    options = {"num_train_epochs": 3, **CASES[case]}
    for changes in ({"auto_find_batch_size": True}, {"per_device_train_batch_size": FOUND}):
        fails = "auto_find_batch_size" in changes
        callbacks = [OutOfMemory(6)] if fails else None
        trainer = small_trainer(
            tmp_path / str(fails), small_model(dropout=0.1), callbacks=callbacks, **options, **changes
        )
        trainer.train()
        assert not fails or callbacks[0].attempts == 2
        found.append((weights_digest(trainer.model), logged(trainer)))
    assert found[0] == found[1]


@pytest.mark.parametrize("weights", [{"ema_decay": 0.9}, {"weight_interpolation": 0.5}])
def test_a_resumed_run_goes_back_to_its_checkpoint(weights: dict[str, float], tmp_path: Path) -> None:
    """After four steps as before the first one."""
    options: dict[str, Any] = {"num_train_epochs": 3, "logging_steps": 3, **weights}
    options |= {"save_strategy": "steps", "save_steps": 5, "auto_find_batch_size": True}
    small_trainer(tmp_path, small_model(dropout=0.1), **options).train()
    found = []
    for step in (4, 0):
        fails = OutOfMemory(step)
        resumed = small_trainer(tmp_path, small_model(dropout=0.1), callbacks=[fails], **options)
        resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
        assert fails.attempts == 2
        found.append((weights_digest(resumed.model), logged(resumed)))
    assert found[0] == found[1]


def test_steps_that_an_attempt_skipped_do_not_count(tmp_path: Path) -> None:
    """A row of class 1 stands in front of the second batch of 8, and of no batch of 7."""
    examples = rows(14)
    for place, row in enumerate(examples):
        row["labels"] = int(place not in (0, 7))
    fails = OutOfMemory(2)
    trainer = small_trainer(
        tmp_path,
        diverging_model(),
        examples,
        callbacks=[fails],
        num_train_epochs=2,
        on_divergence="skip",
        train_sampling_strategy="sequential",
        auto_find_batch_size=True,
    )
    trainer.train()
    assert fails.attempts == 2
    assert trainer.skipped_steps == 0
    entries = [entry for entry in logged(trainer) if "loss" in entry]
    assert [entry["skipped_steps"] for entry in entries] == [0] * 4
    assert all(math.isfinite(entry["loss"]) for entry in entries)


def test_tasks_and_their_gradients_start_over(tmp_path: Path) -> None:
    found = []
    options = {"task_mixing": "together", "gradient_surgery": "pcgrad"}
    options |= {"logging_steps": 2, "num_train_epochs": 3}
    for size, fails in ((8, True), (FOUND, False)):
        trainer = tasks_trainer(
            tmp_path,
            model=small_tasks_model(dropout=0.1),
            per_device_train_batch_size=size,
            auto_find_batch_size=fails,
            **options,
        )
        if fails:
            trainer.add_callback(OutOfMemory(1))
        trainer.train()
        found.append((weights_digest(trainer.model), logged(trainer)))
    assert found[0] == found[1]
