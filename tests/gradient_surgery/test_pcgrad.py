"""PCGrad on the Gram matrix against the paper's algorithm on whole gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hf_layerfusion.gradient_surgery.pcgrad import pcgrad


def algorithm_1(gradients, orders):
    """Yu et al. 2020, Algorithm 1, on gradients `[T, P]`; `orders[i]` is that in which task i meets the others."""
    total = torch.zeros_like(gradients[0])
    for task, order in enumerate(orders):
        projected = gradients[task].clone()
        for other in order:
            if other != task and projected @ gradients[other] < 0:
                scale = projected @ gradients[other] / gradients[other].square().sum()
                projected = projected - scale * gradients[other]
        total = total + projected
    return total


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_by_the_algorithm_for_any_order_drawn(data):
    tasks = data.draw(st.integers(1, 8))
    size = data.draw(st.integers(1, 12))
    numbers = st.floats(-10, 10, allow_nan=False, allow_subnormal=False).map(lambda x: round(x, 3))
    gradients = torch.from_numpy(data.draw(arrays("float64", (tasks, size), elements=numbers)))
    seed = data.draw(st.integers(0, 2**31))
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(tasks, generator=generator).tolist() for _ in range(tasks)]
    weights = pcgrad(gradients @ gradients.T, torch.Generator().manual_seed(seed))
    expected = algorithm_1(gradients, orders)
    torch.testing.assert_close(weights @ gradients, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("tasks", range(1, 9))
def test_by_the_algorithm_in_many_dimensions(tasks):
    gradients = torch.randn(tasks, 500, dtype=torch.float64) - 0.2 * torch.randn(500, dtype=torch.float64)
    generator = torch.Generator().manual_seed(tasks)
    orders = [torch.randperm(tasks, generator=generator).tolist() for _ in range(tasks)]
    weights = pcgrad(gradients @ gradients.T, torch.Generator().manual_seed(tasks))
    torch.testing.assert_close(weights @ gradients, algorithm_1(gradients, orders), rtol=1e-10, atol=1e-10)


def test_two_tasks_by_hand():
    gradients = torch.tensor([[1.0, 0.0], [-1.0, 1.0]], dtype=torch.float64)
    # g1 loses its part along g2: (1, 0) + ½ (−1, 1); g2 its part along g1: (0, 1).
    weights = pcgrad(gradients @ gradients.T, torch.Generator())
    torch.testing.assert_close(weights @ gradients, torch.tensor([0.5, 1.5], dtype=torch.float64))


def test_without_conflict_it_is_the_sum():
    gradients = torch.rand(4, 6, dtype=torch.float64)
    assert torch.equal(pcgrad(gradients @ gradients.T, torch.Generator()), torch.ones(4, dtype=torch.float64))


def test_the_order_matters_and_comes_from_the_generator():
    gradients = torch.tensor([[1.0, 0.0], [-1.0, 0.5], [-1.0, -1.0]], dtype=torch.float64)
    found = {
        tuple(pcgrad(gradients @ gradients.T, torch.Generator().manual_seed(seed)).tolist())
        for seed in range(20)
    }
    assert len(found) > 1
    state = torch.get_rng_state()
    pcgrad(gradients @ gradients.T, torch.Generator())
    assert torch.equal(torch.get_rng_state(), state)
