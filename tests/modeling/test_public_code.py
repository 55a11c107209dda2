"""The public code's function, step by step on bare matrices, against ours at the settings that reproduce it.

The reference knows only the hidden states of a stock encoder, which gets no attention mask, and weights under the
public code's names. What it computes is what the paper's repository computes: the outputs of layers 1 to L in groups,
side by side as features; an embedding cell along the tokens of each group; a downstream bi-GRU; ReLU; dense, ReLU;
logits of each token, padding too, summed.
"""

from __future__ import annotations

import re

import pytest
import torch
from transformers import AutoModel

from hf_layerfusion import BertForGRUFusionClassification, GRUFusionConfig
from tests.tiny import tiny_config

DEPTH, WIDTH, UNITS, DENSE, LABELS = 12, 32, 5, 7, 2
Weights = dict[str, torch.Tensor]


def gru_direction(weights: Weights, name: str, suffix: str, steps: list[torch.Tensor]) -> list[torch.Tensor]:
    w_ih, w_hh = weights[f"{name}.weight_ih_l0{suffix}"], weights[f"{name}.weight_hh_l0{suffix}"]
    b_ih, b_hh = weights[f"{name}.bias_ih_l0{suffix}"], weights[f"{name}.bias_hh_l0{suffix}"]
    hidden = steps[0].new_zeros(len(steps[0]), UNITS)
    outputs = []
    for x in steps:
        from_input, from_hidden = torch.mm(x, w_ih.t()) + b_ih, torch.mm(hidden, w_hh.t()) + b_hh
        reset = torch.sigmoid(from_input[:, :UNITS] + from_hidden[:, :UNITS])
        update = torch.sigmoid(from_input[:, UNITS : 2 * UNITS] + from_hidden[:, UNITS : 2 * UNITS])
        candidate = torch.tanh(from_input[:, 2 * UNITS :] + reset * from_hidden[:, 2 * UNITS :])
        hidden = (1 - update) * candidate + update * hidden
        outputs.append(hidden)
    return outputs


def lstm_direction(weights: Weights, name: str, suffix: str, steps: list[torch.Tensor]) -> list[torch.Tensor]:
    w_ih, w_hh = weights[f"{name}.weight_ih_l0{suffix}"], weights[f"{name}.weight_hh_l0{suffix}"]
    bias = weights[f"{name}.bias_ih_l0{suffix}"] + weights[f"{name}.bias_hh_l0{suffix}"]
    hidden = cell = steps[0].new_zeros(len(steps[0]), UNITS)
    outputs = []
    for x in steps:
        gates = torch.mm(x, w_ih.t()) + torch.mm(hidden, w_hh.t()) + bias
        entry, forget, candidate, exit_ = (gates[:, i * UNITS : (i + 1) * UNITS] for i in range(4))
        cell = torch.sigmoid(forget) * cell + torch.sigmoid(entry) * torch.tanh(candidate)
        hidden = torch.sigmoid(exit_) * torch.tanh(cell)
        outputs.append(hidden)
    return outputs


def both_directions(weights: Weights, name: str, steps: list[torch.Tensor], cell: str) -> list[torch.Tensor]:
    run = {"gru": gru_direction, "lstm": lstm_direction}[cell]
    forward = run(weights, name, "", steps)
    backward = run(weights, name, "_reverse", steps[::-1])[::-1]
    return [torch.cat(pair, 1) for pair in zip(forward, backward, strict=True)]


def reference_logits(
    weights: Weights, layers: list[torch.Tensor], names: list[str], group_size: int, cell: str
) -> torch.Tensor:
    """`names` holds the embedding cell of each group; `layers` the L outputs, each `[B, T, H]`."""
    tokens = range(layers[0].shape[1])
    fused = []
    for index, name in enumerate(names):
        group = layers[index * group_size : (index + 1) * group_size]
        steps = [torch.cat([layer[:, t] for layer in group], 1) for t in tokens]
        if cell == "linear":
            fused.append(
                [torch.mm(x, weights[f"{name}.weight"].t()) + weights[f"{name}.bias"] for x in steps]
            )
        else:
            fused.append(both_directions(weights, name, steps, cell))
    steps = [torch.cat([group[t] for group in fused], 1) for t in tokens]
    logits = steps[0].new_zeros(len(steps[0]), LABELS)
    for state in both_directions(weights, "gru", steps, "gru"):
        dense = (
            torch.mm(state.clamp(min=0), weights["classifier.0.weight"].t()) + weights["classifier.0.bias"]
        )
        logits += (
            torch.mm(dense.clamp(min=0), weights["classifier.3.weight"].t()) + weights["classifier.3.bias"]
        )
    return logits


def recurrent_weights(name: str, width: int, gates: int) -> Weights:
    shapes = {
        "weight_ih": (gates * UNITS, width),
        "weight_hh": (gates * UNITS, UNITS),
        "bias_ih": (gates * UNITS,),
        "bias_hh": (gates * UNITS,),
    }
    return {
        f"{name}.{key}_l0{suffix}": torch.randn(shape, dtype=torch.float64) / width**0.5
        for key, shape in shapes.items()
        for suffix in ("", "_reverse")
    }


