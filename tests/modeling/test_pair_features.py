from __future__ import annotations

import math

import pytest
import torch

from hf_layerfusion.modeling.pair_features import PAIR_FEATURES, EncodedText

D, W = 4, 3


def text(length: int, seed: int) -> EncodedText:
    generator = torch.Generator().manual_seed(seed)
    vector = torch.randn(2, D, dtype=torch.float64, generator=generator)
    return EncodedText(vector, torch.randn(2, length, W, dtype=torch.float64, generator=generator), None)


def gathered(feature: torch.nn.Module, reader: torch.Tensor, read: torch.Tensor) -> torch.Tensor:
    """Return the mean cross-attention of the tokens `[T, W]` of one text on another's, by the formula."""
    rows = []
    for state in reader:
        query = feature.query.weight @ state + feature.query.bias
        energies = torch.stack([(query * (feature.key.weight @ h + feature.key.bias)).sum() for h in read])
        weights = (energies / math.sqrt(W)).exp()
        values = [feature.value.weight @ h + feature.value.bias for h in read]
        rows.append(sum(w / weights.sum() * v for w, v in zip(weights, values, strict=True)))
    return torch.stack(rows).mean(0)


def by_hand(
    name: str, feature: torch.nn.Module, first: EncodedText, second: EncodedText, row: int
) -> torch.Tensor:
    u, v = first.vector[row], second.vector[row]
    length = math.sqrt(sum((a - b) ** 2 for a, b in zip(u.tolist(), v.tolist(), strict=True)))
    dot = sum(a * b for a, b in zip(u.tolist(), v.tolist(), strict=True))
    return {
        "concat": lambda: torch.tensor(u.tolist() + v.tolist(), dtype=torch.float64),
        "squared_sum": lambda: (u + v) * (u + v),
        "squared_difference": lambda: (u - v) * (u - v),
        "abs_difference": lambda: torch.where(u > v, u - v, v - u),
        "product": lambda: torch.tensor(
            [a * b for a, b in zip(u.tolist(), v.tolist(), strict=True)], dtype=u.dtype
        ),
        "normalized_difference": lambda: torch.where(u > v, u - v, v - u) / length,
        "cosine": lambda: (dot / math.sqrt(float(u @ u)) / math.sqrt(float(v @ v))) * torch.ones(1).double(),
        "cross_attention": lambda: torch.cat(
            [
                gathered(feature, first.tokens[row], second.tokens[row]),
                gathered(feature, second.tokens[row], first.tokens[row]),
            ]
        ),
    }[name]()


@pytest.mark.parametrize("name", PAIR_FEATURES)
def test_by_hand(name: str) -> None:
    feature = PAIR_FEATURES[name](D, W).double()
    first, second = text(5, 1), text(4, 2)
    found = feature(first, second)
    assert found.shape == (2, feature.output_size)
    for row in range(2):
        torch.testing.assert_close(found[row], by_hand(name, feature, first, second, row), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", PAIR_FEATURES)
def test_equal_vectors_give_numbers_and_gradients(name: str) -> None:
    feature = PAIR_FEATURES[name](D, W).double()
    vector = torch.ones(2, D, dtype=torch.float64, requires_grad=True)
    one = text(3, 1)._replace(vector=vector)
    feature(one, one).sum().backward()
    assert vector.grad is None or vector.grad.isfinite().all()
    assert feature(one, one).isfinite().all()


def test_cross_attention_is_blind_to_padding() -> None:
    feature = PAIR_FEATURES["cross_attention"](D, W).double()
    first, second = text(5, 1), text(4, 2)
    expected = feature(first, second)
    padded = []
    for each, left in ((first, 0), (second, 2)):
        tokens = torch.nn.functional.pad(each.tokens, (0, 0, left, 2 - left), value=70.0)
        mask = torch.nn.functional.pad(torch.ones(each.tokens.shape[:2]), (left, 2 - left))
        padded.append(EncodedText(each.vector, tokens, mask))
    torch.testing.assert_close(feature(*padded), expected, rtol=0, atol=1e-12)
