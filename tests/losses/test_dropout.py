"""Masks come back, from the generator or from memory, and nothing else notices."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hf_layerfusion.losses.dropout import Dropout

CPU = torch.device("cpu")


def attention(values):
    return F.scaled_dot_product_attention(values, values, values, dropout_p=0.3)


GRU = nn.GRU(8, 8, num_layers=2, dropout=0.4)
PASSES = {
    "dropout": lambda values: F.dropout(values, 0.5),
    "attention": attention,
    "several": lambda values: F.dropout(attention(F.dropout(values, 0.1)), 0.2),
    "recurrence": lambda values: GRU(values[0])[0],
    "other draws": lambda values: F.dropout(values, 0.5) * torch.rand(8) * F.dropout(values, 0.5),
}


@pytest.mark.parametrize("keep_masks", [False, True])
@pytest.mark.parametrize("name", PASSES)
def test_every_further_pass_has_the_masks_of_the_first(name, keep_masks):
    values = torch.randn(2, 3, 5, 8)
    torch.manual_seed(1)
    expected = PASSES[name](values)
    after = torch.rand(3)
    torch.manual_seed(1)
    dropout = Dropout(CPU, keep_masks)
    with dropout.recorded():
        assert torch.equal(PASSES[name](values), expected)
    for _ in range(2):
        with dropout.replayed():
            assert torch.equal(PASSES[name](values), expected)
    assert torch.equal(torch.rand(3), after)


@pytest.mark.parametrize("keep_masks", [False, True])
def test_from_a_moment_on(keep_masks):
    values = torch.ones(100)
    dropout = Dropout(CPU, keep_masks)
    with dropout.recorded():
        F.dropout(values, 0.5)
        moment = dropout.moment()
        second = F.dropout(values, 0.5)
    with dropout.replayed():
        dropout.go_to(moment)
        assert torch.equal(F.dropout(values, 0.5), second)


def test_masks_are_kept_instead_of_drawn():
    dropout = Dropout(CPU, keep_masks=True)
    with dropout.recorded():
        F.dropout(torch.ones(10), 0.5)
    with dropout.replayed():
        before = torch.get_rng_state()
        F.dropout(torch.ones(10), 0.5)
        assert torch.equal(torch.get_rng_state(), before)


def test_gradients_pass_through_kept_masks():
    values = torch.randn(4, 8, dtype=torch.float64, requires_grad=True)
    dropout = Dropout(CPU, keep_masks=True)
    with dropout.recorded():
        F.dropout(values, 0.25)
    with dropout.replayed():
        output = F.dropout(values, 0.25)
    (gradient,) = torch.autograd.grad(output.sum(), values)
    torch.testing.assert_close(gradient, output.detach() / values.detach())
