"""Operations on `datasets.Dataset`: deduplication, training and validation splits, subsets and overlap.

Random operations use a NumPy `Generator` with the given seed and keep the order of the rows, so that the same seed
gives the same rows in every process.
"""

import logging
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any, TypeAlias

import numpy as np
from datasets import ClassLabel, Dataset, Value

from hf_layerfusion.data.arrow_tables import column_values, select_rows
from hf_layerfusion.errors import UserError

Integers: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]

logger = logging.getLogger(__name__)


def remove_duplicates(dataset: Dataset, columns: Sequence[str]) -> Dataset:
    """Keep the first of all rows whose `columns` hold exactly the same texts (GRUBERT, section 2.1).

    The label of the first row is kept even if later ones differ; the number of texts with differing labels is logged as
    a warning, because such labels are noise.
    """
    keys = _keys(dataset, columns)
    first: dict[Hashable, int] = {}
    for index, key in enumerate(keys):
        first.setdefault(key, index)
    if "label" in dataset.column_names:
        labels = column_values(dataset, "label")
        differing = {key for key, label in zip(keys, labels, strict=True) if label != labels[first[key]]}
        if differing:
            logger.warning(
                "%d repeated texts stand with differing labels; the first label is kept", len(differing)
            )
    return select_rows(dataset, list(first.values()))


def check_fraction(validation_fraction: float) -> None:
    """Check the share of rows to split off for validation.

    Raises:
        UserError: If it is not between 0 and 1.
    """
    if not 0 < validation_fraction < 1:
        raise UserError(
            f"validation_fraction must lie between 0 and 1, both excluded, found {validation_fraction}; "
            "the paper's is 0.3"
        )


def split_train_validation(
    dataset: Dataset, validation_fraction: float = 0.3, seed: int = 0, *, group_column: str | None = None
) -> tuple[Dataset, Dataset]:
    """Split off a validation part, 30 % by default (GRUBERT, section 2.4).

    Class labels are stratified: each class has its share of both parts, and at least one row in each if it has two.
    Floats, lists and missing labels are split at random.

    Args:
        dataset: Rows with or without a column `label`, raw or encoded.
        validation_fraction: Share of rows (or groups) for validation, rounded to whole ones.
        seed: Seed of the random split.
        group_column: Column whose equal values keep rows together, so that a sentence with several aspects is never in
            both parts. A group counts as one unit of its most frequent class.

    Returns:
        The training and the validation part.

    Raises:
        UserError: If the fraction is not between 0 and 1, or leaves a part or a class without a row.
    """
    check_fraction(validation_fraction)
    members: dict[Hashable, list[int]] = {}
    keys = range(len(dataset)) if group_column is None else column_values(dataset, group_column)
    for index, key in enumerate(keys):
        members.setdefault(key, []).append(index)
    groups = list(members.values())
    strata = _strata(dataset)
    group_strata = np.array([_most_frequent(strata[group]) for group in groups], dtype=np.int64)
    sizes = np.bincount(group_strata) if len(groups) else np.zeros(1, dtype=np.int64)
    lower, upper = np.minimum(sizes // 2, 1), np.where(sizes > 1, sizes - 1, 0)
    count = round(len(groups) * validation_fraction)
    if not max(1, lower.sum()) <= count <= upper.sum():
        raise UserError(
            f"a validation_fraction of {validation_fraction} would take {count} of {len(groups)} "
            f"{'rows' if group_column is None else 'groups'}, which leaves a part or a class without any "
            f"({len(sizes)} classes); give more data, another fraction, or a validation file"
        )
    drawn = _draw(group_strata, count, lower, upper, seed)
    in_validation = np.zeros(len(dataset), dtype=bool)
    for group in drawn:
        in_validation[groups[group]] = True
    return select_rows(dataset, np.flatnonzero(~in_validation)), select_rows(
        dataset, np.flatnonzero(in_validation)
    )


def draw_subset(dataset: Dataset, n: int, seed: int = 0) -> Dataset:
    """Draw `n` rows, stratified by class as in `split_train_validation`; all rows if there are no more.

    Every class keeps two rows if it has them and `n` allows, so that the subset can still be split.

    Raises:
        UserError: If `n` is less than 1.
    """
    if n < 1:
        raise UserError(f"the number of rows to keep must be at least 1, found {n}; leave it out to keep all")
    if n >= len(dataset):
        return dataset
    strata = _strata(dataset)
    sizes = np.bincount(strata)
    lower = np.minimum(sizes, 2)
    if lower.sum() > n:
        lower = np.zeros_like(sizes)
    return select_rows(dataset, np.sort(_draw(strata, n, lower, sizes, seed)))


def text_overlap(a: Dataset, b: Dataset, columns: Sequence[str]) -> int:
    """Return the number of rows of `a` whose texts in `columns` also occur, exactly, in one row of `b`."""
    known = set(_keys(b, columns))
    return sum(key in known for key in _keys(a, columns))


def _keys(dataset: Dataset, columns: Sequence[str]) -> list[Hashable]:
    return list(zip(*(column_values(dataset, column) for column in columns), strict=True))


def _strata(dataset: Dataset) -> Integers:
    """Return a class number for each row, the rank of its label; 0 throughout if the labels are no classes."""
    feature = dataset.features.get("label")
    if not isinstance(feature, Value | ClassLabel) or feature.dtype.startswith("float"):
        return np.zeros(len(dataset), dtype=np.int64)
    labels = column_values(dataset, "label")
    ranks = {label: rank for rank, label in enumerate(sorted(set(labels)))}
    return np.array([ranks[label] for label in labels], dtype=np.int64)


def _most_frequent(strata: Integers) -> int:
    """Return the smallest of the most frequent values."""
    counts = Counter(strata.tolist())
    return min(counts, key=lambda stratum: (-counts[stratum], stratum))


def _draw(
    strata: Integers,
    count: int,
    lower: Integers,
    upper: Integers,
    seed: int,
) -> Integers:
    """Draw `count` indices with each stratum's share within its bounds, by the largest remainder method."""
    share = np.bincount(strata) * count / len(strata)
    quota = np.clip(np.floor(share).astype(np.int64), lower, upper)
    while quota.sum() < count:
        quota[np.argmax(np.where(quota < upper, share - quota, -np.inf))] += 1
    while quota.sum() > count:
        quota[np.argmax(np.where(quota > lower, quota - share, -np.inf))] -= 1
    order = np.random.default_rng(seed).permutation(len(strata))
    of_strata = np.split(order[np.argsort(strata[order], kind="stable")], np.cumsum(np.bincount(strata))[:-1])
    return np.concatenate([rows[:size] for rows, size in zip(of_strata, quota, strict=True)])
