"""The log of a run that was interrupted, and where it ends, against those of a run that was not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

from hf_layerfusion.training.trainer import LayerFusionTrainer
from tests.training.small import InfiniteLoss, rows, small_model, small_trainer, weights_digest
from tests.training.small_tasks import small_tasks_model, tasks_trainer, train_sets

TIMES = ("runtime", "per_second", "preparation_time")


class Killed(Exception):
    """Stands in for a signal."""


class KillAt(TrainerCallback):
    """Ends the process, as it were, once the checkpoint of a step is written."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise Killed


def log(trainer: LayerFusionTrainer) -> list[dict[str, Any]]:
    """The entries of the log, without times."""
    return [
        {name: value for name, value in entry.items() if not name.endswith(TIMES)}
        for entry in trainer.state.log_history
    ]


def compare(make: Any, folder: Path, step: int) -> LayerFusionTrainer:
    """Trains once, and once more with a kill behind the checkpoint of a step; the first, equal to the second."""
    whole = make(folder / "whole")
    output = whole.train()
    cut = make(folder / "cut")
    cut.add_callback(KillAt(step))
    with pytest.raises(Killed):
        cut.train()
    resumed = make(folder / "cut")
    found = resumed.train(resume_from_checkpoint=True)
    assert log(resumed) == log(whole)
    assert found.training_loss == pytest.approx(output.training_loss, rel=1e-6)
    assert resumed.state.global_step == whole.state.global_step
    assert weights_digest(resumed.model) == weights_digest(whole.model)
    return whole


@pytest.mark.parametrize(
    ("step", "changes"),
    [
        (2, {"logging_strategy": "epoch"}),  # within an epoch of 4 steps
        (4, {"logging_strategy": "epoch", "eval_strategy": "epoch"}),  # at its last step, before it ends
        (4, {"logging_steps": 3}),
        (8, {"logging_strategy": "epoch", "eval_strategy": "epoch"}),  # the last step of all
        (
            6,
            {"logging_strategy": "epoch", "eval_strategy": "epoch", "max_steps": 6},
        ),  # the last, within an epoch
        (6, {"logging_strategy": "no", "max_steps": 6}),
        (4, {"logging_strategy": "epoch", "save_strategy": "epoch", "eval_strategy": "epoch"}),
        (8, {"logging_strategy": "epoch", "save_strategy": "epoch", "eval_strategy": "epoch"}),
    ],
)
def test_the_log_does_not_tell_of_the_interruption(
    tmp_path: Path, step: int, changes: dict[str, Any]
) -> None:
    settings = {
        "num_train_epochs": 2,
        "save_strategy": "steps",
        "save_steps": 2,
        "epoch_decay": 0.5,
        **changes,
    }
    compare(lambda folder: small_trainer(folder, small_model(0.1), **settings), tmp_path, step)


def test_steps_that_are_left_out_stay_left_out(tmp_path: Path) -> None:
    config, data = small_model().config, rows(32)
    for place in (0, 8, 16, 24):  # the first row of each batch
        data[place]["labels"] = int(place == 8)

    def make(folder: Path) -> LayerFusionTrainer:
        model = InfiniteLoss(config)
        model.load_state_dict(small_model().state_dict())
        return small_trainer(
            folder, model, data, on_divergence="skip", logging_strategy="epoch", save_strategy="steps",
            save_steps=2, num_train_epochs=2, train_sampling_strategy="sequential",
        )  # fmt: skip

    whole = compare(make, tmp_path, 6)
    assert whole.skipped_steps


def test_every_sum_of_several_tasks_goes_on(tmp_path: Path) -> None:
    """Losses by task, what regularizers tell, conflicts of gradients."""

    def make(folder: Path) -> LayerFusionTrainer:
        return tasks_trainer(
            folder, small_tasks_model(0.1), train_sets(five=16, para=16, sim=16), task_mixing="together",
            gradient_surgery="pcgrad", regularizers="smart", logging_strategy="epoch", save_strategy="steps",
            save_steps=1, per_device_train_batch_size=4,
        )  # fmt: skip

    whole = compare(make, tmp_path, 3)
    (entry,) = [entry for entry in log(whole) if "loss" in entry]
    assert {"loss_five", "smart_five", "cosine_five_para", "conflict"} <= entry.keys()
