import logging
import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_layerfusion.data.splits import (
    _draw,
    draw_subset,
    remove_duplicates,
    split_train_validation,
    text_overlap,
)
from hf_layerfusion.errors import UserError


def numbered(labels: list, **columns) -> Dataset:
    """One row for each label, with its number as text."""
    return Dataset.from_dict(
        {"text": [f"t{number}" for number in range(len(labels))], "label": labels, **columns}
    )


def test_remove_duplicates_keeps_the_first_and_the_order(caplog):
    dataset = Dataset.from_dict(
        {"text": ["b", "a", "b", "a ", "A", "a"], "label": [0, 1, 0, 1, 1, 0], "row": [2, 3, 4, 5, 6, 7]}
    )
    with caplog.at_level(logging.WARNING):
        kept = remove_duplicates(dataset, ["text"])
    assert kept["text"][:] == ["b", "a", "a ", "A"]
    assert kept["row"][:] == [2, 3, 5, 6]
    assert kept["label"][:] == [0, 1, 1, 1]
    assert "1 repeated texts stand with differing labels" in caplog.text


def test_remove_duplicates_of_pairs_needs_both_equal():
    dataset = Dataset.from_dict({"a": ["x", "x", "x", "y"], "b": ["1", "2", "1", "x1"]})
    assert remove_duplicates(dataset, ["a", "b"])["b"][:] == ["1", "2", "x1"]
    assert remove_duplicates(dataset, ["a"])["b"][:] == ["1", "x1"]


def test_remove_duplicates_with_list_labels(caplog):
    dataset = Dataset.from_dict({"text": ["x", "x", "y", "y"], "label": [["a"], ["a"], ["a"], ["b"]]})
    with caplog.at_level(logging.WARNING):
        assert len(remove_duplicates(dataset, ["text"])) == 2
    assert "1 repeated texts" in caplog.text


def test_duplicates_and_splits_start_from_the_rows_selected():
    chosen = numbered([0, 1] * 10).select([5, 3, 3, 1])
    assert remove_duplicates(chosen, ["text"])["text"][:] == ["t5", "t3", "t1"]
    assert set(draw_subset(chosen, 2)["text"][:]) <= {"t5", "t3", "t1"}


@pytest.mark.parametrize("kind", ["int", "string", "class"])
def test_split_has_the_shares_of_each_class(kind):
    classes = [0] * 600 + [1] * 300 + [2] * 100
    if kind == "class":
        features = Features({"text": Value("string"), "label": ClassLabel(names=["a", "b", "c"])})
        dataset = numbered(classes).cast(features)
    else:
        dataset = numbered(classes if kind == "int" else [str(label) for label in classes])
    train, validation = split_train_validation(dataset, 0.3, seed=1)
    assert [count for _, count in sorted(Counter(validation["label"]).items())] == [180, 90, 30]
    assert [count for _, count in sorted(Counter(train["label"]).items())] == [420, 210, 70]
    assert train.features == validation.features == dataset.features


@settings(max_examples=60, deadline=None)
@given(
    labels=st.lists(st.integers(0, 4), min_size=12, max_size=60),
    fraction=st.floats(0.3, 0.7),
    seed=st.integers(0, 2**32),
)
def test_split_is_a_partition_in_order_with_every_class_in_both(labels, fraction, seed):
    dataset = numbered(labels)
    sizes = Counter(labels)
    try:
        train, validation = split_train_validation(dataset, fraction, seed)
    except UserError:
        wanted = round(len(labels) * fraction)
        assert not len(sizes) <= wanted <= len(labels) - len(sizes)
        return
    assert len(validation) == round(len(labels) * fraction)
    numbers = [[int(text[1:]) for text in part["text"]] for part in (train, validation)]
    assert sorted(numbers[0] + numbers[1]) == list(range(len(labels)))
    assert all(part == sorted(part) for part in numbers)
    for label, size in sizes.items():
        found = Counter(validation["label"])[label]
        assert 1 <= found <= size - 1 or size == 1
        assert abs(found - size * fraction) < len(sizes)


@pytest.mark.parametrize(
    ("sizes", "fraction", "in_validation"),
    [
        # By the largest remainder alone, a class of two would go to validation whole,
        ((10, 2, 2), 0.75, {0: 8, 1: 1, 2: 1}),
        # or to training,
        ((30, 2), 0.2, {0: 5, 1: 1}),
        # and a class of one to validation.
        ((7, 1), 0.6, {0: 5}),
    ],
)
def test_training_keeps_a_row_of_each_class_and_validation_gets_one(sizes, fraction, in_validation):
    labels = [label for label, size in enumerate(sizes) for _ in range(size)]
    _, validation = split_train_validation(numbered(labels), fraction)
    assert Counter(validation["label"]) == in_validation


def test_split_draws_at_random_and_by_seed():
    dataset = numbered([0, 1] * 100)
    first, again, other = (split_train_validation(dataset, 0.3, seed)[1]["text"][:] for seed in (0, 0, 1))
    assert first == again != other
    assert first != [f"t{number}" for number in range(60)]


def test_every_row_is_drawn_equally_often():
    dataset = numbered([0] * 10 + [1] * 20)
    drawn = Counter(
        text for seed in range(100) for text in split_train_validation(dataset, 0.3, seed)[1]["text"][:]
    )
    # 30 expected of 100, standard deviation 4.6.
    assert len(drawn) == 30
    assert all(10 <= count <= 50 for count in drawn.values())


