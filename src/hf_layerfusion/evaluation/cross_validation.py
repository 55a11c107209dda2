"""Folds of a cross-validation, stratified by class and optionally by group."""

from collections.abc import Hashable, Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.utils import shuffle

from hf_layerfusion.errors import UserError, one_line

Fold: TypeAlias = tuple[np.ndarray[Any, np.dtype[np.int64]], np.ndarray[Any, np.dtype[np.int64]]]


def stratified_group_folds(
    labels: Sequence[Hashable], groups: Sequence[Hashable], n_folds: int = 10, seed: int = 0
) -> list[Fold]:
    """Return stratified folds in which every group is entirely in one fold.

    Args:
        labels: Class of each example.
        groups: Group of each example, such as the sentence of an aspect.
        n_folds: Number of folds, at least 2.
        seed: Seed of the order in which groups with similar classes are assigned.

    Returns:
        For each fold the indices of the examples to train on and of those to test on, both ascending.

    Raises:
        UserError: If there are fewer groups than folds, or the labels are no classes.
    """
    order = list(dict.fromkeys(groups))
    _check_number(n_folds, len(order), "groups")
    # Shuffled here, because the splitter's own shuffle mixed up the classes of groups before scikit-learn 1.8.
    numbers = {group: number for number, group in enumerate(shuffle(order, random_state=seed))}
    splitter = StratifiedGroupKFold(n_folds)
    return _folds(splitter.split(labels, labels, [numbers[group] for group in groups]), n_folds)


def stratified_folds(labels: Sequence[Hashable], n_folds: int = 10, seed: int = 0) -> list[Fold]:
    """Return stratified folds without groups: a sentence with several aspects may be in both training and test data.

    Args:
        labels: Class of each example.
        n_folds: Number of folds, at least 2.
        seed: Seed of the random assignment.

    Returns:
        For each fold the indices of the examples to train on and of those to test on, both ascending.

    Raises:
        UserError: If there are fewer examples than folds, or the labels are no classes.
    """
    _check_number(n_folds, len(labels), "examples")
    return _folds(StratifiedKFold(n_folds, shuffle=True, random_state=seed).split(labels, labels), n_folds)


def _check_number(n_folds: int, available: int, what: str) -> None:
    if n_folds < 2:
        raise UserError(f"the number of folds must be at least 2, found {n_folds}; the paper's is 10")
    if available < n_folds:
        raise UserError(
            f"the number of folds must be at most that of {what}, found {n_folds} folds for {available} {what}; give "
            "more data or ask for fewer folds"
        )


def _folds(split: Iterable[Any], n_folds: int) -> list[Fold]:
    try:
        folds = [(np.sort(train), np.sort(test)) for train, test in split]
    except ValueError as error:  # scikit-learn's error for labels that cannot be stratified
        raise UserError(
            f"{n_folds} stratified folds cannot be made ({one_line(error)}); ask for fewer folds, or give "
            "one class an example"
        ) from error
    if not all(len(test) for _, test in folds):
        raise UserError(f"the groups are too unequal for {n_folds} folds; ask for fewer")
    return folds
