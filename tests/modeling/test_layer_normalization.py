"""Tests of the normalization of layers before fusion, for encoders that normalize after their last layer alone."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel

from hf_layerfusion import (
    BertForGRUFusionClassification,
    BertWithPoolingModule,
    CerbertusConfig,
    CerbertusForMultitask,
    GRUFusionConfig,
    LayerPoolingConfig,
)
from hf_layerfusion.evaluation.layer_use import layer_use
from hf_layerfusion.modeling.encoders import find_final_norm
from tests.encoders.tiny_encoders import tiny_encoder, tiny_encoder_config
from tests.modeling.cases import SMALL
from tests.tiny import tiny_config

# The name of the final normalization, None for encoders whose layers end in normalizations of their own.
FINAL_NORMS = {
    "gpt2": "ln_f",
    "modernbert": "final_norm",
    "opt": "decoder.final_layer_norm",
    "esm": "encoder.emb_layer_norm_after",
    "clip_text_model": "final_layer_norm",
    "bert": None,
    "deberta-v2": None,
    "big_bird": None,
}


@pytest.mark.parametrize("name", FINAL_NORMS)
def test_the_final_normalisation_is_found_by_what_it_returns(name: str) -> None:
    encoder = tiny_encoder(name).train()
    state = torch.get_rng_state()
    assert find_final_norm(encoder) == FINAL_NORMS[name]
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in encoder.modules())


def test_the_final_normalisation_is_found_where_the_encoder_overflows() -> None:
    encoder = tiny_encoder("gpt2")
    torch.nn.init.constant_(encoder.wte.weight, torch.inf)
    assert find_final_norm(encoder) == "ln_f"


def pooling_model(name: str = "gpt2", **settings: Any) -> BertWithPoolingModule:
    torch.manual_seed(0)
    encoder = tiny_encoder_config(name)
    return BertWithPoolingModule(LayerPoolingConfig(encoder_config=encoder, num_labels=2, **settings)).eval()


BATCH = {
    "input_ids": torch.tensor([[5, 6, 7, 8, 9, 10], [11, 12, 13, 14, 1, 1]]),
    "attention_mask": torch.tensor([[1] * 6, [1] * 4 + [0] * 2]),
}


def expected_states(encoder: Any) -> list[torch.Tensor]:
    """The raw states of GPT-2's layers after its final layer norm, computed by hand."""
    outputs = AutoModel.from_config(encoder.config).eval()
    outputs.load_state_dict(encoder.state_dict())
    positions = (BATCH["attention_mask"].cumsum(1) - 1).clamp(min=0)
    found = outputs(**BATCH, position_ids=positions, output_hidden_states=True)
    weight, bias = encoder.state_dict()["ln_f.weight"], encoder.state_dict()["ln_f.bias"]
    below = [
        torch.nn.functional.layer_norm(state, (32,), weight, bias, encoder.config.layer_norm_epsilon)
        for state in found.hidden_states[1:-1]
    ]
    return [*below, found.last_hidden_state]


@torch.no_grad()
def test_every_layer_is_fused_after_the_final_normalization() -> None:
    pooled = pooling_model(pooling="concat", token_pooling="mean")
    assert (pooled.config.normalize_layers, pooled.config.final_norm) == (True, "ln_f")
    encoder = pooled.model.encoder
    encoder.ln_f.weight.uniform_(0.5, 2.0)
    encoder.ln_f.bias.normal_()
    expected = expected_states(encoder)
    mask = BATCH["attention_mask"].unsqueeze(-1)
    means = [(state * mask).sum(1) / mask.sum(1) for state in expected]
    found = pooled.model(**BATCH).pooler_output
    torch.testing.assert_close(found, torch.cat(means, -1), rtol=0, atol=1e-5)

    # Also from stored states, and layer by layer.
    stored = pooled(encoder_states=pooled.model.read_states(**BATCH)).logits
    torch.testing.assert_close(stored, pooled(**BATCH).logits, rtol=0, atol=1e-5)
    pooled.model.stream_layers()
    torch.testing.assert_close(pooled(**BATCH).logits, stored, rtol=0, atol=1e-5)

    # CerBERTus normalizes the layers of each task by the same module.
    tasks = {name: {"labels": ["x", "y"], "fusion": {"pooling": "concat"}} for name in "ab"}
    config = CerbertusConfig(encoder_config=tiny_encoder_config("gpt2"), tasks=tasks, num_task_layers=2)
    joint = CerbertusForMultitask(config, encoder=tiny_encoder("gpt2")).eval()
    joint.model.encoders["shared"].ln_f.load_state_dict(encoder.ln_f.state_dict())
    reference = tiny_encoder("gpt2")
    reference.ln_f.load_state_dict(encoder.ln_f.state_dict())
    last = BATCH["attention_mask"].sum(1) - 1
    vectors = torch.cat([state[torch.arange(2), last] for state in expected_states(reference)], -1)
    seen: list[torch.Tensor] = []
    joint.heads["b"].head.register_forward_pre_hook(lambda _, args: seen.append(args[0][0].vector))
    joint(tasks=dict.fromkeys("ab", BATCH))
    torch.testing.assert_close(seen[0], vectors, rtol=0, atol=1e-5)


