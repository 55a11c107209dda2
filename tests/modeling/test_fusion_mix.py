from __future__ import annotations

from math import log

import torch

from hf_layerfusion.modeling.fusion_mix import MixedFuser, ScalarMix


def constant(*values: float) -> tuple[torch.Tensor, ...]:
    return tuple(torch.full((1, 1, 1), value, dtype=torch.float64) for value in values)


def test_scalar_mix_by_hand() -> None:
    mix = ScalarMix(3).double()
    with torch.no_grad():
        mix.scalars.copy_(torch.tensor([log(1), log(2), log(5)]))
        mix.scale.fill_(3)
    # 3 * (1/8 * 8 + 2/8 * 4 + 5/8 * -8)
    torch.testing.assert_close(mix.weights, torch.tensor([0.125, 0.25, 0.625], dtype=torch.float64))
    torch.testing.assert_close(mix(list(constant(8, 4, -8))).item(), -9.0)


def test_mixes_only_its_layers_then_applies_its_cell() -> None:
    for learned in (False, True):  # a new scalar mix is the mean
        fuser = MixedFuser((1, 3), learned, 1, 1, "linear").double()
        with torch.no_grad():
            fuser.cell.weight.copy_(torch.tensor([[2.0], [-1.0]]))
            fuser.cell.bias.copy_(torch.tensor([0.5, 0.0]))
        torch.testing.assert_close(fuser(constant(100, 4, 100, 8), None).flatten().tolist(), [12.5, -6.0])
