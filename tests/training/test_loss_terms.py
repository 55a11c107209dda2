"""What regularizers add to the Trainer's loss, and that a resumed run goes on with what they remember."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from hf_layerfusion.errors import UserError
from hf_layerfusion.regularizers import regularizer
from hf_layerfusion.training.training_arguments import CHECKPOINTING
from tests.training.small import small_arguments, small_trainer, weights_digest
from tests.training.small_tasks import small_tasks_model, tasks_trainer

SMART = {"smart": {"weight": 3.0, "epsilon": 0.1, "sigma": 0.1, "eta": 0.1}}


def entries(trainer: Any) -> list[dict[str, float]]:
    return [entry for entry in trainer.state.log_history if "learning_rate" in entry]


def trained(folder: Path, **changes: Any) -> Any:
    trainer = small_trainer(folder, **changes)
    trainer.train()
    return trainer


def test_a_weight_of_zero_changes_nothing_and_the_term_is_logged(tmp_path: Path) -> None:
    plain = trained(tmp_path / "plain", max_steps=2)
    zero = trained(tmp_path / "zero", max_steps=2, regularizers={"smart": SMART["smart"] | {"weight": 0.0}})
    assert weights_digest(zero.model) == weights_digest(plain.model)
    assert all(entry["smart"] > 0 for entry in entries(zero))
    assert [entry["loss"] for entry in entries(zero)] == [entry["loss"] for entry in entries(plain)]


def test_the_loss_is_the_model_s_and_the_weighted_term(tmp_path: Path) -> None:
    """The first step's loss is read before any weight has moved, so that it must be the plain one's and 3 R_s."""
    plain = entries(trained(tmp_path / "plain", max_steps=1))[0]
    smart = entries(trained(tmp_path / "smart", max_steps=1, regularizers=SMART))[0]
    assert smart["smart_radius"] == pytest.approx(0.1)
    assert smart["loss"] == pytest.approx(plain["loss"] + 3 * smart["smart"], rel=1e-4)


def test_a_name_alone_takes_the_defaults(tmp_path: Path) -> None:
    (entry,) = entries(trained(tmp_path, max_steps=1, regularizers="rdrop"))
    assert entry["rdrop"] == 0, "this model has no dropout"


def test_low_memory_ends_in_the_same_weights(tmp_path: Path) -> None:
    weights = [
        trained(tmp_path / str(low), max_steps=2, regularizers=SMART, low_memory=low).model.state_dict()
        for low in (False, True)
    ]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, msg=name)


def test_the_terms_of_tasks_are_logged_by_task(tmp_path: Path) -> None:
    for mixing in ("together", "shuffled"):
        trainer = tasks_trainer(tmp_path / mixing, task_mixing=mixing, num_train_epochs=1, logging_steps=100,
                                regularizers=SMART, logging_strategy="epoch")  # fmt: skip
        trainer.train()
        (entry,) = entries(trainer)
        assert {"smart_five", "smart_para", "smart_sim"} <= entry.keys()


def test_surgery_takes_the_regularized_losses(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "task_mixing": "together",
        "max_steps": 1,
        "regularizers": {"bregman": {"weight": 2.0}},
    }
    plain, cut = (
        tasks_trainer(tmp_path / str(surgery), gradient_surgery=surgery, **options)
        for surgery in (None, "sum")
    )
    plain.train(), cut.train()
    assert entries(cut)[0]["loss"] == pytest.approx(entries(plain)[0]["loss"], rel=1e-5)


class Killed(Exception):
    pass


class KillAt(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 3:
            raise Killed


def test_a_resumed_run_keeps_its_teacher(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "regularizers": {"bregman": {"weight": 5.0, "momentum": 0.5}},
        "save_strategy": "steps", "save_steps": 2, "num_train_epochs": 2,
    }  # fmt: skip
    whole = trained(tmp_path / "whole", **options)
    with pytest.raises(Killed):
        small_trainer(tmp_path / "cut", callbacks=[KillAt()], **options).train()
    assert (tmp_path / "cut" / "checkpoint-2" / "regularizer_bregman.safetensors").exists()
    resumed = small_trainer(tmp_path / "cut", **options)
    resumed.train(resume_from_checkpoint=True)
    assert weights_digest(resumed.model) == weights_digest(whole.model)


MISTAKES = {
    "unknown name": ({"regularizers": "smrt"}, "must be of smart, bregman, rdrop, freelb, found 'smrt'"),
    "unknown setting": ({"regularizers": {"smart": {"lambda": 1}}}, "regularizers: smart: .*lambda"),
    "out of range": ({"regularizers": {"smart": {"steps": 0}}}, "steps must be 1 or more"),
    "wrong type": ({"regularizers": {"smart": {"steps": 1.5}}}, "steps must be a whole number; found 1.5"),
    "a word for a number": (
        {"regularizers": {"smart": {"weight": "5"}}},
        "weight must be a number; found '5'",
    ),
    "a word for yes": (
        {"regularizers": {"smart": {"same_dropout": "no"}}},
        "same_dropout must be true or false, or left out; found 'no'",
    ),
    "noise without a gradient": (
        {"regularizers": "freelb", CHECKPOINTING: True, f"{CHECKPOINTING}_kwargs": {"use_reentrant": True}},
        "freelb takes gradients by its noise, which .*; set use_reentrant=False",
    ),
    "no settings": ({"regularizers": {"smart": 5}}, "must be a name or settings by name"),
    "smoothing": (
        {"regularizers": "smart", "label_smoothing_factor": 0.1},
        "excludes label_smoothing_factor",
    ),
    "nothing to save memory of": ({"low_memory": True}, "low_memory is for regularizers"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_refused_at_the_start(tmp_path: Path, mistake: str) -> None:
    changes, message = MISTAKES[mistake]
    with pytest.raises(UserError, match=message):
        small_trainer(tmp_path, **changes)


def test_settings_come_as_json_from_a_command_line(tmp_path: Path) -> None:
    args = small_arguments(tmp_path, regularizers='{"smart": {"weight": 5}}')
    assert args.named_regularizers == {"smart": {"weight": 5}}


def test_a_run_without_regularizers_is_resumed_with_one(tmp_path: Path) -> None:
    options = {"save_strategy": "steps", "save_steps": 2}
    small_trainer(tmp_path, **options).train()
    resumed = small_trainer(tmp_path, regularizers="bregman", **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert resumed.state.global_step == 4


def test_a_resumed_run_of_several_tasks_is_the_same_to_the_bit(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "task_mixing": "together_longest",
        "regularizers": "bregman",
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "num_train_epochs": 3,
        "save_strategy": "steps",
        "save_steps": 3,
    }
    whole, resumed = (tasks_trainer(tmp_path, model=small_tasks_model(dropout=0.1), **options) for _ in "ab")
    whole.train()
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert weights_digest(resumed.model) == weights_digest(whole.model)


def test_low_memory_holds_in_steps_without_a_term_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[None] = []
    checkpointed = regularizer.checkpointed

    def counted(model: Any) -> Any:
        passes.append(None)
        return checkpointed(model)

    monkeypatch.setattr(regularizer, "checkpointed", counted)
    trained(tmp_path, max_steps=4, regularizers={"smart": SMART["smart"] | {"every": 2}}, low_memory=True)
    assert len(passes) == 2, "the steps of which none is due"
