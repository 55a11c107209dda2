"""Tests of the properties of encoders beyond their configurations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoTokenizer, Gemma3Config, T5Config, T5EncoderModel, pipeline

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
from hf_layerfusion.modeling.encoders import position_limit
from hf_layerfusion.recipes.model_setup import load_tokenizer
from hf_layerfusion.recipes.recipe_arguments import CheckpointArguments
from tests.encoders.tiny_encoders import tiny_encoder_config
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

    # A tokenizer that knows no limit: the pipeline cuts, and whoever asks for no cut is told what to do.
    classify = pipeline("text-classification", model=str(tmp_path), device="cpu")
    assert classify(LONG_TEXT) == classify(LONG_TEXT, truncation=True, max_length=most)
    with pytest.raises(ValueError, match=rf"at most {most} tokens.*truncation=True, max_length={most}"):
        classify(LONG_TEXT, truncation=False)

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


# --- encoders whose tokens see only those before them -----------------------------------------------------------------

CAUSAL = ("gpt2", "llama", "qwen3", "gemma3_text", "opt", "bloom", "gpt_neox")
# Encoders by their settings.
BOTH_WAYS = {"gemma3_text": {"use_bidirectional_attention": True}, "llama": {"is_causal": False}}


def causal_models(name: str, **changes: Any) -> list[Any]:
    encoder = tiny_encoder_config(name, **changes)
    tasks = {
        "a": {"labels": ["x", "y"]},
        "b": {"labels": ["x", "y"], "fusion": {"pooling": "mean"}},
        "c": {"labels": ["x", "y"], "fusion": {"fusion": "share_depth", "num_groups": 2}},
    }
    return [
        BertWithPoolingModule(LayerPoolingConfig(encoder_config=encoder)).eval(),
        *(
            CerbertusForMultitask(
                CerbertusConfig(encoder_config=encoder, tasks=tasks, task_name=task, num_task_layers=2)
            ).eval()
            for task in tasks
        ),
        CerbertusForMultitask(CerbertusConfig(encoder_config=encoder)).eval(),
    ]


@pytest.mark.parametrize("name", CAUSAL)
@torch.no_grad()
def test_a_causal_encoder_is_read_at_its_last_token(name: str, tmp_path: Path) -> None:
    ids = torch.tensor([[5, 6, 7, 8, 9, 10, 11]])
    padding = torch.ones(1, 3, dtype=torch.long)  # its id is 1 too
    right = {"input_ids": torch.cat([ids, padding], 1), "attention_mask": torch.tensor([[1] * 7 + [0] * 3])}
    left = {"input_ids": torch.cat([padding, ids], 1), "attention_mask": torch.tensor([[0] * 3 + [1] * 7])}
    for model in causal_models(name):
        expected = model(ids).logits
        for padded in (right, left):
            torch.testing.assert_close(model(**padded).logits, expected, rtol=0, atol=2e-5)
        for place in range(7):
            changed = ids.clone()
            changed[0, place] = 50
            assert (model(changed).logits - expected).abs().max() > 1e-5, place
        assert not model.config.get_text_config().use_cache
    causal_models(name)[0].save_pretrained(tmp_path / "pooling")
    assert json.loads((tmp_path / "pooling" / "config.json").read_text())["token_pooling"] == "last"
    causal_models(name)[1].save_pretrained(tmp_path / "tasks")
    tasks = json.loads((tmp_path / "tasks" / "config.json").read_text())["tasks"]
    assert tasks["a"]["sentence_vector"] == tasks["b"]["fusion"]["token_pooling"] == "last"
    assert tasks["c"]["sentence_vector"] == "last"


@pytest.mark.parametrize("name", CAUSAL)
def test_the_first_token_of_a_causal_encoder_is_refused(name: str) -> None:
    encoder = tiny_encoder_config(name)
    message = f"must not be '(cls|pooler)' for '{name}'.* use 'last' or 'mean'\\.$"
    with pytest.raises(ValueError, match=message):
        LayerPoolingConfig(encoder_config=encoder, token_pooling="cls")
    for task in (
        {"sentence_vector": "cls"},
        {"sentence_vector": "pooler"},
        {"fusion": {"pooling": "lstm", "token_pooling": "cls"}},
        {"sentence_vector": "cls", "fusion": {"fusion": "share", "num_groups": 2, "fusion_cell": "linear"}},
        {"sentence_vector": "cls", "fusion": {"fusion": "cat_depth", "num_groups": 2}},
    ):
        with pytest.raises(ValueError, match=message):
            CerbertusConfig(encoder_config=encoder, tasks={"a": {"labels": ["x", "y"], **task}})
    # Recurrences along the tokens bring the whole text to each of them.
    mixed = {"labels": ["x", "y"], "sentence_vector": "cls", "fusion": {"fusion": "share", "num_groups": 2}}
    CerbertusConfig(encoder_config=encoder, tasks={"a": mixed})


@pytest.mark.parametrize("name", BOTH_WAYS)
@torch.no_grad()
def test_a_decoder_made_an_encoder_is_read_at_its_first_token(name: str) -> None:
    encoder = tiny_encoder_config(name, **BOTH_WAYS[name])
    model = BertWithPoolingModule(LayerPoolingConfig(encoder_config=encoder)).eval()
    assert model.config.token_pooling == "cls"
    ids = torch.tensor([[5, 6, 7, 8]])
    assert (model(ids).logits - model(torch.tensor([[5, 6, 7, 9]])).logits).abs().max() > 1e-5


def test_bert_as_a_decoder_is_causal() -> None:
    config = LayerPoolingConfig(encoder_config=tiny_config("bert", is_decoder=True))
    assert config.token_pooling == "last"
    assert LayerPoolingConfig(encoder_config=tiny_config("bert")).token_pooling == "cls"


@pytest.mark.parametrize("name", ["big_bird", "longformer"])
@torch.no_grad()
def test_an_encoder_that_pads_texts_to_whole_blocks_inside(name: str) -> None:
    """Texts of 50 tokens become 52 in BigBird and 56 in Longformer; what is fused are the texts'."""
    torch.manual_seed(0)
    encoder_config = tiny_encoder_config(name)
    ids = torch.randint(5, 30, (2, 50))
    mask = torch.ones_like(ids)
    mask[1, 40:] = 0
    pooling = LayerPoolingConfig(encoder_config=encoder_config, pooling="mean", token_pooling="mean")
    pooled = BertWithPoolingModule(pooling).eval()
    answer = pooled(ids, mask, output_hidden_states=True)
    assert {state.shape[1] for state in answer.hidden_states} == {50}
    fused = BertForGRUFusionClassification(
        GRUFusionConfig(encoder_config=encoder_config, num_groups=1)
    ).eval()
    found = fused(ids, mask).logits
    fused.model.stream_layers()
    torch.testing.assert_close(fused(ids, mask).logits, found, rtol=0, atol=2e-6)
    tasks = {"a": {"labels": ["x", "y"]}, "b": {"labels": ["x", "y"]}}
    joint = CerbertusForMultitask(
        CerbertusConfig(encoder_config=encoder_config, tasks=tasks, num_task_layers=1)
    )
    shown = joint.eval()(ids, mask, task="b", output_hidden_states=True)
    assert {state.shape[1] for state in shown.hidden_states} == {50}


