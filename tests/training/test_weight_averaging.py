"""Averages of the weights, and weights between start and end, against the formulas in float64, with evaluations,
checkpoints and resumed runs."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from hf_layerfusion import BertWithPoolingModule
from hf_layerfusion.errors import UserError
from hf_layerfusion.regularizers.encoder_layers import get_encoders
from hf_layerfusion.training import weight_averaging
from hf_layerfusion.training.checkpoints import newest_valid_checkpoint
from tests.tiny import tiny_config
from tests.training.small import rows, small_arguments, small_model, small_trainer, weights_digest

AVERAGES: list[dict[str, float]] = [{"ema_decay": 0.8}, {"average_last": 0.5}, {"weight_interpolation": 0.7}]


class Weights(TrainerCallback):
    """Records the weights before training and after each step."""

    def __init__(self) -> None:
        self.start: dict[str, torch.Tensor] = {}
        self.after: list[dict[str, torch.Tensor]] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        weights = kwargs["model"].named_parameters()
        self.start = {name: each.detach().double().clone() for name, each in weights}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        weights = kwargs["model"].named_parameters()
        self.after.append({name: each.detach().double().clone() for name, each in weights})


def expected(seen: Weights, name: str, average: dict[str, float]) -> torch.Tensor:
    """The evaluated values of one parameter by the formula."""
    after = seen.after
    if "weight_interpolation" in average:
        share = average["weight_interpolation"]
        return (1 - share) * seen.start[name] + share * after[-1][name]
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
        found = expected(seen, name, average)
        torch.testing.assert_close(weights.detach().double(), found, rtol=1e-5, atol=1e-7)
        assert not torch.equal(weights.detach().double(), seen.after[-1][name]) or "position" in name


@pytest.mark.parametrize("average", AVERAGES)
def test_training_goes_on_from_its_own_weights(average: dict[str, float], tmp_path: Path) -> None:
    plain, averaged = Weights(), Weights()
    options = {"num_train_epochs": 2, "eval_strategy": "steps", "eval_steps": 1}
    small_trainer(tmp_path / "plain", callbacks=[plain], **options).train()
    small_trainer(tmp_path / "averaged", callbacks=[averaged], **average, **options).train()
    for one, other in zip(plain.after, averaged.after, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("average", AVERAGES)
def test_evaluations_are_of_the_evaluated_weights(average: dict[str, float], tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path, num_train_epochs=2, eval_strategy="steps", eval_steps=8, **average)
    trainer.train()
    (logged,) = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert trainer.evaluate()["eval_loss"] == pytest.approx(logged, rel=1e-6)


@pytest.mark.parametrize("average", [AVERAGES[0], AVERAGES[2]])
def test_predictions_within_training_are_of_the_evaluated_weights(
    average: dict[str, float], tmp_path: Path
) -> None:
    losses = []

    class Predicts(TrainerCallback):
        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            losses.append(trainer.evaluate()["eval_loss"])

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 4:
                losses.append(trainer.evaluate()["eval_loss"])
                losses.append(trainer.predict(rows(8, seed=1)).metrics["test_loss"])

    trainer = small_trainer(tmp_path, learning_rate=0.01, **average)
    trainer.add_callback(Predicts())
    trainer.train()
    assert losses[1] == losses[0] == pytest.approx(losses[2], rel=1e-6)


@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize("step", [2, 6])
def test_a_resumed_run_ends_in_the_same_weights(average: dict[str, float], step: int, tmp_path: Path) -> None:
    options: dict[str, Any] = {"num_train_epochs": 2, "save_strategy": "steps", "save_steps": 2, **average}
    whole = small_trainer(tmp_path, model=small_model(dropout=0.1), **options)
    whole.train()
    resumed = small_trainer(tmp_path, model=small_model(dropout=0.1), **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
    assert weights_digest(resumed.model) == weights_digest(whole.model)


@pytest.mark.parametrize("average", AVERAGES)
def test_a_checkpoint_holds_the_model_that_was_evaluated(average: dict[str, float], tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path, **average, save_strategy="steps", save_steps=4)
    trainer.train()
    saved = load_file(Path(str(newest_valid_checkpoint(tmp_path))) / "model.safetensors")
    for name, weights in trainer.model.state_dict().items():
        assert torch.equal(saved[name], weights)


@pytest.mark.parametrize("average", AVERAGES)
def test_the_best_checkpoint_is_loaded_as_it_was_evaluated(average: dict[str, float], tmp_path: Path) -> None:
    trainer = small_trainer(
        tmp_path,
        num_train_epochs=3,
        learning_rate=0.05,
        **average,
        save_strategy="epoch",
        eval_strategy="epoch",
        load_best_model_at_end=True,
    )
    trainer.train()
    losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert trainer.evaluate()["eval_loss"] == pytest.approx(min(losses), rel=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"ema_decay": 1.0},
        {"ema_decay": 0.0},
        {"average_last": 0},
        {"average_last": 1.5},
        {"weight_interpolation": 0.0},
        {"weight_interpolation": 1.1},
    ],
)
def test_numbers_that_are_no_average_are_refused(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=next(iter(options))):
        small_arguments(tmp_path, **options)


def test_a_share_of_one_is_the_trained_weights_themselves(tmp_path: Path) -> None:
    digests = []
    for name, options in {"plain": {}, "one": {"weight_interpolation": 1.0}}.items():
        trainer = small_trainer(tmp_path / name, **options)
        trainer.train()
        digests.append(weights_digest(trainer.model))
    assert digests[0] == digests[1]
    assert small_arguments(tmp_path, weight_interpolation=1.0, ema_decay=0.9).ema_decay == 0.9


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


def test_the_start_is_the_model_after_the_head_s_own_epochs(tmp_path: Path) -> None:
    seen = Weights()
    config = {"encoder_config": tiny_config("bert", 2).to_dict(), "pooling": "attention", "num_labels": 2}
    model = BertWithPoolingModule(BertWithPoolingModule.config_class(**config))
    before = {name: each.detach().double().clone() for name, each in model.named_parameters()}
    trainer = small_trainer(
        tmp_path, model, callbacks=[seen], head_first_epochs=1, weight_interpolation=0.25, learning_rate=1e-3
    )
    trainer.train()
    changed = {name for name, weights in seen.start.items() if not torch.equal(weights, before[name])}
    assert "classifier.out_proj.weight" in changed
    encoder = {id(weights) for (part,) in [get_encoders(model)] for weights in part.parameters()}
    for name, weights in trainer.model.named_parameters():
        assert name not in changed or id(weights) not in encoder
        found = expected(seen, name, {"weight_interpolation": 0.25})
        torch.testing.assert_close(weights.detach().double(), found, rtol=1e-5, atol=1e-7)


def test_a_second_training_starts_from_where_the_first_one_ended(tmp_path: Path) -> None:
    seen = Weights()
    trainer = small_trainer(tmp_path, callbacks=[seen], weight_interpolation=0.5)
    trainer.train()
    ended = {name: each.detach().double().clone() for name, each in trainer.model.named_parameters()}
    trainer.train()
    for name, weights in trainer.model.named_parameters():
        assert torch.equal(seen.start[name], ended[name])
        found = expected(seen, name, {"weight_interpolation": 0.5})
        torch.testing.assert_close(weights.detach().double(), found, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("made_with", "resumed_with"),
    [
        ({"ema_decay": 0.8}, {}),
        ({"weight_interpolation": 0.5}, {}),
        ({}, {"weight_interpolation": 0.5}),
        ({"ema_decay": 0.8}, {"weight_interpolation": 0.5}),
        ({"weight_interpolation": 0.5}, {"average_last": 0.5}),
    ],
)
def test_a_checkpoint_of_other_weights_is_not_resumed(
    made_with: dict[str, float], resumed_with: dict[str, float], tmp_path: Path
) -> None:
    options: dict[str, Any] = {"save_strategy": "steps", "save_steps": 2}
    small_trainer(tmp_path, **options, **made_with).train()
    with pytest.raises(UserError, match="checkpoint-2: was made with"):
        small_trainer(tmp_path, **options, **resumed_with).train(
            resume_from_checkpoint=str(tmp_path / "checkpoint-2")
        )


def share_of(weights: dict[str, torch.Tensor], seen: Weights) -> float:
    """The share of the way from the start to the last step's weights that some weights have come."""
    way = torch.cat([(seen.after[-1][name] - start).flatten() for name, start in seen.start.items()])
    come = torch.cat([(weights[name].double() - start).flatten() for name, start in seen.start.items()])
    return float(come @ way / (way @ way))


