"""What is known of an encoder beyond its configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoTokenizer, pipeline

from hf_layerfusion import (
    BertForGRUFusionClassification,
    BertWithPoolingModule,
    CerbertusConfig,
    CerbertusForMultitask,
    GRUFusionConfig,
    LayerPoolingConfig,
    MultitaskPipeline,
    max_tokens,
)
from hf_layerfusion.experiments.arguments import CheckpointArguments
from hf_layerfusion.experiments.models import load_tokenizer
from hf_layerfusion.modeling.encoders import position_limit
from tests.modeling.cases import SMALL
from tests.tiny import MODEL_TYPES, tiny_config, tiny_tokenizer

LONG_TEXT = "a good day " * 350
# The configurations all state 64 positions. RoBERTa's kin leaves out those up to the padding's, which is 0 here
# (MPNet always takes 1).
LIMITS = dict.fromkeys(MODEL_TYPES, 64) | {"roberta": 63, "xlm-roberta": 63, "mpnet": 62}
# Positions that are computed, or none but relative ones.
UNLIMITED = ("modernbert", "deberta-v2")


@pytest.mark.parametrize("model_type", MODEL_TYPES)
@torch.no_grad()
def test_the_most_tokens_are_the_most_that_an_encoder_takes(model_type: str) -> None:
    changes = {"position_biased_input": False} if model_type == "deberta-v2" else {}
    encoder = AutoModel.from_config(tiny_config(model_type, **changes)).eval()
    most = LIMITS[model_type]
    assert max_tokens(encoder.config) == most
    assert position_limit(encoder) == (None if model_type in UNLIMITED else most)
    encoder(torch.full((1, most), 7))
    if model_type not in UNLIMITED:
        with pytest.raises((IndexError, RuntimeError)):
            encoder(torch.full((1, most + 1), 7))


MODELS: dict[str, tuple[type, type, dict[str, Any]]] = {
    "gru_fusion": (BertForGRUFusionClassification, GRUFusionConfig, SMALL),
    "layer_pooling": (BertWithPoolingModule, LayerPoolingConfig, {}),
    "cerbertus": (CerbertusForMultitask, CerbertusConfig, {"num_task_layers": 1}),
}


@pytest.mark.parametrize("model_type", ["bert", "roberta"])
@pytest.mark.parametrize("name", MODELS)
def test_a_text_of_700_words(name: str, model_type: str, tmp_path: Path) -> None:
    model_class, config_class, settings = MODELS[name]
    model = model_class(config_class(encoder_config=tiny_config(model_type), num_labels=2, **settings))
    model.save_pretrained(tmp_path)
    tokenizer = tiny_tokenizer()
    tokenizer.model_max_length = 10**30
    tokenizer.save_pretrained(tmp_path)
    most = LIMITS[model_type]

    # A tokenizer that knows no limit: one line says what to do.
    classify = pipeline("text-classification", model=str(tmp_path), device="cpu")
    with pytest.raises(ValueError, match=rf"at most {most} tokens.*truncation=True, max_length={most}"):
        classify(LONG_TEXT)
    assert classify(LONG_TEXT, truncation=True, max_length=most)

    # As scripts save it.
    limited = load_tokenizer(CheckpointArguments(model_name_or_path=str(tmp_path)))
    limited.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).model_max_length == most
    assert pipeline("text-classification", model=str(tmp_path), device="cpu", truncation=True)(LONG_TEXT)
    if name == "cerbertus":
        assert MultitaskPipeline(model, tokenizer)(LONG_TEXT)


def test_the_tokenizers_own_limit_is_never_raised(tmp_path: Path) -> None:
    AutoModel.from_config(tiny_config("bert")).save_pretrained(tmp_path)
    tokenizer = tiny_tokenizer()
    tokenizer.model_max_length = 20
    tokenizer.save_pretrained(tmp_path)
    assert load_tokenizer(CheckpointArguments(model_name_or_path=str(tmp_path))).model_max_length == 20
