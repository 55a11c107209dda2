"""Hand-computed values, and the three faults of the third-party code that the paper's readers know: attention weights
that are not registered, layers mixed with features, the last layer dropped."""

from __future__ import annotations

from math import log

import pytest
import torch
from torch import nn

from hf_layerfusion.modeling.fusion_pooling import SENTENCE_FUSERS, AttentionPooling, LSTMPooling

# Two texts, three tokens, two features; layers 1 to 3 differ in the first token.
LAYERS = tuple(
    torch.tensor([[first, [9, 9], [9, 9]], [[-1, 0], [5, 7], [1, 3]]], dtype=torch.float64)
    for first in ([1, 4], [5, 2], [3, 12])
)


@pytest.mark.parametrize(
    ("pooling", "expected"), [("last", [3, 12]), ("max", [5, 12]), ("mean", [3, 6]), ("scalar_mix", [3, 6])]
)
def test_plain_poolings_by_hand(pooling: str, expected: list[float]) -> None:
    fused = SENTENCE_FUSERS[pooling](3, 2).double()(LAYERS, None)
    torch.testing.assert_close(fused, torch.tensor([expected, [-1, 0]], dtype=torch.float64))


def test_mean_over_the_real_tokens_by_hand() -> None:
    mask = torch.tensor([[1, 0, 0], [0, 1, 1]])
    fused = SENTENCE_FUSERS["mean"](3, 2, "mean").double()(LAYERS, mask)
    torch.testing.assert_close(fused, torch.tensor([[3, 6], [3, 5]], dtype=torch.float64))


def test_attention_by_hand() -> None:
    fuser = AttentionPooling(3, 2).double()
    layers = tuple(
        torch.tensor([[[x, y]]], dtype=torch.float64) for x, y in [(log(1), 8), (log(2), 4), (log(5), -8)]
    )
    with torch.no_grad():
        fuser.query.copy_(torch.tensor([1.0, 0.0]))
        fuser.projection.weight.copy_(torch.tensor([[0.0, 1.0], [0.0, 2.0]]))
    # Weights 1/8, 2/8, 5/8; their mean of the second feature is 1 + 1 - 5.
    torch.testing.assert_close(fuser(layers, None), torch.tensor([[-3.0, -6.0]], dtype=torch.float64))
    expected = torch.tensor([[1 / 8, 2 / 8, 5 / 8]], dtype=torch.float64)
    torch.testing.assert_close(fuser.layer_weights(layers, None), expected)


def test_lstm_runs_from_the_first_layer_to_the_last() -> None:
    fuser = LSTMPooling(3, 2).double()
    cell = nn.LSTMCell(2, 2).double()
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in fuser.lstm.state_dict().items()})
    state = None
    for layer in LAYERS:
        state = cell(layer[:, 0], state)
    torch.testing.assert_close(fuser(LAYERS, None), state[0], rtol=0, atol=1e-12)


def test_every_learned_weight_is_registered() -> None:
    assert {name for name, _ in AttentionPooling(3, 2).named_parameters()} == {"query", "projection.weight"}


@pytest.mark.parametrize("pooling", ["lstm", "attention"])
def test_texts_do_not_mix_and_layers_do_not_become_features(pooling: str) -> None:
    fuser = SENTENCE_FUSERS[pooling](3, 2).double()
    fuser.reset_parameters()  # a bare parameter holds whatever the memory did
    whole = fuser(LAYERS, None)
    for row in range(2):
        torch.testing.assert_close(fuser(tuple(s[row : row + 1] for s in LAYERS), None)[0], whole[row])
    if pooling == "attention":  # a convex mean of layers: with W = 1, each feature stays within its own range
        with torch.no_grad():
            fuser.projection.weight.copy_(torch.eye(2))
        pooled = fuser(LAYERS, None)[0]
        assert 1 < pooled[0] < 5
        assert 2 < pooled[1] < 12