@torch.no_grad()
def test_the_text_part_of_a_larger_model_is_its_encoder(tmp_path: Path) -> None:
    """The encoder of T5, also from a checkpoint of it alone, and the decoder of Gemma 3, which reads images too."""
    config = T5Config(vocab_size=50, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    encoder = T5EncoderModel(config).eval()
    encoder.save_pretrained(tmp_path / "encoder")
    ids = torch.tensor([[5, 6, 7, 8]])
    model = BertWithPoolingModule.from_pretrained(tmp_path / "encoder", pooling="last", token_pooling="mean")
    expected = encoder(ids).last_hidden_state.mean(1)
    torch.testing.assert_close(model.model(ids).pooler_output, expected)
    assert not any("decoder" in name for name in model.state_dict())
    incomplete = encoder.state_dict()
    del (
        incomplete["encoder.block.0.layer.0.SelfAttention.q.weight"],
        incomplete["encoder.embed_tokens.weight"],
    )
    encoder.save_pretrained(tmp_path / "incomplete", state_dict=incomplete)
    with pytest.raises(ValueError, match=r"must hold every weight of its encoder.*SelfAttention\.q"):
        BertWithPoolingModule.from_pretrained(tmp_path / "incomplete")

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = tiny_encoder_config("gemma3_text").to_dict()
    whole = AutoModel.from_config(
        Gemma3Config(text_config=text, vision_config=sizes | {"image_size": 28, "patch_size": 14})
    ).eval()
    whole.save_pretrained(tmp_path / "gemma3")
    pooled = BertWithPoolingModule.from_pretrained(tmp_path / "gemma3", pooling="last")
    assert pooled.config.encoder_config.model_type == "gemma3_text"
    assert pooled.config.token_pooling == "last"
    torch.testing.assert_close(pooled.model(ids).pooler_output, whole(input_ids=ids).last_hidden_state[:, -1])
    pooled.save_pretrained(tmp_path / "pooled")
    loaded = BertWithPoolingModule.from_pretrained(tmp_path / "pooled")
    assert torch.equal(loaded(ids).logits, pooled(ids).logits)
