"""SimCSE's loss against its definition, in float64."""

import pytest
import torch

from hf_layerfusion.regularizers.simcse import simcse_loss


@pytest.mark.parametrize("temperature", [0.05, 1.0])
@pytest.mark.parametrize("size", [1, 2, 7])
def test_loss_and_gradient_are_those_of_equation_1(size, temperature):
    first, second = (torch.randn(size, 5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    losses = []
    for i in range(size):
        similarities = [
            (first[i] @ second[j]) / (first[i] @ first[i]).sqrt() / (second[j] @ second[j]).sqrt()
            for j in range(size)
        ]
        shares = torch.stack([(similarity / temperature).exp() for similarity in similarities])
        losses.append(-(shares[i] / shares.sum()).log())
    expected = torch.stack(losses).mean()
    wanted = torch.autograd.grad(expected, (first, second))
    loss = simcse_loss(first, second, temperature)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    for found, gradient in zip(torch.autograd.grad(loss, (first, second)), wanted, strict=True):
        torch.testing.assert_close(found, gradient, rtol=1e-9, atol=1e-12)


def test_length_of_a_vector_does_not_matter():
    first, second = torch.randn(4, 6, dtype=torch.float64), torch.randn(4, 6, dtype=torch.float64)
    torch.testing.assert_close(simcse_loss(3 * first, second / 7), simcse_loss(first, second))
