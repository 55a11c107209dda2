from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from datasets import Dataset

from hf_layerfusion.errors import UserError
from hf_layerfusion.training.samplers import RowOrder
from hf_layerfusion.training.task_data import MultitaskBatchSampler, MultitaskDataset, Pick, TaskDataset
from hf_layerfusion.training.task_mixing import TASK_MIXINGS
from tests.training.small_tasks import task_rows, train_sets

ROWS = {"a": 11, "b": 5}


def sampler(
    parts: int = 1, size: int = 4, epoch: int = 0, mixing: str = "shuffled", **changes: Any
) -> MultitaskBatchSampler:
    batches = {task: -(-count // size) for task, count in ROWS.items()}
    settings: dict[str, Any] = {
        "orders": {task: RowOrder(count, size) for task, count in ROWS.items()},
        "swappable": frozenset(),
        "drop_last": False,
        "seed": 0,
    }
    return MultitaskBatchSampler(
        mixing=TASK_MIXINGS[mixing](ROWS, batches), parts=parts, epoch=lambda: epoch, **(settings | changes)
    )


def test_each_row_once_an_epoch() -> None:
    batches = list(sampler())
    assert len(batches) == len(sampler()) == 5
    assert all(len({pick.task for pick in batch}) == 1 for batch in batches)
    assert Counter(pick for batch in batches for pick in batch) == {
        Pick(task, row): 1 for task, count in ROWS.items() for row in range(count)
    }
    assert sampler().num_examples() == 16


@pytest.mark.parametrize("mixing", ["shuffled", "together_longest", "square_root"])
@pytest.mark.parametrize("parts", [2, 3, 4])
def test_a_divided_step_has_the_rows_of_the_undivided(mixing: str, parts: int) -> None:
    settings: dict[str, Any] = {"mixing": mixing, "swappable": frozenset("b")}
    whole = list(sampler(**settings))
    divided = list(sampler(parts, **settings))
    assert len(divided) == len(whole) * parts == len(sampler(parts, **settings))
    for step, batch in enumerate(whole):
        micro = divided[step * parts : (step + 1) * parts]
        for task in dict.fromkeys(pick.task for pick in batch):
            shares = [[pick for pick in share if pick.task == task] for share in micro]
            assert all(shares)
            sizes = [sum(not pick.repeated for pick in share) for share in shares]
            assert max(sizes) - min(sizes) <= 1
            real = [pick for share in shares for pick in share if not pick.repeated]
            assert real == [pick for pick in batch if pick.task == task]
            for share, size in zip(shares, sizes, strict=True):
                assert len(share) == max(size, 1)


def test_seed_epoch_and_pass_change_the_order() -> None:
    orders = [list(sampler()), list(sampler(seed=1)), list(sampler(epoch=1))]
    assert orders[0] == list(sampler())
    assert orders[0] != orders[1] != orders[2] != orders[0]
    # b has 2 batches for 3 of a: its third is of a second pass
    steps = list(sampler(mixing="together_longest", size=4))
    passes = [[pick.row for pick in step if pick.task == "b"] for step in steps]
    assert sorted(passes[0] + passes[1]) == list(range(5))
    assert len(passes[2]) == 4
    assert passes[2] != passes[0]


def test_half_of_the_pairs_are_swapped() -> None:
    order = {task: RowOrder(400, 4) for task in ROWS}
    picks = [pick for batch in sampler(orders=order, swappable=frozenset("a")) for pick in batch]
    many = [
        pick
        for epoch in range(30)
        for batch in sampler(epoch=epoch, swappable=frozenset("a"))
        for pick in batch
    ]
    assert not any(pick.swapped for pick in picks + many if pick.task == "b")
    swapped = [pick.swapped for pick in many if pick.task == "a"]
    assert len(swapped) == 330
    assert 120 < sum(swapped) < 210


def test_drop_last() -> None:
    whole = TASK_MIXINGS["shuffled"](ROWS, {task: count // 4 for task, count in ROWS.items()})
    chosen = sampler(drop_last=True)
    chosen.mixing = whole
    batches = list(chosen)
    assert [len(batch) for batch in batches] == [4, 4, 4]


@pytest.mark.parametrize("as_arrow", [False, True])
def test_rows_are_found_by_their_picks(as_arrow: bool) -> None:
    sets: dict[str, Any] = train_sets()
    if as_arrow:
        sets = {task: Dataset.from_list(rows) for task, rows in sets.items()}
    data = MultitaskDataset(sets)
    assert len(data) == 46
    picks = [Pick("para", 3, swapped=True), Pick("para", 0), Pick("sim", 2, repeated=True)]
    swapped, plain, repeated = data.__getitems__(picks)
    expected = task_rows("para", 13)
    assert swapped["input_ids"] == expected[3]["input_ids"][::-1]
    assert plain == {
        "task": "para",
        **{key: expected[0][key] for key in ("input_ids", "attention_mask", "labels")},
    }
    assert repeated["repeated"]
    assert data[Pick("para", 0)] == plain
    # evaluated in the order given
    alone = TaskDataset("para", sets["para"], "evaluation")
    assert alone[0] == plain
    assert [row["labels"] for row in alone.__getitems__([2, 1])] == [
        expected[2]["labels"],
        expected[1]["labels"],
    ]


def test_lengths() -> None:
    apart = TaskDataset(
        "sim", [{"input_ids": [[1] * 3, [1] * 7]}, {"input_ids": [[1] * 4, [1]]}], "evaluation"
    )
    assert apart.lengths("length") == [7, 4]
    plain = TaskDataset(
        "x", Dataset.from_list([{"input_ids": [1] * 3}, {"input_ids": [1] * 5}]), "evaluation"
    )
    assert plain.lengths("length") == [3, 5]
    assert TaskDataset("x", [{"input_ids": [1], "length": 9}], "evaluation").lengths("length") == [9]


@pytest.mark.parametrize(
    ("sets", "named"),
    [
        ({}, "at least one task"),
        ({"five": []}, "task 'five': must have rows, found none"),
        ({"five": [{"input_ids": [1]}]}, "task 'five': must have a column 'labels'"),
        ({"../five": task_rows("five", 2)}, "'../five'"),
        ({"five": iter(())}, "task 'five': must have a length"),
    ],
)
def test_bad_data(sets: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named) as caught:
        MultitaskDataset(sets)
    assert "\n" not in str(caught.value)
