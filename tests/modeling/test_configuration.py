from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig

from hf_layerfusion import (
    BertForGRUFusionClassification,
    BertWithPoolingModule,
    GRUFusionConfig,
    LayerPoolingConfig,
)
from tests.tiny import tiny_config

# A wrong type is refused by huggingface_hub's own class, which is no ValueError.
REFUSALS = (ValueError, StrictDataclassError)

BAD_FUSION: list[tuple[str, Any]] = [
    *((name, value) for name in ("num_groups", "num_last_layers", "fusion_hidden_size") for value in (0, -1)),
    ("downstream_hidden_size", -1),
    ("dense_size", -1),
    *(("classifier_dropout", value) for value in (-0.1, 1.0, 2, float("nan"), float("inf"), "0.5")),
    *(("num_groups", value) for value in ("2", 2.0, True, None, [2])),
    ("fusion", "attention"),
    ("fusion", 3),
    ("fusion_cell", "rnn"),
    ("token_reduction", "median"),
    ("mask_padding", "yes"),
    ("freeze_fusion", 1),
    ("encoder_config", "bert-base-uncased"),
    ("encoder_config", {"model_type": "t5"}),
    ("encoder_config", {"model_type": "bert", "num_hidden_layers": 0}),
    ("encoder_config", {"model_type": "bert", "num_hidden_layers": -1}),
    ("encoder_config", {"model_type": "bert", "hidden_size": 0}),
    ("encoder_config", {"model_type": "bert", "num_attention_heads": 0}),
    *((name, 10**9) for name in ("fusion_hidden_size", "downstream_hidden_size", "dense_size")),
    ("num_labels", 0),
    ("problem_type", "ranking"),
    ("initializer_range", float("nan")),
]
BAD_POOLING: list[tuple[str, Any]] = [
    ("pooling", "median"),
    ("token_pooling", "last"),
    ("dense_size", -1),
    ("classifier_dropout", float("nan")),
    ("classifier_dropout", 1),
]


@pytest.mark.parametrize(("name", "value"), BAD_FUSION)
def test_bad_fusion_settings(name: str, value: Any) -> None:
    settings = {"encoder_config": tiny_config("bert"), "num_groups": 2, name: value}
    with pytest.raises(REFUSALS, match=name) as error, torch.device("meta"):
        BertForGRUFusionClassification(GRUFusionConfig(**settings))
    assert isinstance(error.value, StrictDataclassError) or "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "value"), BAD_POOLING)
def test_bad_pooling_settings(name: str, value: Any) -> None:
    settings = {"encoder_config": tiny_config("bert"), name: value}
    with pytest.raises(REFUSALS, match=name), torch.device("meta"):
        BertWithPoolingModule(LayerPoolingConfig(**settings))


def test_linear_cells_along_depth() -> None:
    with pytest.raises(ValueError, match=r"`fusion_cell` along depth .* found 'linear'"):
        GRUFusionConfig(fusion="share_depth", fusion_cell="linear")


def test_groups_that_do_not_divide_the_depth_say_both_numbers() -> None:
    config = GRUFusionConfig(encoder_config=tiny_config("bert", 4), num_groups=3)
    with pytest.raises(ValueError, match=r"found 3 groups for 4 layers; choose one of \[1, 2, 4\]"):
        BertForGRUFusionClassification(config)


def test_more_last_layers_than_there_are() -> None:
    config = GRUFusionConfig(encoder_config=tiny_config("bert", 3), fusion="last_mean", num_last_layers=4)
    with pytest.raises(ValueError, match="found 4 for 3 layers"):
        BertForGRUFusionClassification(config)


def test_a_setting_that_does_not_fit_is_refused_before_the_encoder_takes_memory() -> None:
    huge = tiny_config("bert", 4, hidden_size=2**16, intermediate_size=2**18)
    with pytest.raises(ValueError, match="3 groups for 4 layers"):
        BertForGRUFusionClassification(GRUFusionConfig(encoder_config=huge, num_groups=3))


@pytest.mark.parametrize("value", [0, -1, 10**9])
def test_a_broken_rule_is_a_value_error_on_one_line(value: int) -> None:
    with pytest.raises(ValueError, match=f"^`num_groups` must .* found {value}; .*$"):
        GRUFusionConfig(num_groups=value)


def test_hostile_file_is_refused(tmp_path: Path) -> None:
    GRUFusionConfig(encoder_config=tiny_config("bert")).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    stored = json.loads(path.read_text())
    for name, value in [("num_groups", -3), ("classifier_dropout", "high"), ("fusion_cell", "evil/kernel")]:
        path.write_text(json.dumps(stored | {name: value}))
        with pytest.raises(REFUSALS, match=name):
            AutoConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({}, "grubert-share-3"),
        ({"fusion": "cat", "num_groups": 6}, "grubert-cat-6"),
        ({"fusion_cell": "linear"}, "grubert-share-3-linear"),
        ({"fusion": "last_concat", "num_last_layers": 1}, "grubert-last-layer"),
        ({"fusion": "last_concat"}, "grubert-last-4"),
        ({"fusion": "last_mean"}, "grubert-last-4-mean"),
        ({"fusion": "scalar_mix"}, "grubert-scalar-mix"),
        ({"fusion": "cat_depth", "fusion_cell": "lstm"}, "grubert-cat-3-depth-lstm"),
        ({"freeze_fusion": True}, "grubert-share-3-frozen"),
    ],
)
def test_names_of_variants(settings: dict[str, Any], name: str) -> None:
    assert GRUFusionConfig(**settings).variant == name


def test_names_of_pooled_variants() -> None:
    assert LayerPoolingConfig().variant == "bert-lstm"
    assert (
        LayerPoolingConfig(pooling="last", token_pooling="mean", dense_size=9).variant
        == "bert-last-tokens-dense-9"
    )


def test_the_encoder_says_depth_width_and_vocabulary(tmp_path: Path) -> None:
    config = GRUFusionConfig(encoder_config=tiny_config("distilbert", 3), num_labels=5)
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert (loaded.num_hidden_layers, loaded.hidden_size, loaded.num_labels) == (3, 32, 5)
    assert type(loaded.encoder_config) is type(config.encoder_config)
    assert loaded.get_text_config() is loaded.encoder_config
