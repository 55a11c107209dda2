from __future__ import annotations

import pytest
import torch

from hf_layerfusion.modeling.sentence_vectors import SENTENCE_VECTORS, feed_forward

STATES = torch.randn(3, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
MASKS = {
    "right": [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]],
    "left": [[1, 1, 1, 1, 1], [0, 0, 1, 1, 1], [0, 0, 0, 0, 1]],
    "holes": [[1, 0, 1, 1, 0], [0, 1, 1, 0, 0], [1, 0, 0, 0, 1]],
}


def by_hand(name: str, vector: torch.nn.Module, states: torch.Tensor) -> torch.Tensor:
    """The vector of one text `[T, W]` by its formula, one number after the other."""
    if name == "cls":
        return states[0]
    if name == "last":
        return states[-1]
    if name == "mean":
        return torch.stack(list(states)).sum(0) / len(states)
    if name == "pooler":
        return (vector.dense.weight @ states[0] + vector.dense.bias).tanh()
    s = vector.query.weight[0]
    matrix = vector.projection.weight if name == "multiplicative_attention" else torch.eye(4, dtype=s.dtype)
    energies = torch.stack([(s * (matrix @ h)).sum() for h in states]).exp()
    return sum(e / energies.sum() * h for e, h in zip(energies, states, strict=True))


@pytest.mark.parametrize("padding", [None, *MASKS])
@pytest.mark.parametrize("name", SENTENCE_VECTORS)
def test_by_hand_and_blind_to_padding(name: str, padding: str | None) -> None:
    vector = SENTENCE_VECTORS[name](4).double()
    mask = None if padding is None else torch.tensor(MASKS[padding])
    real = torch.ones(3, 5, dtype=torch.bool) if mask is None else mask.bool()
    noisy = torch.where(real.unsqueeze(-1), STATES, 50 * torch.randn_like(STATES))
    found = vector(noisy, mask)
    assert found.shape == (3, 4)
    for row in range(3):
        expected = by_hand(name, vector, STATES[row, real[row]])
        torch.testing.assert_close(found[row], expected, rtol=0, atol=1e-12)


def test_the_two_attentions_differ() -> None:
    attention = SENTENCE_VECTORS["multiplicative_attention"](4).double()
    plain = SENTENCE_VECTORS["dot_attention"](4).double()
    plain.query.load_state_dict(attention.query.state_dict())
    assert not torch.allclose(attention(STATES, None), plain(STATES, None))


def test_feed_forward_by_hand() -> None:
    layers = feed_forward(4, 3).double()
    first, second, third = (layer for layer in layers if isinstance(layer, torch.nn.Linear))
    hidden = (STATES[:, 0] @ first.weight.T + first.bias).clamp(min=0)
    hidden = (hidden @ second.weight.T + second.bias).clamp(min=0)
    torch.testing.assert_close(layers(STATES[:, 0]), hidden @ third.weight.T + third.bias)
    assert torch.equal(feed_forward(4, 0)(STATES), STATES)
