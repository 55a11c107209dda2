from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import DataCollatorWithPadding, TrainerCallback

from hf_layerfusion.errors import UserError
from hf_layerfusion.training.checkpoints import verify_checkpoint
from hf_layerfusion.training.trainer import LayerFusionTrainer
from tests.tiny import tiny_tokenizer
from tests.training.small import (
    InfiniteLoss,
    rows,
    small_arguments,
    small_model,
    small_trainer,
    weights_digest,
)
from tests.training.small_tasks import tasks_trainer, train_sets

NAN = float("nan")


def regression_rows(count: int, bad: tuple[int, ...] = ()) -> list[dict[str, Any]]:
    return [
        row | {"labels": NAN if index in bad else float(index % 5)} for index, row in enumerate(rows(count))
    ]


def regression_trainer(folder: Path, bad: tuple[int, ...], count: int = 32, **changes: Any) -> Any:
    """Four steps of 8 rows, in their order."""
    settings: dict[str, Any] = {"train_sampling_strategy": "sequential", "on_divergence": "skip"}
    model = small_model(num_labels=1)
    return small_trainer(folder, model, regression_rows(count, bad), **(settings | changes))


def entries(trainer: Any, key: str) -> list[Any]:
    return [entry[key] for entry in trainer.state.log_history if key in entry]


# Stopping


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_loss_that_is_not_finite_stops_before_it_reaches_the_weights(
    tmp_path: Path, accumulation: int
) -> None:
    trainer = regression_trainer(
        tmp_path,
        (20,),
        save_strategy="steps",
        save_steps=1,
        gradient_accumulation_steps=accumulation,
        on_divergence="stop",
    )
    with pytest.raises(
        UserError, match=f"training loss is not finite at step {3 if accumulation == 1 else 2} "
    ):
        trainer.train()
    assert all(torch.isfinite(parameter).all() for parameter in trainer.model.parameters())
    last = max(tmp_path.glob("checkpoint-*"))
    verify_checkpoint(last)
    assert last.name == ("checkpoint-2" if accumulation == 1 else "checkpoint-1")


def test_a_gradient_that_is_not_finite_stops_too(tmp_path: Path) -> None:
    model = small_model()
    model.classifier.weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(UserError, match="gradient is not finite at step 1 "):
        small_trainer(tmp_path, model).train()


def test_the_task_of_a_gradient_that_is_not_finite_is_named(tmp_path: Path) -> None:
    trainer = tasks_trainer(tmp_path, task_mixing="round_robin")
    trainer.model.heads["para"].weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(UserError, match="gradient of para is not finite at step 2 "):
        trainer.train()


# Skipping


class After(TrainerCallback):
    """Weights, moments of the optimizer and rate after chosen steps."""

    def __init__(self, *steps: int) -> None:
        self.steps = steps
        self.found: list[Any] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step in self.steps:
            moments = [
                value.clone() for each in kwargs["optimizer"].state.values() for value in each.values()
            ]
            rate = kwargs["lr_scheduler"].get_last_lr()
            self.found.append((weights_digest(kwargs["model"]), moments, rate))


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_skipped_step_leaves_weights_moments_and_rate_as_they_were(
    tmp_path: Path, accumulation: int
) -> None:
    after = After(2, 3, 4)
    trainer = regression_trainer(
        tmp_path,
        (16,),
        per_device_train_batch_size=8 // accumulation,
        gradient_accumulation_steps=accumulation,
        lr_scheduler_type="linear",
        weight_decay=0.1,
    )
    trainer.add_callback(after)
    trainer.train()
    before, skipped, next_one = after.found
    assert skipped[0] == before[0]
    assert all(torch.equal(a, b) for a, b in zip(before[1], skipped[1], strict=True))
    assert skipped[2] == before[2]
    assert next_one[0] != skipped[0]
    assert next_one[2] < skipped[2]
    assert trainer.state.global_step == 4
    assert trainer.skipped_steps == 1


