"""Tests of the interface of every fuser and every model in the registries."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification

from hf_layerfusion.modeling.fusion_pooling import SENTENCE_FUSERS
from hf_layerfusion.modeling.fusion_registry import TOKEN_FUSERS
from tests.modeling.cases import (
    CASES,
    DEPTH,
    LABELS,
    SENTENCE_CASES,
    TOKEN_CASES,
    build,
    build_fuser,
    inputs,
    settings,
    states,
)
from tests.tiny import assert_close_values, assert_same_weights

MASKS = {
    "right": [[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0]],
    "left": [[1, 1, 1, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0, 1]],
    "holes": [[1, 0, 1, 1, 0, 1, 1], [0, 1, 1, 0, 0, 1, 0], [1, 1, 0, 0, 0, 0, 1]],
}


def test_every_row_of_the_tables_has_a_case() -> None:
    assert {case["fusion"] for case in TOKEN_CASES.values()} == set(TOKEN_FUSERS)
    assert {case["pooling"] for case in SENTENCE_CASES.values()} == set(SENTENCE_FUSERS)


@pytest.mark.parametrize("case", CASES)
def test_shape(case: str) -> None:
    fuser = build_fuser(case)
    fused = fuser(states(), None)
    assert fused.shape == ((3, 7, fuser.output_size) if case in TOKEN_CASES else (3, fuser.output_size))


@pytest.mark.parametrize("case", CASES)
def test_reads_the_layers_it_names_and_no_other(case: str) -> None:
    fuser = build_fuser(case)
    hidden_states = states()
    fused = fuser(hidden_states, None)
    for layer in range(DEPTH):
        changed = list(hidden_states)
        changed[layer] = torch.randn_like(changed[layer])
        assert torch.equal(fuser(tuple(changed), None), fused) == (layer not in fuser.layers), layer
    unread = tuple(s if i in fuser.layers else None for i, s in enumerate(hidden_states))
    assert torch.equal(fuser(unread, None), fused)


@pytest.mark.parametrize("case", CASES)
def test_layer_weights_add_up_to_one_where_there_are_some(case: str) -> None:
    fuser = build_fuser(case)
    weights = fuser.layer_weights(states(), None)
    assert (weights is not None) == case.startswith(("attention", "attentive", "scalar_mix"))
    if weights is not None:
        assert weights.shape == (3, len(fuser.layers))
        torch.testing.assert_close(weights.sum(dim=1), torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize("padding", MASKS)
@pytest.mark.parametrize("case", CASES)
def test_padding_never_changes_a_real_token(case: str, padding: str) -> None:
    fuser = build_fuser(case)
    hidden_states = states()
    mask = torch.tensor(MASKS[padding])
    real = mask.bool()
    fused = fuser(hidden_states, mask)
    noise = tuple(torch.where(real.unsqueeze(-1), s, 50 * torch.randn_like(s)) for s in hidden_states)
    noisy = fuser(noise, mask)
    for row in range(len(mask)):
        alone = fuser(tuple(s[row : row + 1, real[row]] for s in hidden_states), None)[0]
        for padded in (fused[row], noisy[row]):
            found = padded[real[row]] if case in TOKEN_CASES else padded
            torch.testing.assert_close(found, alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_model_is_blind_to_padding(case: str) -> None:
    model = build(case).double()
    batch = inputs()
    mask = batch["attention_mask"].bool()
    with torch.no_grad():
        logits = model(**batch).logits
        noise = torch.where(mask, batch["input_ids"], torch.randint(5, 100, mask.shape))
        torch.testing.assert_close(model(noise, batch["attention_mask"]).logits, logits, rtol=0, atol=1e-12)
        for row in range(len(mask)):
            alone = model(batch["input_ids"][row : row + 1, mask[row]]).logits[0]
            torch.testing.assert_close(alone, logits[row], rtol=0, atol=1e-12)


@pytest.mark.parametrize("reduction", ["sum", "mean", "max"])
def test_model_is_blind_to_padding_on_the_left(reduction: str) -> None:
    model = build("share-gru", token_reduction=reduction).double()
    batch = inputs()
    mask = batch["attention_mask"]
    with torch.no_grad():
        logits = model(**batch).logits
        flipped = [mask.flip(1), torch.zeros_like(mask)]
        positions = (flipped[0].cumsum(1) - 1).clamp(min=0)
        ids = flipped[1].masked_scatter(flipped[0].bool(), batch["input_ids"][mask.bool()])
        found = model(ids, flipped[0], position_ids=positions).logits
    torch.testing.assert_close(found, logits, rtol=0, atol=1e-12)


@pytest.mark.parametrize("padding", MASKS)
@pytest.mark.parametrize("case", CASES)
def test_what_a_fuser_reads_is_all_that_it_needs(case: str, padding: str) -> None:
    fuser = build_fuser(case)
    hidden_states = states()
    mask = torch.tensor(MASKS[padding])
    read = fuser.select_states(hidden_states, mask)
    length = {"all": 7, "cls_mean": 2, "last_mean": 2}.get(fuser.token_selection, 1)
    assert read.shape == (3, len(fuser.layers), length, hidden_states[0].shape[-1])
    spread: list[torch.Tensor | None] = [None] * DEPTH
    for place, layer in enumerate(fuser.layers):
        spread[layer] = read[:, place]
    fused = fuser(spread, mask if length == 7 else torch.ones(3, length))
    torch.testing.assert_close(fused, fuser(hidden_states, mask), rtol=0, atol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_model_takes_states_in_place_of_ids(case: str) -> None:
    model = build(case).double()
    batch = inputs()
    labels = torch.tensor([0, 1, 2])
    encoder_runs = []
    model.model.encoder.register_forward_hook(lambda *args: encoder_runs.append(1))
    with torch.no_grad():
        expected = model(**batch, labels=labels)
        read = model.model.read_states(**batch)
        assert len(encoder_runs) == 2
        layers, tokens, width = model.model.state_spec
        length = {"all": batch["input_ids"].shape[1], "cls_mean": 2, "last_mean": 2}.get(tokens, 1)
        assert read.shape == (3, len(layers), length, width)
        mask = batch["attention_mask"] if tokens == "all" else None
        found = model(encoder_states=read, attention_mask=mask, labels=labels)
    assert len(encoder_runs) == 2
    torch.testing.assert_close(found.logits, expected.logits, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.loss, expected.loss, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="found input_ids"):
        model(batch["input_ids"], encoder_states=read)
    with pytest.raises(ValueError, match="found output_hidden_states"):
        model(encoder_states=read, output_hidden_states=True)
    with pytest.raises(ValueError, match=r"must be \[B, .*, T, 32\]"):
        model(encoder_states=read[:, :, :, 1:])


@pytest.mark.parametrize("case", CASES)
def test_fuser_gets_the_outputs_of_layers_one_to_l(case: str) -> None:
    model = build(case)
    seen = []
    model.model.fuser.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    batch = inputs()
    with torch.no_grad():
        model(**batch)
        stock = AutoModel.from_config(model.config.encoder_config, add_pooling_layer=False).eval()
        stock.load_state_dict(model.model.encoder.state_dict())
        expected = stock(**batch, output_hidden_states=True).hidden_states
    assert len(seen[0]) == DEPTH
    for layer in model.model.fuser.layers:
        assert torch.equal(seen[0][layer], expected[layer + 1])
        assert not torch.equal(seen[0][layer], expected[layer])


@pytest.mark.parametrize("case", CASES)
def test_gradient_on_every_weight(case: str) -> None:
    model = build(case).train()
    model(**inputs(), labels=torch.tensor([0, 1, 2])).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any() or "key.bias" in name, name


@pytest.mark.parametrize("case", CASES)
def test_saved_and_loaded_bit_by_bit(case: str, tmp_path: Path) -> None:
    model = build(case)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert type(loaded) is type(model)
    for name, value in settings(case).items():
        assert getattr(loaded.config, name) == value
    assert_same_weights(loaded, model)
    batch = inputs()
    with torch.no_grad():
        output = loaded(**batch)
        assert_close_values(output.logits, model(**batch).logits)
        assert output.logits.shape == (3, LABELS)
        name = "last_hidden_state" if case in TOKEN_CASES else "pooler_output"
        fused, expected = AutoModel.from_pretrained(tmp_path)(**batch)[name], model.model(**batch)[name]
        assert_close_values(fused, expected)