def test_split_of_floats_lists_and_without_labels():
    for labels in ([0.5] * 5 + [1.5] * 5, [["a"], []] * 5):
        train, validation = split_train_validation(numbered(labels), 0.3)
        assert (len(train), len(validation)) == (7, 3)
    train, validation = split_train_validation(Dataset.from_dict({"text": ["x"] * 10}), 0.2)
    assert (len(train), len(validation)) == (8, 2)


@pytest.mark.parametrize("seed", range(5))
def test_groups_stay_together_and_keep_the_shares(seed):
    sentences = [f"s{number // 3}" for number in range(300)]
    labels = [int(number // 3 < 40) for number in range(300)]
    dataset = numbered(labels, sentence=sentences)
    train, validation = split_train_validation(dataset, 0.3, seed, group_column="sentence")
    assert not set(train["sentence"]) & set(validation["sentence"])
    assert len(train) + len(validation) == 300
    assert Counter(validation["label"]) == {1: 12 * 3, 0: 18 * 3}


def test_a_group_counts_for_its_most_frequent_class():
    sentences = ["a"] * 3 + ["b"] * 3 + ["c"] * 3 + ["d"] * 3
    dataset = numbered([0, 0, 1, 1, 0, 0, 1, 1, 0, 1, 0, 1], sentence=sentences)
    for seed in range(10):
        train, validation = split_train_validation(dataset, 0.5, seed, group_column="sentence")
        for part in (train, validation):
            assert len(set(part["sentence"]) & {"a", "b"}) == 1


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan")])
def test_split_refuses_a_fraction_out_of_range(fraction):
    with pytest.raises(
        UserError, match=f"between 0 and 1, both excluded, found {fraction}; the paper's is 0.3$"
    ):
        split_train_validation(numbered([0, 1]), fraction)


@pytest.mark.parametrize(
    ("labels", "fraction", "pattern"),
    [
        ([0, 1], 0.3, r"0.3 would take 1 of 2 rows, .* \(2 classes\); give more data, another fraction, or"),
        ([0, 0, 1, 1], 0.1, "would take 0 of 4 rows"),
        ([0.5], 0.5, "would take 0 of 1 rows"),
        ([], 0.3, "would take 0 of 0 rows"),
        ([0, 0, 1, 1, 2, 2, 3, 3], 0.2, "would take 2 of 8 rows"),
    ],
)
def test_split_refuses_to_leave_a_part_or_a_class_without_rows(labels, fraction, pattern):
    with pytest.raises(UserError, match=pattern):
        split_train_validation(numbered(labels), fraction)
    with pytest.raises(UserError, match=pattern.replace("rows", "groups")):
        split_train_validation(numbered(labels), fraction, group_column="text")


def test_limit_is_stratified_ordered_and_by_seed():
    dataset = numbered([0] * 80 + [1] * 20)
    chosen = draw_subset(dataset, 10, seed=3)
    assert Counter(chosen["label"]) == {0: 8, 1: 2}
    numbers = [int(text[1:]) for text in chosen["text"]]
    assert numbers == sorted(numbers)
    assert (
        chosen["text"][:]
        == draw_subset(dataset, 10, seed=3)["text"][:]
        != draw_subset(dataset, 10, seed=4)["text"][:]
    )
    assert len(draw_subset(dataset, 100)) == len(draw_subset(dataset, 1000)) == 100


def test_limit_keeps_two_of_each_class_where_it_can():
    dataset = numbered([0] * 95 + [1] * 4 + [2])
    assert Counter(draw_subset(dataset, 10)["label"]) == {0: 7, 1: 2, 2: 1}
    assert len(draw_subset(dataset, 3)) == 3


@pytest.mark.parametrize("n", [0, -5])
def test_limit_refuses_less_than_one(n):
    with pytest.raises(UserError, match=f"must be at least 1, found {n}; leave it out to keep all"):
        draw_subset(numbered([0, 1]), n)


def test_text_overlap_counts_rows_of_the_first():
    a = Dataset.from_dict({"text": ["x", "x", "y", "z"], "pair": ["1", "2", "1", "1"]})
    b = Dataset.from_dict({"text": ["x", "z", "X"], "pair": ["1", "9", "1"]})
    assert text_overlap(a, b, ["text"]) == 3
    assert text_overlap(b, a, ["text"]) == 2
    assert text_overlap(a, b, ["text", "pair"]) == 1


DRAW = """
from datasets import Dataset
from hf_layerfusion.data.splits import draw_subset, remove_duplicates, split_train_validation
words = [f"w{number % 97}" for number in range(400)]
data = Dataset.from_dict({"text": words, "label": [word[-1] for word in words]})
unique = remove_duplicates(data, ["text"])
parts = [unique, draw_subset(data, 30, 1), *split_train_validation(unique, 0.4, 7)]
parts += split_train_validation(data, 0.4, 7, group_column="text")
drawn = [part["text"][:] for part in parts]
"""


def test_the_same_rows_in_a_process_with_other_string_hashes():
    here: dict = {}
    exec(DRAW, here)
    there = subprocess.run(
        [sys.executable, "-c", DRAW + "print(drawn)"],
        env=os.environ | {"PYTHONHASHSEED": "12345", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=True,
    )
    assert there.stdout == f"{here['drawn']}\n"


def test_a_part_is_drawn_in_one_pass_over_many_strata():
    """The rows of each stratum are those that come first in one permutation of all rows."""
    strata, quota = np.array([2, 0, 1, 2, 2, 0, 1, 2]), [1, 1, 2]
    order = np.random.default_rng(7).permutation(8)
    expected = np.concatenate([order[strata[order] == stratum][:size] for stratum, size in enumerate(quota)])
    found = _draw(strata, 4, np.zeros(3, np.int64), np.bincount(strata), 7)
    assert found.tolist() == expected.tolist()
