"""Tasks' gradients against flattened ones: products, recombination, micro-batches, memory."""

import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hf_layerfusion.errors import UserError
from hf_layerfusion.gradient_surgery.gramian import TaskGradients, buckets
from hf_layerfusion.gradient_surgery.registry import task_weights
from tests.gradient_surgery.test_pcgrad import algorithm_1


class Tasks(nn.Module):
    """A trunk for all tasks, a part for the first two, a head for each; one weight is in two places."""

    def __init__(self, tasks, width=5):
        super().__init__()
        self.trunk, self.pair = nn.Linear(4, width), nn.Linear(width, width)
        self.heads = nn.ModuleList(nn.Linear(width, 2) for _ in range(tasks))
        self.unused = nn.Linear(3, 3)
        self.frozen = nn.Linear(width, width).requires_grad_(False)

    def loss(self, task, inputs):
        hidden = self.frozen(torch.tanh(self.trunk(inputs)))
        if task < 2:
            hidden = self.pair(self.pair(hidden))
        return F.mse_loss(self.heads[task](torch.tanh(hidden)), torch.full((len(inputs), 2), (-1.0) ** task))


def make(tasks, rows=3):
    model = Tasks(tasks).double()
    torch.set_default_dtype(torch.float64)
    try:
        return model, [torch.randn(rows, 4, dtype=torch.float64) for _ in range(tasks)]
    finally:
        torch.set_default_dtype(torch.float32)