def test_the_other_steps_are_those_of_a_run_without_the_skipped_one(tmp_path: Path) -> None:
    """Without the rows of the third step, and its decay of the rate, nothing else differs."""
    skipping = regression_trainer(tmp_path, (17,), lr_scheduler_type="constant_with_warmup", warmup_steps=10)
    skipping.train()
    without = regression_trainer(tmp_path, (), lr_scheduler_type="constant_with_warmup", warmup_steps=10)
    without.train_dataset = without.train_dataset[:16] + without.train_dataset[24:]
    without.train()
    for name, expected in without.model.state_dict().items():
        assert torch.equal(skipping.model.state_dict()[name], expected)
    losses = entries(without, "loss")
    assert entries(skipping, "loss")[:2] + entries(skipping, "loss")[3:] == losses
    assert math.isnan(entries(skipping, "loss")[2])
    assert entries(skipping, "skipped_steps") == [0, 0, 1, 1]
    assert entries(skipping, "train_loss")[0] == pytest.approx(sum(losses) / 3)


def test_a_mean_loss_is_that_of_the_steps_taken(tmp_path: Path) -> None:
    trainer = regression_trainer(tmp_path, (17,), logging_steps=4)
    output = trainer.train()
    each = regression_trainer(tmp_path, (17,))
    each.train()
    expected = sum(loss for loss in entries(each, "loss") if not math.isnan(loss)) / 3
    assert entries(trainer, "loss") == pytest.approx([expected])
    assert output.training_loss == pytest.approx(expected)
    stopping = small_trainer(tmp_path, max_steps=1)
    stopping.train()
    assert not entries(stopping, "skipped_steps")


