"""Raw labels and class names of a data set, before `labels` encodes them."""

import logging
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
from datasets import ClassLabel, Dataset, Features, List, Value

from hf_layerfusion.data import arrow_tables as tables
from hf_layerfusion.data.columns import excerpt
from hf_layerfusion.errors import UserError

logger = logging.getLogger(__name__)


def class_names(dataset: Dataset) -> list[str] | None:
    """Return the names of a `ClassLabel` column or a column of lists of them, or None for any other."""
    feature = dataset.features["label"]
    feature = getattr(feature, "feature", feature)
    return feature.names if isinstance(feature, ClassLabel) else None


def raw_labels(dataset: Dataset) -> list[Any]:
    """Return the labels as Python values, those of a `ClassLabel` column by name.

    A label of -1, "not given", becomes None.
    """
    labels = tables.column_values(dataset, "label")
    names = class_names(dataset)
    if names is None:
        return labels
    by_number: dict[int | None, str | None] = {**dict(enumerate(names)), -1: None, None: None}
    return [
        [by_number[item] for item in label] if isinstance(label, list) else by_number[label]
        for label in labels
    ]


def with_class_names(dataset: Dataset, feature: Any, where: str) -> Dataset:
    """Return the dataset with the source's class names for the integers in column `label`.

    Args:
        dataset: Examples with integers, or lists of them, as labels.
        feature: Feature of the column in its source: a `ClassLabel`, a list of one, or anything else, which changes
            nothing. Names are stripped.
        where: Name of the file or split, for error messages.

    Raises:
        UserError: If an integer has no name; -1, "not given", is allowed except inside a list.
    """
    named = getattr(feature, "feature", feature)
    if not isinstance(named, ClassLabel) or "label" not in dataset.column_names:
        return dataset
    multiple = named is not feature
    names = list(dict.fromkeys(name.strip() for name in named.names))
    numbers = [names.index(name.strip()) for name in named.names]
    lowest = 0 if multiple else -1

    def number(row: int, value: int | None) -> int | None:
        if value is None or value == -1 == lowest:
            return value
        if not 0 <= value < len(numbers):
            raise row_error(
                dataset,
                where,
                row,
                f"the label {value} has no name among {format_list(named.names)}; correct it",
            )
        return numbers[value]

    labels = [
        [number(row, value) for value in label] if isinstance(label, list) else number(row, label)
        for row, label in enumerate(tables.column_values(dataset, "label"))
    ]
    return with_labels(
        dataset, labels, List(ClassLabel(names=names)) if multiple else ClassLabel(names=names)
    )


def without_label(dataset: Dataset, dropped: str, names: Mapping[Any, str] | None = None) -> Dataset:
    """Return the rows with a label other than `dropped`, ignoring letter case and surrounding whitespace.

    The name is also removed from a `ClassLabel` column. A dataset without labels is returned unchanged.

    Args:
        dataset: Any split with raw labels.
        dropped: Name of the class to leave out.
        names: Class names by raw label, if the labels are not names themselves.
    """
    if "label" not in dataset.column_names:
        return dataset

    def is_dropped(label: Any) -> bool:
        name = (names or {}).get(label, label) if not isinstance(label, list) else None
        return isinstance(name, str) and same_name(name, dropped)

    labels = raw_labels(dataset)
    kept = [row for row, label in enumerate(labels) if not is_dropped(label)]
    rows = dataset if len(kept) == len(labels) else tables.select_rows(dataset, kept)
    feature = dataset.features["label"]
    if not isinstance(feature, ClassLabel) or not any(is_dropped(name) for name in feature.names):
        return rows
    others = [name for name in feature.names if not is_dropped(name)]
    return with_labels(rows, [others.index(labels[row]) for row in kept], ClassLabel(names=others))


def same_name(first: str, second: str) -> bool:
    """Return whether two names differ at most in letter case, whitespace and Unicode composition."""
    return _plain(first) == _plain(second)


def _plain(name: str) -> str:
    return "".join(unicodedata.normalize("NFKC", name).casefold().split())


def warn_of_like_names(names: Sequence[str], where: str) -> None:
    """Log a warning for each group of names that `same_name` considers equal."""
    like: dict[str, list[str]] = {}
    for name in names:
        like.setdefault(_plain(name), []).append(name)
    for group in like.values():
        if len(group) > 1:
            logger.warning(
                "%s: the classes %s differ in capitals or blanks alone and are trained as different classes; give them "
                "one name if they are one",
                where,
                format_list(group),
            )


def with_labels(dataset: Dataset, labels: Sequence[Any], feature: ClassLabel | List | Value) -> Dataset:
    """Return the dataset with other labels."""
    features = Features({**dataset.features, "label": feature})
    table = tables.to_table(dataset)
    column = pa.array(labels, features.arrow_schema.field("label").type)
    return tables.from_table(table.set_column(table.column_names.index("label"), "label", column), features)


def row_error(dataset: Dataset, where: str, index: int, problem: str) -> UserError:
    """Return the error for example `index`, with its row in the file."""
    return UserError(f"{where}: row {tables.row_number(dataset, index)}: {problem}")


def format_list(values: Iterable[object]) -> str:
    """Return the first 20 values in one line, for a message."""
    shown = [excerpt(value) for value in values]
    return ", ".join(shown) if len(shown) <= 20 else f"{', '.join(shown[:20])}, … ({len(shown)} in all)"
