"""The checks of `make encoders` on a few architectures, one of each kind."""

from __future__ import annotations

import pytest
from transformers import AutoConfig

from hf_layerfusion import CerbertusConfig, GRUFusionConfig, LayerPoolingConfig
from hf_layerfusion.modeling.encoders import is_causal
from tests.encoders.sweep import MODELS, check
from tests.encoders.tiny_encoders import tiny_encoder_config

PASS = dict.fromkeys(MODELS, "passes")
RIGHT_ONLY = dict.fromkeys(MODELS, "limited") | dict.fromkeys(("mean", "last"), "passes")
ONE_LIST = {"CerBERTus k = 2": "refused"}
EXPECTED = {
    "bert": RIGHT_ONLY,
    "roberta": PASS,
    "albert": RIGHT_ONLY | ONE_LIST,
    "modernbert": PASS,
    "longformer": PASS,
    "big_bird": RIGHT_ONLY,
    "squeezebert": RIGHT_ONLY | ONE_LIST,
    "layoutlm": RIGHT_ONLY,
    "xlnet": RIGHT_ONLY | ONE_LIST,
    "gpt2": PASS,
    "qwen3": PASS,
    "clip_text_model": PASS,
    "bloom": PASS,
    # Arguments of layers in a dictionary, and attributes of the layers' class.
    "zaya": PASS,
    "inkling2_text": PASS,
    # The encoders of encoder-decoders.
    "t5": PASS,
    "bart": RIGHT_ONLY,
}


# The poolings by mean and by last token differ from the first one in the vector alone.
CELLS = [(name, column) for name in EXPECTED for column in MODELS if column not in ("mean", "last")]
# One encoder of each kind (absolute positions, causal, encoder-decoder) is tested under every model; `make test` has
# the others under a model on states of tokens and one that routes layers.
UNDER_EVERY_MODEL = ("bert", "qwen3", "t5")
IN_THE_QUICK_SUITE = ("GRUBERT", "CerBERTus k = 2")


def is_slow(name: str, column: str) -> bool:
    return name not in UNDER_EVERY_MODEL and column not in IN_THE_QUICK_SUITE


@pytest.mark.parametrize(
    ("name", "column"),
    [
        pytest.param(*cell, marks=[pytest.mark.slow] * is_slow(*cell))
        for cell in [*CELLS, ("bert", "last"), ("qwen3", "mean")]
    ],
)
def test_a_model_on_an_encoder(name: str, column: str) -> None:
    found = check(name, column)
    assert found.kind == EXPECTED[name][column], found.line


@pytest.mark.parametrize(
    "name",
    ["vit", "wav2vec2", "dpr", "reformer", "perceiver", "canine", "fnet", "bros", "hy_v4", "longcat_flash"],
)
@pytest.mark.parametrize("config_class", [GRUFusionConfig, LayerPoolingConfig, CerbertusConfig])
def test_what_is_no_encoder_is_refused_in_one_line(config_class: type, name: str) -> None:
    with pytest.raises(ValueError, match=rf"^`encoder_config.*'{name}'.*; use .*\.$"):
        config_class(encoder_config=AutoConfig.for_model(name))


@pytest.mark.parametrize(
    ("name", "causal"),
    [
        *(("bert", False), ("bert-generation", False), ("xlnet", False)),
        *(
            ("gpt2", True),
            ("mistral4", True),
            ("clip_text_model", True),
            ("imagegpt", True),
            ("molmo2_text", True),
        ),
    ],
)
def test_causal_architectures_are_known(name: str, causal: bool) -> None:
    assert is_causal(tiny_encoder_config(name)) is causal