class Saves(TrainerCallback):
    """Saves the model, and predicts, at every occasion of the last step."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.trainer: Any = None

    def save(self, name: str) -> None:
        self.trainer.save_model(str(self.folder / name))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == state.max_steps:
            self.save("step")

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.save("evaluation")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.save("end")


def test_whatever_is_saved_in_training_has_the_share_once(tmp_path: Path) -> None:
    seen, saves = Weights(), Saves(tmp_path)
    trainer = small_trainer(
        tmp_path / "run", callbacks=[seen, saves], eval_strategy="epoch", weight_interpolation=0.5
    )
    saves.trainer = trainer
    trainer.train()
    trainer.save_model(str(tmp_path / "after"))
    for occasion in ("step", "evaluation", "end", "after"):
        saved = load_file(tmp_path / occasion / "model.safetensors")
        assert share_of(saved, seen) == pytest.approx(0.5, abs=1e-4), occasion


def test_after_an_interruption_the_model_is_as_it_is(tmp_path: Path) -> None:
    class Interrupts(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            raise KeyboardInterrupt

    trainer = small_trainer(tmp_path, callbacks=[Interrupts()], weight_interpolation=0.5, learning_rate=0.01)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    before = weights_digest(trainer.model)
    loss = trainer.evaluate()["eval_loss"]
    trainer.save_model(str(tmp_path / "saved"))
    assert weights_digest(trainer.model) == before
    assert small_trainer(tmp_path / "again", trainer.model).evaluate()["eval_loss"] == pytest.approx(loss)


def test_the_start_is_the_probe_where_the_encoder_is_frozen(tmp_path: Path) -> None:
    config = {"encoder_config": tiny_config("bert", 2).to_dict(), "pooling": "concat", "num_labels": 2}
    model = BertWithPoolingModule(BertWithPoolingModule.config_class(**config))
    seen = Weights()
    options = {
        "freeze_encoder": True,
        "cache_frozen_states": str(tmp_path / "states"),
        "init_from_probe": True,
    }
    trainer = small_trainer(
        tmp_path / "run", model, callbacks=[seen], weight_interpolation=0.5, learning_rate=1e-9, **options
    )
    random = model.classifier.out_proj.weight.detach().clone()
    trainer.train()
    probe = seen.after[-1]["classifier.out_proj.weight"]
    assert not torch.allclose(random.double(), probe)
    torch.testing.assert_close(model.classifier.out_proj.weight.double(), probe, rtol=1e-4, atol=1e-7)


def test_an_average_does_not_go_on_as_another_one(tmp_path: Path) -> None:
    options: dict[str, Any] = {"save_strategy": "steps", "save_steps": 2}
    small_trainer(tmp_path, **options, ema_decay=0.8).train()
    with pytest.raises(UserError, match="average_last cannot go on from a checkpoint with ema_decay"):
        small_trainer(tmp_path, **options, average_last=1.0).train(
            resume_from_checkpoint=str(tmp_path / "checkpoint-2")
        )


@pytest.mark.parametrize("average", AVERAGES)
def test_layers_that_are_unfrozen_after_resuming_count_too(average: dict[str, float], tmp_path: Path) -> None:
    options: dict[str, Any] = {"num_train_epochs": 3, "unfreeze_per_epoch": 1, "save_strategy": "steps"}
    options |= {"save_steps": 2, **average}
    whole = small_trainer(tmp_path, **options)
    whole.train()
    resumed = small_trainer(tmp_path, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert weights_digest(resumed.model) == weights_digest(whole.model)


def test_a_changed_share_counts_from_the_next_training_on(tmp_path: Path) -> None:
    seen = Weights()
    trainer = small_trainer(tmp_path, callbacks=[seen])
    trainer.args.weight_interpolation = 0.25
    trainer.train()
    weights = {name: each.detach() for name, each in trainer.model.named_parameters()}
    assert share_of(weights, seen) == pytest.approx(0.25, abs=1e-4)


@pytest.mark.parametrize(("share", "count"), [(0.9, 9), (0.1, 1), (0.3, 3), (0.7, 7), (1.0, 10)])
def test_the_last_part_has_its_share_of_the_steps(
    tmp_path: Path, share: float, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    added: list[Any] = []
    monkeypatch.setattr(weight_averaging.WeightAverage, "add", lambda self, model: added.append(model))
    with contextlib.suppress(UserError):  # nothing was added
        small_trainer(tmp_path, max_steps=10, average_last=share).train()
    assert len(added) == count


def test_training_that_stops_before_the_last_part_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []
    monkeypatch.setattr(weight_averaging.logger, "warning", shown.append)

    class Stop(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_training_stop = state.global_step == 3

    small_trainer(tmp_path / "stopped", max_steps=10, average_last=0.5, callbacks=[Stop()]).train()
    assert len(shown) == 1 and "ended at step 3 of 10, before the part whose weights are averaged" in shown[0]
    small_trainer(tmp_path / "whole", max_steps=4, average_last=0.5).train()
    assert len(shown) == 1
