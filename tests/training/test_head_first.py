"""Fuser and head are trained on the frozen encoder before the encoder is trained with them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import DataCollatorWithPadding, set_seed

from hf_layerfusion import BertWithPoolingModule
from hf_layerfusion.errors import UserError
from hf_layerfusion.training import head_first
from hf_layerfusion.training.trainer import LayerFusionTrainer
from tests.tiny import tiny_config, tiny_tokenizer
from tests.training.small import rows, small_arguments, small_model


def pooling_model() -> Any:
    set_seed(1)
    config = {"encoder_config": tiny_config("bert", 2).to_dict(), "pooling": "attention", "num_labels": 2}
    return BertWithPoolingModule(BertWithPoolingModule.config_class(**config))


def train(folder: Path, model: Any = None, given: Any = None, **changes: Any) -> LayerFusionTrainer:
    trainer = LayerFusionTrainer(
        model,
        small_arguments(folder, **changes),
        **(given or {}),
        train_dataset=rows(32),
        eval_dataset=rows(8, seed=1),
        processing_class=tiny_tokenizer(),
        data_collator=DataCollatorWithPadding(tiny_tokenizer()),
    )
    trainer.train()
    return trainer


def test_the_head_is_trained_first_as_on_a_frozen_encoder(tmp_path: Path) -> None:
    model = pooling_model()
    start = copy.deepcopy(model.state_dict())
    # A main training that changes nothing shows the first part alone.
    train(
        tmp_path / "both",
        model,
        head_first_epochs=3,
        max_steps=1,
        learning_rate=0.0,
        fusion_learning_rate=0.0,
    )
    frozen = {name for name, values in model.state_dict().items() if torch.equal(values, start[name])}
    assert frozen == set(start), "rates of zero train neither part"

    model = pooling_model()
    options = {"learning_rate": 1e-3, "lr_scheduler_type": "constant"}
    train(tmp_path / "first", model, head_first_epochs=3, max_steps=1, **options)
    alone = pooling_model()
    train(
        tmp_path / "frozen",
        alone,
        freeze_encoder=True,
        cache_frozen_states=str(tmp_path / "states"),
        num_train_epochs=3,
        **options,
    )
    # One step of the main training lies between them: each weight moves by at most the rate.
    for name, values in alone.state_dict().items():
        if not name.startswith("model.encoder"):
            assert (values - model.state_dict()[name]).abs().max() < 1.1e-3, name
    changed = (alone.classifier.out_proj.weight - start["classifier.out_proj.weight"]).abs().max()
    assert changed > 3e-3
    assert not (tmp_path / "first" / "head-first-states").exists()


def test_the_encoder_is_trained_afterwards(tmp_path: Path) -> None:
    model = pooling_model()
    start = copy.deepcopy(model.state_dict())
    train(tmp_path, model, head_first_epochs=1)
    name = "model.encoder.encoder.layer.0.output.dense.weight"
    assert not torch.equal(model.state_dict()[name], start[name])
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_head_starts_from_the_probe_of_a_frozen_encoder(tmp_path: Path) -> None:
    """With rates of zero, both trainings leave the head where the probe has put it."""
    rates = {"learning_rate": 0.0, "fusion_learning_rate": 0.0, "max_steps": 1, "init_from_probe": True}
    model, alone = pooling_model(), pooling_model()
    start = copy.deepcopy(model.classifier.out_proj.weight)
    train(tmp_path / "first", model, head_first_epochs=1, **rates)
    cache = str(tmp_path / "states")
    train(tmp_path / "frozen", alone, freeze_encoder=True, cache_frozen_states=cache, **rates)
    assert torch.equal(model.classifier.out_proj.weight, alone.classifier.out_proj.weight)
    assert not torch.equal(model.classifier.out_proj.weight, start)


@pytest.mark.parametrize(
    "options",
    [
        {"eval_on_start": True, "eval_strategy": "epoch"},
        {
            "lr_scheduler_type": "reduce_lr_on_plateau",
            "lr_scheduler_kwargs": {"patience": 3},
            "eval_strategy": "epoch",
        },
        {"lr_scheduler_type": "greedy", "eval_strategy": "epoch"},
        {"neftune_noise_alpha": 5.0},
        {"include_for_metrics": ["inputs"]},
        {"include_num_input_tokens_seen": "all"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_options_of_the_main_training_alone(tmp_path: Path, options: dict[str, Any]) -> None:
    model = pooling_model()
    start = copy.deepcopy(model.state_dict())
    trainer = train(tmp_path, model, head_first_epochs=2, num_train_epochs=1, **options)
    assert trainer.state.global_step == 4
    name, value = next(iter(options.items()))
    assert getattr(trainer.args, name) == value
    changed = {name for name, values in model.state_dict().items() if not torch.equal(values, start[name])}
    assert any("encoder" in name for name in changed) and any("classifier" in name for name in changed)
    assert not (tmp_path / "head-first-states").exists()


@pytest.mark.parametrize("schedule", ["reduce_lr_on_plateau", "greedy"])
def test_the_rate_is_constant_where_the_schedule_follows_evaluations(tmp_path: Path, schedule: str) -> None:
    # A main training without a step's effect shows the first part alone.
    still = {"learning_rate": 0.0, "fusion_learning_rate": 1e-3, "max_steps": 1, "head_first_epochs": 2}
    found = []
    for index, options in enumerate(({"lr_scheduler_type": schedule, "eval_strategy": "steps"}, {})):
        heads: list[Any] = []
        model = pooling_model()
        model.classifier.register_forward_pre_hook(
            lambda module, args, heads=heads: heads.append(module.out_proj.weight.detach().clone())
        )
        train(tmp_path / str(index), model, **(still | options))
        found.append(heads[8])  # eight steps of the first part stand before the main one
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


def test_nothing_is_left_if_the_first_part_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise UserError("refused")

    monkeypatch.setattr(head_first.dataclasses, "replace", refuse)
    with pytest.raises(UserError, match="refused"):
        train(tmp_path, pooling_model(), head_first_epochs=1)
    assert not (tmp_path / "head-first-states").exists()


def test_the_head_of_a_model_init_is_trained_first_too(tmp_path: Path) -> None:
    options = {"head_first_epochs": 3, "max_steps": 1, "learning_rate": 1e-3, "lr_scheduler_type": "constant"}
    start = pooling_model().classifier.out_proj.weight
    found = train(tmp_path, given={"model_init": pooling_model}, **options).model
    assert (found.classifier.out_proj.weight - start).abs().max() > 3e-3, (
        "one step moves a weight by 1e-3 at most"
    )
    assert all(parameter.requires_grad for parameter in found.parameters())


class ScaledLossTrainer(LayerFusionTrainer):
    """A Trainer whose loss depends on an argument of its constructor."""

    def __init__(self, scale: float, *args: Any, **kwargs: Any) -> None:
        self.scale = scale
        super().__init__(*args, **kwargs)
        self.seen = [self.args.head_first_epochs]

    def task_losses(self, model: Any, inputs: dict[str, Any]) -> Any:
        losses, outputs = super().task_losses(model, inputs)
        self.seen.append(self.args.freeze_encoder)
        return {task: self.scale * loss for task, loss in losses.items()}, outputs


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_a_subclass_with_arguments_of_its_own_trains_the_head_by_them(tmp_path: Path, scale: float) -> None:
    model = pooling_model()
    start = copy.deepcopy(model.state_dict())
    trainer = ScaledLossTrainer(
        scale,
        model,
        small_arguments(tmp_path, head_first_epochs=1, max_steps=1, optim="sgd"),
        train_dataset=rows(32),
        processing_class=tiny_tokenizer(),
        data_collator=DataCollatorWithPadding(tiny_tokenizer()),
    )
    trainer.train()
    name = "classifier.out_proj.weight"
    assert torch.equal(model.state_dict()[name], start[name]) == (scale == 0)
    assert trainer.args.head_first_epochs == 1
    assert trainer.seen == [1, True, True, True, True, False]


def test_the_head_is_trained_by_the_loss_and_the_optimizer_of_the_main_training(tmp_path: Path) -> None:
    def no_loss(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        return outputs.logits.sum() * 0

    model = pooling_model()
    start = copy.deepcopy(model.state_dict())
    given = {
        "compute_loss_func": no_loss,
        "optimizer_cls_and_kwargs": (torch.optim.SGD, {"lr": 0.1}),
    }
    train(tmp_path, model, given=given, head_first_epochs=1, max_steps=1)
    assert all(torch.equal(values, start[name]) for name, values in model.state_dict().items())


def test_a_model_that_takes_no_states_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs a model that takes encoder_states"):
        train(tmp_path, small_model(), head_first_epochs=1)


@pytest.mark.parametrize("other", [{"freeze_encoder": True}, {"cache_frozen_states": "x"}])
def test_a_frozen_encoder_excludes_it(other: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="head_first_epochs"):
        small_arguments(tmp_path, head_first_epochs=1, **other)
