"""Folds: a partition, whole groups, like shares of each class."""

from collections import Counter
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_layerfusion.errors import UserError
from hf_layerfusion.evaluation.cross_validation import stratified_folds, stratified_group_folds

CLASSES = ["a"] * 60 + ["b"] * 30 + ["c"] * 30


def held_out(folds):
    return [test.tolist() for _, test in folds]


@pytest.mark.parametrize("grouped", [True, False])
def test_folds_have_the_shares_of_each_class(grouped):
    groups = [f"s{number // 3}" for number in range(120)]  # each group is of one class
    folds = (
        stratified_group_folds(CLASSES, groups, 10, seed=1) if grouped else stratified_folds(CLASSES, 10, 1)
    )
    for train, test in folds:
        assert Counter(CLASSES[index] for index in test) == {"a": 6, "b": 3, "c": 3}
        assert sorted([*train, *test]) == list(range(120))
        assert (np.diff(train) > 0).all()
        assert (np.diff(test) > 0).all()
    assert sorted(chain.from_iterable(held_out(folds))) == list(range(120))


def test_grouped_folds_have_the_shares_of_each_class_where_groups_mix_them():
    generator = np.random.default_rng(0)
    labels, groups = generator.choice(3, 600, p=[0.5, 0.3, 0.2]), generator.integers(400, size=600)
    for _, test in stratified_group_folds(labels, groups, 5):
        shares = np.bincount(labels[test]) / len(test)
        np.testing.assert_allclose(shares, np.bincount(labels) / 600, atol=0.015)


@settings(max_examples=15, deadline=None)
@given(
    groups=st.lists(st.integers(0, 15), max_size=60).map(lambda groups: [*range(16), *groups]),
    n_folds=st.integers(2, 5),
    seed=st.integers(0, 1000),
)
def test_no_group_stands_in_two_folds(groups, n_folds, seed):
    labels = [number % 2 for number in range(len(groups))]
    tests = held_out(stratified_group_folds(labels, groups, n_folds, seed))
    assert sorted(chain.from_iterable(tests)) == list(range(len(groups)))
    seen = [{groups[index] for index in test} for test in tests]
    assert sum(map(len, seen)) == len(set(groups))


def test_folds_that_are_not_grouped_part_groups():
    groups = [number // 3 for number in range(120)]
    seen = [{groups[index] for index in test} for test in held_out(stratified_folds(CLASSES, 10))]
    assert sum(map(len, seen)) > 40


def test_folds_are_drawn_by_seed():
    groups = [f"s{number // 3}" for number in range(120)]
    first, again, other = (held_out(stratified_group_folds(CLASSES, groups, 10, seed)) for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize(
    ("call", "pattern"),
    [
        (lambda: stratified_group_folds([0, 1] * 9, list("abc") * 6, 4), "found 4 folds for 3 groups"),
        (lambda: stratified_group_folds([0, 1], "ab", 1), "at least 2, found 1"),
        (lambda: stratified_folds([0, 1], 3), "found 3 folds for 2 examples"),
        (lambda: stratified_folds([0, 0, 1, 1], 4), "4 stratified folds cannot be made"),
        (lambda: stratified_folds([0.5, 1.5, 0.1], 2), "2 stratified folds cannot be made"),
    ],
)
def test_folds_that_cannot_be_made_are_refused_on_one_line(call, pattern):
    with pytest.raises(UserError, match=pattern) as caught:
        call()
    assert "\n" not in str(caught.value)