def by_definition(model, inputs):
    """The gradients `[T, P]` over what at least two tasks use, zeros where a task does not, and the rest by task."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    found = [
        torch.autograd.grad(model.loss(task, each).double(), parameters, allow_unused=True)
        for task, each in enumerate(inputs)
    ]
    used = [sum(each is not None for each in of_parameter) for of_parameter in zip(*found, strict=True)]
    shared = torch.stack(
        [
            torch.cat(
                [
                    torch.zeros(parameter.numel(), dtype=torch.float64) if each is None else each.flatten()
                    for parameter, each, count in zip(parameters, gradients, used, strict=True)
                    if count > 1
                ]
                or [torch.zeros(0, dtype=torch.float64)]
            )
            for gradients in found
        ]
    )
    own = [
        next(each for each in of_parameter if each is not None)
        for of_parameter, count in zip(zip(*found, strict=True), used, strict=True)
        if count == 1
    ]
    return parameters, used, shared, own


def gather(model, inputs):
    gradients = TaskGradients(model.parameters())
    for task, each in enumerate(inputs):
        with gradients.of(str(task)):
            model.loss(task, each).backward()
    return gradients


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("tasks", range(1, 9))
def test_equal_to_the_definition(tasks, reduction):
    model, inputs = make(tasks)
    parameters, used, shared, own = by_definition(model, inputs)
    gradients = gather(model, inputs)
    gramian = gradients.gramian()
    torch.testing.assert_close(gramian, shared @ shared.T, rtol=1e-10, atol=1e-10)
    assert gradients.tasks == [str(task) for task in range(tasks)]

    seed = torch.Generator().manual_seed(7)
    orders = [torch.randperm(tasks, generator=seed).tolist() for _ in range(tasks)]
    gradients.combine(task_weights("pcgrad", gramian, torch.Generator().manual_seed(7), reduction))
    expected = algorithm_1(shared, orders) / (1 if reduction == "sum" else tasks)
    found = [parameter.grad for parameter, count in zip(parameters, used, strict=True) if count > 1]
    if tasks > 1:
        torch.testing.assert_close(
            torch.cat([each.flatten() for each in found]), expected, rtol=1e-10, atol=1e-10
        )
    kept = [parameter.grad for parameter, count in zip(parameters, used, strict=True) if count == 1]
    for each, own_gradient in zip(kept, own, strict=True):
        torch.testing.assert_close(each, own_gradient, rtol=1e-10, atol=1e-12)
    assert model.unused.weight.grad is None and model.frozen.weight.grad is None
    assert not gradients.tasks


def test_large_gradients_are_compared_in_parts():
    weight = nn.Parameter(torch.zeros(300, 301, dtype=torch.float64))
    other = nn.Parameter(torch.zeros(7, dtype=torch.float64))
    gradients, flat = TaskGradients([weight, other]), []
    for task in range(3):
        slopes = torch.randn(300, 301, dtype=torch.float64), torch.randn(7, dtype=torch.float64)
        with gradients.of(str(task)):
            ((weight * slopes[0]).sum() + (other * slopes[1]).sum()).backward()
        flat.append(torch.cat([each.flatten() for each in slopes]))
    flat = torch.stack(flat)
    torch.testing.assert_close(gradients.gramian(), flat @ flat.T, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_of_low_precision_gradients_are_summed_in_a_higher_one(dtype):
    weight = nn.Parameter(torch.zeros(100_000, dtype=dtype))
    gradients = TaskGradients([weight])
    flat = []
    for task in "ab":
        slope = torch.randn(100_000).to(dtype)
        with gradients.of(task):
            (weight * slope).sum().backward()
        flat.append(slope.double())
    expected = torch.stack(flat) @ torch.stack(flat).T
    torch.testing.assert_close(gradients.gramian(), expected, rtol=1e-5, atol=0.05)


def test_micro_batches_add_up_before_they_are_projected():
    model, inputs = make(3, rows=6)
    whole = gather(model, inputs)
    expected = whole.gramian()
    parts = TaskGradients(model.parameters())
    for start in (0, 3):
        for task, each in enumerate(inputs):
            with parts.of(str(task)):
                (model.loss(task, each[start : start + 3]) / 2).backward()
    torch.testing.assert_close(parts.gramian(), expected, rtol=1e-10, atol=1e-12)
    assert parts.tasks == whole.tasks


def test_no_more_than_a_gradient_for_each_task():
    weight = nn.Parameter(torch.zeros(1000, 1000))
    gradients = TaskGradients([weight])
    alive = weakref.WeakSet()
    for _ in range(2):
        for task in "abc":
            with gradients.of(task):
                (weight * 2).sum().backward()
                alive.add(weight.grad.untyped_storage())
            assert weight.grad is None
    assert len(alive) == 3
    gradients.combine(torch.ones(3))
    assert len(alive) == 1
    assert torch.equal(weight.grad, torch.full((1000, 1000), 12.0))


def test_the_average_is_the_callers():
    model, inputs = make(2)
    gradients = gather(model, inputs)
    seen = []

    def halve(tensors):
        seen.append(len(tensors))
        for each in tensors:
            each.mul_(0.5)

    before = gradients.gramian()
    gradients.reduce(halve)
    torch.testing.assert_close(gradients.gramian(), before / 4)
    assert seen == [12]  # of both tasks: trunk, pair and a head, weight and bias each


def test_alone_the_average_is_the_gradient():
    model, inputs = make(2)
    gradients = gather(model, inputs)
    before = gradients.gramian()
    gradients.reduce()
    assert torch.equal(gradients.gramian(), before)


def test_sparse_gradients_are_refused():
    table = nn.Embedding(5, 2, sparse=True)
    gradients = TaskGradients(table.parameters())
    with pytest.raises(UserError, match="sparse=False"), gradients.of("a"):
        table(torch.tensor([1])).sum().backward()


def test_gradients_are_reduced_in_buckets():
    sizes = (3, 5, 40, 1, 2)  # floats of 4 bytes
    tensors = [torch.zeros(size) for size in sizes]
    tensors.insert(1, torch.zeros(2, dtype=torch.float64))
    found = [[each.numel() for each in bucket] for bucket in buckets(tensors, 32)]
    assert found == [[3, 5], [40], [2], [1, 2]]
    assert [bucket[0].dtype for bucket in buckets(tensors, 32)].count(torch.float64) == 1
