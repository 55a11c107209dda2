"""Tests of the encoder's dropout, under every name and in every architecture of the scripts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel

from hf_layerfusion import CerbertusForMultitask
from hf_layerfusion.data.labels import LabelSchema
from hf_layerfusion.errors import UserError
from hf_layerfusion.recipes.model_setup import check_model, encoder_dropout, load_model
from hf_layerfusion.recipes.multitask.multitask_arguments import MultitaskModelArguments
from hf_layerfusion.recipes.multitask.task_preparation import TaskSpec
from hf_layerfusion.recipes.multitask.task_training import load_multitask_model
from hf_layerfusion.recipes.recipe_arguments import (
    EncoderArguments,
    ModelArguments,
    PairDataArguments,
    TextModelArguments,
)
from tests.tiny import MODEL_TYPES, tiny_config

SCHEMA = LabelSchema("single_label_classification", ("negative", "positive"))
IDS = torch.tensor([[2, 7, 8, 9, 3]])


def encoder_arguments(folder: Path, **changes: Any) -> EncoderArguments:
    return EncoderArguments(model_name_or_path=str(folder), **changes)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_each_option_switches_its_dropout(tmp_path: Path, model_type: str) -> None:
    """In training mode, an encoder says the same twice if and only if both are 0."""
    tiny_config(model_type, num_hidden_layers=2).save_pretrained(tmp_path)
    for hidden, attention in ((0.0, 0.0), (0.4, 0.0), (0.0, 0.4)):
        fields = encoder_dropout(
            encoder_arguments(tmp_path, hidden_dropout=hidden, attention_dropout=attention)
        )
        model = AutoModel.from_config(AutoConfig.from_pretrained(tmp_path, **fields)).train()
        first, second = (model(input_ids=IDS).last_hidden_state for _ in range(2))
        assert torch.equal(first, second) == (hidden == attention == 0.0)


@pytest.mark.parametrize("architecture", ["gru_fusion", "layer_pooling", "plain"])
def test_the_options_reach_every_architecture_and_are_saved(
    tmp_path: Path, tiny_encoder_dir: str, architecture: str
) -> None:
    settings = {"num_groups": 2} if architecture == "gru_fusion" else {}

    def load(name_or_path: str, **changes: Any) -> Any:
        arguments = ModelArguments(name_or_path, architecture=architecture, **settings, **changes)
        return load_model(arguments, SCHEMA).config.get_text_config()

    assert load(tiny_encoder_dir).hidden_dropout_prob == 0.0
    config = load(tiny_encoder_dir, hidden_dropout=0.2)
    assert (config.hidden_dropout_prob, config.attention_probs_dropout_prob) == (0.2, 0.0)
    arguments = ModelArguments(
        tiny_encoder_dir, architecture=architecture, **settings, hidden_dropout=0.2, attention_dropout=0.3
    )
    model = load_model(arguments, SCHEMA)
    layer = next(module for name, module in model.named_modules() if name.endswith("layer.3"))
    assert layer.output.dropout.p == layer.attention.output.dropout.p == 0.2
    model.save_pretrained(tmp_path)
    # A checkpoint of ours keeps them, unless it is told others.
    assert load(str(tmp_path)).hidden_dropout_prob == 0.2
    changed = load(str(tmp_path), hidden_dropout=0.4)
    assert (changed.hidden_dropout_prob, changed.attention_probs_dropout_prob) == (0.4, 0.3)


def test_all_encoders_of_several_tasks_have_it(tiny_encoder_dir: str) -> None:
    task = TaskSpec("one", PairDataArguments(), {"labels": ["no", "yes"], "dropout": 0.6})
    arguments = MultitaskModelArguments(
        tiny_encoder_dir, encoders=["shared", "own"], num_task_layers=1, hidden_dropout=0.25
    )
    model = load_multitask_model(arguments, {"one": task})
    assert isinstance(model, CerbertusForMultitask)
    rates = {
        module.p
        for module in model.model.modules()
        if isinstance(module, torch.nn.Dropout) and "attention.self" not in str(module)
    }
    assert rates == {0.25, 0.0}  # attention's own stays
    assert model.heads["one"].head.classifier.dropout.p == 0.6


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"hidden_dropout": 1.0}, r"--hidden_dropout must lie in \[0, 1\), found 1.0"),
        ({"attention_dropout": float("nan")}, "--attention_dropout must lie in"),
        ({"hidden_dropout": 0.1}, "--hidden_dropout: needs an encoder .* found none for 'fnet-like'"),
    ],
)
def test_a_rate_that_is_none_and_an_encoder_without_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], named: str
) -> None:
    class Bare:
        model_type = "fnet-like"

        def get_text_config(self) -> Any:
            return self

    monkeypatch.setattr(AutoConfig, "from_pretrained", lambda *args, **kwargs: Bare())
    with pytest.raises(UserError, match=named) as caught:
        encoder_dropout(encoder_arguments(tmp_path, **changes))
    assert "\n" not in str(caught.value)


def test_a_trained_model_keeps_its_fuser_where_none_is_named(tmp_path: Path, tiny_encoder_dir: str) -> None:
    new = load_model(TextModelArguments(tiny_encoder_dir, architecture="layer_pooling"), SCHEMA)
    assert (new.config.pooling, new.config.token_pooling) == ("scalar_mix", "mean")
    arguments = TextModelArguments(
        tiny_encoder_dir, architecture="layer_pooling", pooling="concat", token_pooling="cls"
    )
    saved = load_model(arguments, SCHEMA)
    saved.save_pretrained(tmp_path)
    arguments = TextModelArguments(str(tmp_path), architecture="layer_pooling")
    check_model(arguments)
    again = load_model(arguments, SCHEMA)
    assert (again.config.pooling, again.config.token_pooling) == ("concat", "cls")
    for name, value in saved.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
