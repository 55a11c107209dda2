from __future__ import annotations

import math
from collections import Counter

import pytest
import torch

from hf_layerfusion.training.task_mixing import TASK_MIXINGS, Proportional, TaskMixing

ROWS = {"a": 100, "b": 400, "c": 900}
BATCHES = {"a": 1, "b": 4, "c": 9}


def mixing(name: str, **changes: object) -> TaskMixing:
    return TASK_MIXINGS[name](**({"num_rows": ROWS, "num_batches": BATCHES} | changes))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", TASK_MIXINGS)
def test_contract(name: str) -> None:
    mixed = mixing(name, num_epochs=3, temperature=3.0)
    for epoch in range(3):
        steps = mixed.steps(epoch, generator())
        assert len(steps) == len(mixed) > 0
        assert steps == mixed.steps(epoch, generator())
        assert {task for step in steps for task in step} <= set(BATCHES)
        assert all(len(set(step)) == len(step) > 0 for step in steps)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("round_robin", [("a",), ("b",)] * 2),
        ("round_robin_longest", [("a",), ("b",)] * 3),
        ("together", [("a", "b")] * 2),
        ("together_longest", [("a", "b")] * 3),
    ],
)
def test_in_turn(name: str, expected: list[tuple[str, ...]]) -> None:
    mixed = mixing(name, num_rows={"a": 5, "b": 3}, num_batches={"a": 3, "b": 2})
    assert mixed.steps(0, generator()) == expected


def test_shuffled_has_every_batch_once_in_an_order_of_chance() -> None:
    orders = [mixing("shuffled").steps(0, generator(seed)) for seed in range(20)]
    for order in orders:
        assert Counter(order) == {("a",): 1, ("b",): 4, ("c",): 9}
    assert len({tuple(order) for order in orders}) == 20


@pytest.mark.parametrize(
    ("name", "epoch", "expected"),
    [
        ("proportional", 0, [100 / 1400, 400 / 1400, 900 / 1400]),
        ("square_root", 0, [10 / 60, 20 / 60, 30 / 60]),
        ("temperature", 0, [1 / (1 + math.sqrt(2) + math.sqrt(3)), None, None]),
        ("annealed", 0, [100 / 1400, 400 / 1400, 900 / 1400]),
        ("annealed", 2, [100**0.6 / (100**0.6 + 400**0.6 + 900**0.6), None, None]),
        ("annealed", 4, [100**0.2 / (100**0.2 + 400**0.2 + 900**0.2), None, None]),
        ("annealed", 9, [100**0.2 / (100**0.2 + 400**0.2 + 900**0.2), None, None]),  # beyond the last
    ],
)
def test_probabilities(name: str, epoch: int, expected: list[float | None]) -> None:
    mixed = mixing(name, num_epochs=5, temperature=4.0)
    assert isinstance(mixed, Proportional)
    found = mixed.probabilities(epoch).tolist()
    assert sum(found) == pytest.approx(1)
    for value, wanted in zip(found, expected, strict=True):
        assert wanted is None or value == pytest.approx(wanted)


def test_a_run_of_one_epoch_anneals_nothing() -> None:
    assert mixing("annealed", num_epochs=1).probabilities(0)[0] == pytest.approx(100 / 1400)


def test_tasks_are_drawn_by_their_probabilities() -> None:
    mixed = mixing("square_root", num_batches={"a": 4000, "b": 4000, "c": 4000})
    counts = Counter(mixed.steps(0, generator(1)))
    for task, share in (("a", 1 / 6), ("b", 2 / 6), ("c", 3 / 6)):
        deviation = math.sqrt(12000 * share * (1 - share))
        assert abs(counts[task,] - 12000 * share) < 4 * deviation