def public_weights(names: list[str], group_size: int, cell: str) -> Weights:
    weights: Weights = {}
    width = group_size * WIDTH
    for name in dict.fromkeys(names):
        if cell == "linear":
            weights[f"{name}.weight"] = torch.randn(2 * UNITS, width, dtype=torch.float64) / width**0.5
            weights[f"{name}.bias"] = torch.randn(2 * UNITS, dtype=torch.float64)
        else:
            weights |= recurrent_weights(name, width, {"gru": 3, "lstm": 4}[cell])
    weights |= recurrent_weights("gru", 2 * UNITS * len(names), 3)
    for name, shape in {"classifier.0": (DENSE, 2 * UNITS), "classifier.3": (LABELS, DENSE)}.items():
        weights[f"{name}.weight"] = torch.randn(shape, dtype=torch.float64)
        weights[f"{name}.bias"] = torch.randn(shape[0], dtype=torch.float64)
    return weights


def our_name(public: str) -> str:
    """The table of docs/model.md."""
    patterns = {
        r"^grus\.(\d+)\.": r"model.fuser.cells.\1.rnn.",
        r"^(gru1|lstm)\.": "model.fuser.cells.0.rnn.",
        r"^linear\.": "model.fuser.cells.0.",
        r"^gru\.": "downstream.rnn.",
        r"^classifier\.0\.": "classifier.dense.",
        r"^classifier\.3\.": "classifier.out_proj.",
    }
    for pattern, replacement in patterns.items():
        if re.match(pattern, public):
            return re.sub(pattern, replacement, public)
    raise KeyError(public)


DIVISORS = (1, 2, 3, 4, 6, 12)
VARIANTS = {
    **{
        f"cat-{c}": ({"fusion": "cat", "num_groups": c}, [f"grus.{i}" for i in range(c)], "gru")
        for c in DIVISORS
    },
    **{f"share-{c}": ({"fusion": "share", "num_groups": c}, ["gru1"] * c, "gru") for c in DIVISORS},
    "share-3-linear": ({"fusion": "share", "fusion_cell": "linear"}, ["linear"] * 3, "linear"),
    "share-3-lstm": ({"fusion": "share", "fusion_cell": "lstm"}, ["lstm"] * 3, "lstm"),
    "last-layer": ({"fusion": "last_concat", "num_last_layers": 1}, ["gru1"], "gru"),
    "last-four": ({"fusion": "last_concat", "num_last_layers": 4}, ["gru1"], "gru"),
}


@pytest.fixture(scope="module")
def encoder() -> torch.nn.Module:
    torch.manual_seed(1)
    config = tiny_config("bert", num_hidden_layers=DEPTH)
    return AutoModel.from_config(config, add_pooling_layer=False).double().eval()


@pytest.fixture(scope="module")
def ids() -> torch.Tensor:
    """Three texts, padded with id 0 to one length; the last has no padding."""
    ids = torch.randint(5, 100, (3, 8), generator=torch.Generator().manual_seed(2))
    ids[0, 3:] = 0
    ids[1, 6:] = 0
    return ids


def ours_and_reference(
    variant: str, encoder: torch.nn.Module, ids: torch.Tensor, **settings: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    fusion, names, cell = VARIANTS[variant]
    with torch.no_grad():
        layers = list(encoder(ids, output_hidden_states=True).hidden_states[1:])
        if fusion["fusion"] == "last_concat":
            layers = layers[-fusion["num_last_layers"] :]
        group_size = len(layers) // len(names)
        weights = public_weights(names, group_size, cell)
        reference = reference_logits(weights, layers, names, group_size, cell)

        config = GRUFusionConfig(
            encoder_config=tiny_config("bert", num_hidden_layers=DEPTH),
            fusion_hidden_size=UNITS,
            downstream_hidden_size=UNITS,
            dense_size=DENSE,
            num_labels=LABELS,
            **fusion,
            **settings,
        )
        model = BertForGRUFusionClassification(config).double().eval()
        state = {f"model.encoder.{name}": value for name, value in encoder.state_dict().items()}
        state |= {our_name(name): value for name, value in weights.items()}
        model.load_state_dict(state, strict=True)
        return model(input_ids=ids, attention_mask=(ids != 0).long()).logits, reference


@pytest.mark.parametrize("variant", VARIANTS)
def test_equal_inputs_and_weights_give_equal_logits(
    variant: str, encoder: torch.nn.Module, ids: torch.Tensor
) -> None:
    ours, reference = ours_and_reference(variant, encoder, ids, mask_padding=False)
    assert (reference[0] - reference[1]).abs().max() > 1e-3
    torch.testing.assert_close(ours, reference, rtol=0, atol=1e-10)


def test_the_default_leaves_out_padding_and_only_padding(encoder: torch.nn.Module, ids: torch.Tensor) -> None:
    ours, reference = ours_and_reference("share-3", encoder, ids)
    torch.testing.assert_close(ours[2], reference[2], rtol=0, atol=1e-10)
    assert ((ours - reference)[:2].abs().amax(dim=1) > 1e-2).all()
