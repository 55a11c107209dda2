"""Averages of the weights against the formulas in float64, with evaluations, checkpoints and resumed runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from hf_layerfusion.errors import UserError
from hf_layerfusion.training.checkpoints import newest_valid_checkpoint
from tests.training.small import rows, small_arguments, small_model, small_trainer, weights_digest

AVERAGES: list[dict[str, float]] = [{"ema_decay": 0.8}, {"average_last": 0.5}]


class Weights(TrainerCallback):
    """Records the weights after each step."""

    def __init__(self) -> None:
        self.after: list[dict[str, torch.Tensor]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        weights = kwargs["model"].named_parameters()
        self.after.append({name: each.detach().double().clone() for name, each in weights})


def expected(after: list[dict[str, torch.Tensor]], name: str, average: dict[str, float]) -> torch.Tensor:
    """The average of one parameter by the formula."""
    if "average_last" in average:
        kept = after[len(after) // 2 :]
        return sum(weights[name] for weights in kept) / len(kept)
    found = after[0][name]
    for step, weights in enumerate(after[1:], start=2):
        decay = min(average["ema_decay"], step / (step + 9))
        found = decay * found + (1 - decay) * weights[name]
    return found


@pytest.mark.parametrize("average", AVERAGES)
def test_the_trained_model_has_the_average(average: dict[str, float], tmp_path: Path) -> None:
    seen = Weights()
    trainer = small_trainer(tmp_path, num_train_epochs=2, callbacks=[seen], **average)
    trainer.train()
    assert len(seen.after) == 8
    for name, weights in trainer.model.named_parameters():
        found = expected(seen.after, name, average)
        torch.testing.assert_close(weights.detach().double(), found, rtol=1e-5, atol=1e-7)
        assert not torch.equal(weights.detach().double(), seen.after[-1][name]) or "position" in name


def test_training_goes_on_from_its_own_weights(tmp_path: Path) -> None:
    plain, averaged = Weights(), Weights()
    options = {"num_train_epochs": 2, "eval_strategy": "steps", "eval_steps": 1}
    small_trainer(tmp_path / "plain", callbacks=[plain], **options).train()
    small_trainer(tmp_path / "averaged", callbacks=[averaged], ema_decay=0.8, **options).train()
    for one, other in zip(plain.after, averaged.after, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_evaluations_are_of_the_average(tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path, num_train_epochs=2, ema_decay=0.8, eval_strategy="steps", eval_steps=8)
    trainer.train()
    (logged,) = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert trainer.evaluate()["eval_loss"] == pytest.approx(logged, rel=1e-6)


def test_predictions_within_training_are_of_the_average(tmp_path: Path) -> None:
    losses = []

    class Predicts(TrainerCallback):
        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            losses.append(trainer.evaluate()["eval_loss"])

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 4:
                losses.append(trainer.evaluate()["eval_loss"])
                losses.append(trainer.predict(rows(8, seed=1)).metrics["test_loss"])

    trainer = small_trainer(tmp_path, learning_rate=0.01, ema_decay=0.8)
    trainer.add_callback(Predicts())
    trainer.train()
    assert losses[1] == losses[0] == pytest.approx(losses[2], rel=1e-6)


@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize("step", [2, 6])
def test_a_resumed_run_ends_in_the_same_average(average: dict[str, float], step: int, tmp_path: Path) -> None:
    options: dict[str, Any] = {"num_train_epochs": 2, "save_strategy": "steps", "save_steps": 2, **average}
    whole = small_trainer(tmp_path, model=small_model(dropout=0.1), **options)
    whole.train()
    resumed = small_trainer(tmp_path, model=small_model(dropout=0.1), **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
    assert weights_digest(resumed.model) == weights_digest(whole.model)


def test_a_checkpoint_holds_the_model_that_was_evaluated(tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path, ema_decay=0.8, save_strategy="steps", save_steps=4)
    trainer.train()
    saved = load_file(Path(str(newest_valid_checkpoint(tmp_path))) / "model.safetensors")
    for name, weights in trainer.model.state_dict().items():
        assert torch.equal(saved[name], weights)


def test_the_best_checkpoint_is_loaded_with_its_average(tmp_path: Path) -> None:
    trainer = small_trainer(
        tmp_path,
        num_train_epochs=3,
        learning_rate=0.05,
        ema_decay=0.8,
        save_strategy="epoch",
        eval_strategy="epoch",
        load_best_model_at_end=True,
    )
    trainer.train()
    losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert trainer.evaluate()["eval_loss"] == pytest.approx(min(losses), rel=1e-6)


@pytest.mark.parametrize(
    "options", [{"ema_decay": 1.0}, {"ema_decay": 0.0}, {"average_last": 0}, {"average_last": 1.5}]
)
def test_numbers_that_are_no_average_are_refused(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=next(iter(options))):
        small_arguments(tmp_path, **options)


def test_one_average_excludes_the_other(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="average_last"):
        small_arguments(tmp_path, ema_decay=0.9, average_last=0.5)


def test_a_layer_that_is_unfrozen_later_counts_from_the_first_step(tmp_path: Path) -> None:
    seen = Weights()
    trainer = small_trainer(
        tmp_path, num_train_epochs=3, callbacks=[seen], average_last=1.0, unfreeze_per_epoch=1
    )
    trainer.train()
    name = "bert.encoder.layer.0.output.dense.weight"
    assert torch.equal(seen.after[0][name], seen.after[3][name])  # not trained in the first epoch
    found = dict(trainer.model.named_parameters())[name].detach().double()
    mean = sum(weights[name] for weights in seen.after) / len(seen.after)
    torch.testing.assert_close(found, mean, rtol=1e-5, atol=1e-7)