def test_gradients_are_skipped_and_the_state_says_how_often(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = small_model()
    steps = iter(range(100))
    model.classifier.weight.register_hook(lambda g: g * float("inf") if next(steps) in (1, 2) else g)
    trainer = small_trainer(
        tmp_path, model, on_divergence="skip", save_strategy="steps", save_steps=4, max_grad_norm=0.0
    )
    trainer.train()
    assert trainer.skipped_steps == 2
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    state = json.loads((tmp_path / "checkpoint-4" / "trainer_state.json").read_text())
    assert state["stateful_callbacks"]["SkippedSteps"]["attributes"]["total"] == 2
    trainer.save_state()
    state = json.loads((tmp_path / "trainer_state.json").read_text())
    assert state["stateful_callbacks"]["SkippedSteps"]["attributes"]["total"] == 2


def test_a_resumed_run_counts_on(tmp_path: Path) -> None:
    saving = {"save_strategy": "steps", "save_steps": 1, "num_train_epochs": 2}
    straight = regression_trainer(tmp_path / "straight", (1, 17), **saving)
    straight.train()
    assert straight.skipped_steps == 4
    resumed = regression_trainer(tmp_path / "straight", (1, 17), **saving)
    resumed.train(resume_from_checkpoint=str(tmp_path / "straight" / "checkpoint-3"))
    assert resumed.skipped_steps == 4
    assert weights_digest(resumed.model) == weights_digest(straight.model)


def test_an_epoch_without_a_step_taken_ends_the_run(tmp_path: Path) -> None:
    bad = (0, 8, 16, 24)
    with pytest.raises(UserError, match="every step of the epoch that ended at step 4 was skipped") as caught:
        regression_trainer(tmp_path, bad, num_train_epochs=3).train()
    assert "\n" not in str(caught.value)
    assert regression_trainer(tmp_path, bad[1:], num_train_epochs=3).train().global_step == 12


def test_the_teacher_of_bregman_does_not_move_in_a_skipped_step(tmp_path: Path) -> None:
    trainer = regression_trainer(tmp_path, (1,), max_steps=1, regularizers="bregman")
    before = weights_digest(trainer.model)
    with pytest.raises(UserError, match="every step"):
        trainer.train()
    state = trainer.loss_terms.regularizers["bregman"].state_dict()
    assert weights_digest(trainer.model) == before
    for name, value in state.items():
        assert torch.equal(value, trainer.model.state_dict()[name]), name


# Several tasks


@pytest.mark.parametrize("surgery", [None, "pcgrad"])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_several_tasks_skip_together_and_the_task_is_named(
    tmp_path: Path, surgery: str | None, accumulation: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = train_sets(five=16, para=16, sim=16)
    for row in train["sim"][:1]:
        row["labels"] = NAN
    settings: dict[str, Any] = {
        "train": train,
        "task_mixing": "together",
        "gradient_surgery": surgery,
        "train_sampling_strategy": "sequential",
        "per_device_train_batch_size": 8 // accumulation,
        "gradient_accumulation_steps": accumulation,
    }
    with pytest.raises(UserError, match="training loss of sim is not finite at step 1 "):
        tasks_trainer(tmp_path / "stop", **settings).train()
    trainer = tasks_trainer(tmp_path / "skip", **settings, on_divergence="skip")
    trainer.train()
    assert trainer.skipped_steps == 1
    first, second = (entry for entry in trainer.state.log_history if "learning_rate" in entry)
    assert math.isnan(first["loss"])
    assert not [name for name in first if name.startswith(("loss_", "cosine_"))]
    total = sum(second[f"loss_{task}"] for task in train)
    assert second["loss"] == pytest.approx(total, abs=1e-5)
    assert ("cosine_five_sim" in second) == (surgery is not None)
    assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())


def test_the_task_of_a_gradient_is_named_under_surgery(tmp_path: Path) -> None:
    trainer = tasks_trainer(tmp_path, task_mixing="together", gradient_surgery="pcgrad")
    bert = trainer.model.bert.encoder.layer[0].output.dense.weight
    calls = iter(range(100))
    # one backward a task: five, para, sim
    bert.register_hook(lambda gradient: gradient * float("inf") if next(calls) == 1 else gradient)
    with pytest.raises(UserError, match="gradient of para is not finite at step 1 "):
        trainer.train()


# Losses and gradients apart


def test_a_loss_with_a_finite_gradient_is_seen(tmp_path: Path) -> None:
    train = rows(32)
    for index, row in enumerate(train):
        row["labels"] = int(index == 8)
    model = InfiniteLoss(small_model().config)
    trainer = small_trainer(
        tmp_path, model, train, train_sampling_strategy="sequential", on_divergence="skip"
    )
    trainer.train()
    assert trainer.skipped_steps == 1
    assert [math.isfinite(loss) for loss in entries(trainer, "loss")] == [True, False, True, True]


@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_torch_fused"])
@pytest.mark.parametrize("on_divergence", ["stop", "skip"])
def test_a_scaler_looks_for_its_scale_and_its_skipped_steps_count(
    tmp_path: Path, on_divergence: str, optim: str
) -> None:
    """fp16 itself needs a GPU; a scaler whose scale overflows the gradients in the first five steps does not."""
    model = small_model()
    calls = iter(range(100))
    model.classifier.weight.register_hook(lambda g: g * float("inf") if next(calls) < 5 else g)
    after = After(*range(1, 9))
    trainer = small_trainer(
        tmp_path,
        model,
        callbacks=[after],
        on_divergence=on_divergence,
        optim=optim,
        num_train_epochs=2,
        lr_scheduler_type="linear",
    )
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    trainer.accelerator.native_amp = True
    trainer.accelerator.state._mixed_precision = "fp16"
    try:
        trainer.train()
    finally:
        trainer.accelerator.state._mixed_precision = "no"
    assert trainer.skipped_steps == 5
    assert trainer.accelerator.scaler.get_scale() == 2.0**5
    assert entries(trainer, "skipped_steps") == [1, 2, 3, 4, 5, 5, 5, 5]
    assert len({digest for digest, _, _ in after.found}) == 4
    rates = [rate[-1] for _, _, rate in after.found]
    assert rates == pytest.approx([1e-3 * (1 - max(step - 5, 0) / 8) for step in range(1, 9)])
    assert all(math.isfinite(loss) for loss in entries(trainer, "loss"))


def test_the_loss_of_a_subclass_is_seen(tmp_path: Path) -> None:
    class Infinite(LayerFusionTrainer):
        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, *args: Any, **kwargs: Any
        ) -> Any:
            loss, outputs = super().compute_loss(model, inputs, True, *args, **kwargs)
            if model.training and self.state.global_step == 2:
                loss = loss + float("inf")
            return (loss, outputs) if return_outputs else loss

    trainer = Infinite(
        small_model(),
        small_arguments(tmp_path, on_divergence="skip"),
        train_dataset=rows(32),
        data_collator=DataCollatorWithPadding(tiny_tokenizer()),
    )
    trainer.train()
    assert trainer.skipped_steps == 1