@torch.no_grad()
def test_the_last_layer_and_plain_starts_stay_as_they_are() -> None:
    for settings in ({"pooling": "last"}, {"pooling": "lstm", "residual_head": "last"}):
        found = [pooling_model(**settings, normalize_layers=value)(**BATCH).logits for value in (True, False)]
        assert torch.equal(*found)
    mixed = [pooling_model(pooling="mean", normalize_layers=value)(**BATCH).logits for value in (True, False)]
    assert not torch.allclose(*mixed)


@torch.no_grad()
def test_a_checkpoint_without_the_setting_loads_as_it_was(tmp_path: Path) -> None:
    for value, expected in (("auto", True), (False, False)):
        model = pooling_model(pooling="mean", normalize_layers=value)
        model.save_pretrained(tmp_path)
        stored = json.loads((tmp_path / "config.json").read_text())
        assert stored["normalize_layers"] is expected
        loaded = BertWithPoolingModule.from_pretrained(tmp_path)
        assert loaded.config.normalize_layers is expected
        assert torch.equal(loaded(**BATCH).logits, model(**BATCH).logits)
    del stored["normalize_layers"]
    (tmp_path / "config.json").write_text(json.dumps(stored))
    earlier = BertWithPoolingModule.from_pretrained(tmp_path)
    assert earlier.config.normalize_layers is False
    assert torch.equal(earlier(**BATCH).logits, model(**BATCH).logits)
    # It can be asked for: the weights are those of the encoder.
    asked = BertWithPoolingModule.from_pretrained(tmp_path, normalize_layers="auto")
    assert (asked.config.normalize_layers, asked.config.final_norm) == (True, "ln_f")
    # A configuration that no model has decided on yet stays open.
    LayerPoolingConfig(encoder_config=tiny_encoder_config("gpt2")).save_pretrained(tmp_path / "open")
    assert LayerPoolingConfig.from_pretrained(tmp_path / "open").normalize_layers == "auto"


def test_a_model_around_a_plain_encoder_decides_for_that_encoder(tmp_path: Path) -> None:
    tiny_encoder("modernbert").save_pretrained(tmp_path)
    model = BertForGRUFusionClassification.from_pretrained(tmp_path, **SMALL)
    assert (model.config.normalize_layers, model.config.final_norm) == (True, "final_norm")
    again = BertForGRUFusionClassification.from_pretrained(tmp_path, config=pooling_model_config(), **SMALL)
    assert again.config.final_norm == "final_norm"
    plain = BertForGRUFusionClassification.from_pretrained(tmp_path, normalize_layers=False, **SMALL)
    assert (plain.config.normalize_layers, plain.config.final_norm) == (False, None)


@torch.no_grad()
def test_a_model_that_received_its_weights_later_decides_then() -> None:
    model = pooling_model(pooling="mean")
    with torch.device("meta"):
        later = pooling_model(pooling="mean")
    assert later.config.normalize_layers == "auto"
    later = later.to_empty(device="cpu")
    later.load_state_dict(model.state_dict())
    for name, buffer in model.named_buffers():
        later.get_buffer(name).copy_(buffer)
    assert torch.equal(later(**BATCH).logits, model(**BATCH).logits)
    assert (later.config.normalize_layers, later.config.final_norm) == (True, "ln_f")


def pooling_model_config() -> GRUFusionConfig:
    """The configuration of a model whose encoder has a final normalization of another name."""
    return GRUFusionConfig(
        encoder_config=tiny_encoder_config("gpt2"), normalize_layers=True, final_norm="ln_f"
    )


def test_what_cannot_be_normalised_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"must be False for 'bert', which has no normalization.*leave it out"
    ):
        BertWithPoolingModule(LayerPoolingConfig(encoder_config=tiny_config("bert"), normalize_layers=True))
    with pytest.raises(ValueError, match=r"`normalize_layers` must be 'auto', True or False, found 'yes'"):
        LayerPoolingConfig(encoder_config=tiny_config("bert"), normalize_layers="yes")
    with pytest.raises(ValueError, match=r"`final_norm` must name a module.*found 'norm'; leave it out"):
        pooling_model(normalize_layers=True, final_norm="norm")


def test_use_of_normalised_layers_is_the_same_from_ids_and_from_states() -> None:
    model = pooling_model(pooling="attention", token_pooling="mean", residual_head="mean")
    torch.nn.init.normal_(model.classifier.out_proj.weight)
    labels = torch.tensor([0, 1])
    states = {"encoder_states": model.model.read_states(**BATCH).detach(), "labels": labels}
    from_ids = dataclasses.asdict(layer_use(model, [BATCH | {"labels": labels}]))
    from_states = dataclasses.asdict(layer_use(model, [states]))
    assert from_ids["loss_rise"] == pytest.approx(from_states["loss_rise"], abs=1e-5)
