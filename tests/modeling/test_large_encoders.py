"""Tests of what saves memory with large encoders: half precision, quantized weights with LoRA, and checkpointing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from transformers import AutoModel, BitsAndBytesConfig

from hf_layerfusion import (
    BertForGRUFusionClassification,
    BertWithPoolingModule,
    CerbertusForMultitask,
    add_adapters,
    load_adapter_model,
)
from tests.encoders.tiny_encoders import tiny_encoder_config
from tests.tiny import tiny_config

MODELS: dict[str, tuple[Any, dict[str, Any]]] = {
    "gru_fusion": (BertForGRUFusionClassification, {"num_groups": 2, "fusion_hidden_size": 8}),
    "layer_pooling": (BertWithPoolingModule, {"pooling": "mean"}),
    "cerbertus": (CerbertusForMultitask, {"num_task_layers": 1}),
}
IDS = torch.tensor([[5, 6, 7, 8, 9], [10, 11, 12, 13, 14]])
LABELS = torch.tensor([0, 1])


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of BERT and of a decoder."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("encoders")
    wide = {"hidden_size": 64, "intermediate_size": 128}
    AutoModel.from_config(tiny_config("bert", **wide)).save_pretrained(folder / "bert")
    AutoModel.from_config(
        tiny_encoder_config("qwen3", **wide, head_dim=16, num_key_value_heads=4)
    ).save_pretrained(folder / "qwen3")
    return folder


def falls(model: Any) -> bool:
    """Train on one batch without dropout; return whether the loss becomes lower."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=1e-3)
    losses = []
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    for _ in range(8):
        loss = model(input_ids=IDS, labels=LABELS).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
    model.eval()
    return losses[-1] < losses[0]


@pytest.mark.parametrize("name", MODELS)
def test_half_precision_leaves_what_an_encoder_keeps_in_float32(
    name: str, encoders: Path, tmp_path: Path
) -> None:
    model_class, settings = MODELS[name]
    model = model_class.from_pretrained(encoders / "qwen3", dtype=torch.bfloat16, **settings)
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    frequencies = [value for key, value in model.named_buffers() if key.endswith("inv_freq")]
    assert frequencies
    assert all(value.dtype == torch.float32 for value in frequencies)
    assert falls(model)
    model.save_pretrained(tmp_path)
    loaded = model_class.from_pretrained(tmp_path, dtype=torch.bfloat16)
    with torch.no_grad():
        assert torch.equal(loaded(input_ids=IDS).logits, model(input_ids=IDS).logits)


@pytest.mark.parametrize("name", MODELS)
def test_checkpointing_gives_the_same_gradients_of_normalised_layers(name: str, encoders: Path) -> None:
    model_class, settings = MODELS[name]
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = model_class.from_pretrained(encoders / "qwen3", **settings)
        if checkpointing:
            model.gradient_checkpointing_enable()
        torch.manual_seed(0)
        model.train()(input_ids=IDS, labels=LABELS).loss.backward()
        gradients.append({key: weight.grad for key, weight in model.named_parameters()})
    for key, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][key], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("encoder", ["bert", "qwen3"])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("name", MODELS)
def test_quantised_encoders_are_trained_by_adapters(
    name: str, bits: int, encoder: str, encoders: Path, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    model_class, settings = MODELS[name]
    quantized = (
        BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32)
        if bits == 4
        else BitsAndBytesConfig(load_in_8bit=True)
    )
    model = model_class.from_pretrained(encoders / encoder, quantization_config=quantized, **settings)
    layers = [type(module).__name__ for module in model.base_model.modules()]
    assert f"Linear{'4bit' if bits == 4 else '8bitLt'}" in layers
    adapted = add_adapters(model, LoraConfig(r=4))
    assert falls(adapted)
    adapted.save_pretrained(tmp_path)
    loaded = load_adapter_model(tmp_path, quantization_config=quantized).eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(input_ids=IDS).logits, adapted(input_ids=IDS).logits)
