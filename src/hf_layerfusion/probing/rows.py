"""Rows that probes are fitted to and tested on, checked before an encoder reads them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from datasets import ClassLabel, Dataset, IterableDataset, Value
from sklearn.model_selection import GroupKFold, KFold, StratifiedKFold

from hf_layerfusion.data.arrow_tables import column_values
from hf_layerfusion.data.columns import excerpt
from hf_layerfusion.data.label_names import format_list, raw_labels, with_class_names
from hf_layerfusion.data.soft_labels import is_unlabelled
from hf_layerfusion.data.splits import draw_subset, remove_duplicates, text_overlap
from hf_layerfusion.errors import UserError
from hf_layerfusion.evaluation import linear_probe
from hf_layerfusion.evaluation.linear_probe import ProbeProblem, check_targets
from hf_layerfusion.training.raw_labels import stripped
from hf_layerfusion.training.raw_texts import TEXT, TEXT_PAIR, check_texts

NUM_FOLDS = 5
"""Number of folds for data without a test split."""

LEAST_VALUES = math.ceil(2 * linear_probe.NUM_FOLDS * NUM_FOLDS / (NUM_FOLDS - 1))
"""Number of rows of a regression whose largest fold leaves enough others for a probe."""

METRICS: dict[ProbeProblem, tuple[str, ...]] = {
    "single_label_classification": ("accuracy", "macro_f1"),
    "regression": ("pearson",),
}
"""Metrics of each type of labels, the default first."""

Fold = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
_LABEL, _GROUP = "label", "group"


@dataclass(frozen=True)
class ProbeRows:
    """Rows of a data set that a probe can be fitted to.

    Attributes:
        name: Name of the data.
        texts: Texts of `"train"` and, if it is given, `"test"`: one column, or two for pairs.
        targets: Targets `[N]` of these splits, classes from 0 or values.
        problem: Type of the targets.
        metric: Name of the metric.
        folds: Indices of the training and the predicted rows of each fold; None if there is a test split.
        notes: Remarks about the rows, one sentence each.
    """

    name: str
    texts: dict[str, Dataset]
    targets: dict[str, npt.NDArray[Any]]
    problem: ProbeProblem
    metric: str
    folds: list[Fold] | None
    notes: list[str]


def check_rows(
    data: Any,
    name: str,
    *,
    text_columns: Sequence[str],
    label_column: str,
    group_column: str | None,
    metric: str | None,
    max_train_samples: int | None,
    seed: int,
) -> ProbeRows:
    """Return the rows of a data set without repeated training texts, with targets and folds.

    Args:
        data: Splits `"train"` and `"test"`, or training rows alone.
        name: Name of the data, for messages.
        text_columns: One text column, or two for pairs.
        label_column: Column of the labels.
        group_column: Column whose equal values are never on both sides of a fold.
        metric: Name of the metric; None for the default.
        max_train_samples: Number of different training texts to draw; None for all.
        seed: Seed of the folds and the draw.

    Raises:
        UserError: As `layer_probe`, of the data.
    """
    given = _splits(data, name, [*text_columns, label_column], group_column)
    where = {split: f"{name}, split '{split}'" for split in given}
    is_value = str(getattr(given["train"].features[label_column], "dtype", "")).startswith("float")
    problem: ProbeProblem = "regression" if is_value else "single_label_classification"
    rows: dict[str, Dataset] = {}
    for split, of_split in given.items():
        columns: dict[str, Any] = {
            _LABEL: _labels(of_split, given["train"], label_column, problem, where[split])
        }
        for kind, column in zip((TEXT, TEXT_PAIR), text_columns, strict=False):
            columns[kind] = column_values(of_split, column)
            check_texts(columns[kind], range(len(of_split)), column, where[split])
        rows[split] = Dataset.from_dict(columns)
    fitting = METRICS[problem]
    if metric not in (None, *fitting):
        raise UserError(
            f"{name}: metric must be one of {', '.join(fitting)} for these labels, found {metric!r}; choose one"
        )
    if group_column is not None and "test" not in rows:
        groups = _groups(given["train"], group_column, where["train"])
        rows["train"] = rows["train"].add_column(_GROUP, groups)
    texts = [TEXT, TEXT_PAIR][: len(text_columns)]
    notes = []
    rows["train"] = remove_duplicates(rows["train"], texts)
    if repeated := len(given["train"]) - len(rows["train"]):
        notes.append(f"train: {repeated:,} repeated texts removed")
        where["train"] += f" without its {repeated:,} repeated texts"
    if max_train_samples is not None:
        rows["train"] = draw_subset(rows["train"], max_train_samples, seed)
    if "test" in rows and (shared := text_overlap(rows["test"], rows["train"], texts)):
        notes.append(f"test: {shared:,} texts also occur in train")
    targets, classes = _targets(rows, problem, where, max_train_samples)
    folds = None
    if "test" not in rows:
        grouping = np.asarray(rows["train"][_GROUP]) if group_column is not None else None
        folds = _folds(targets["train"], classes, grouping, str(group_column), where["train"], seed)
    _check(targets["train"], classes, where["train"])
    for number, (kept, tested) in enumerate(folds or (), start=1):
        left = f"{where['train']}, less the {len(tested)} rows of fold {number} of {NUM_FOLDS}"
        _check(targets["train"][kept], classes, left)
    return ProbeRows(
        name,
        {split: of_split.select_columns(texts) for split, of_split in rows.items()},
        targets,
        problem,
        metric or fitting[0],
        folds,
        notes,
    )


def _splits(data: Any, name: str, columns: Sequence[str], group_column: str | None) -> dict[str, Dataset]:
    if isinstance(data, Dataset | IterableDataset):
        data = {"train": data}
    if not isinstance(data, Mapping):
        raise UserError(
            f"{name} must be a datasets.Dataset or splits by name, found {type(data).__name__}; make one by "
            "Dataset.from_list or Dataset.from_dict"
        )
    if "train" not in data:
        raise UserError(
            f"{name} must hold a split 'train', found {format_list(list(map(str, data)))}; name it so"
        )
    splits = {split: data[split] for split in ("train", "test") if split in data}
    for split, rows in splits.items():
        if not isinstance(rows, Dataset):
            raise UserError(
                f"{name}, split '{split}' must be a datasets.Dataset with a length, found {type(rows).__name__}; a "
                "probe needs all rows at once, so load it without streaming"
            )
        needed = [*columns, *([group_column] if group_column is not None and split == "train" else [])]
        if missing := [column for column in needed if column not in rows.column_names]:
            raise UserError(
                f"{name}, split '{split}' must have the columns {', '.join(needed)}, found "
                f"{', '.join(rows.column_names)}; name the right column for {', '.join(missing)}"
            )
        if len(rows) == 0:
            raise UserError(f"{name}, split '{split}' must have rows, found none; check its file")
    return splits


def _labels(rows: Dataset, train: Dataset, column: str, problem: ProbeProblem, where: str) -> list[Any]:
    """Return the labels of a split as Python values, those of a `ClassLabel` by name.

    If the training data have such names, integers in another split are their ids, as in the Trainer.
    """
    feature = rows.features[column]
    if not isinstance(feature, ClassLabel | Value):
        raise UserError(
            f"{where}: column '{column}' must hold one class or value a row, found {feature}; a probe takes no other "
            "labels"
        )
    if isinstance(feature, Value) and feature.dtype.startswith(("int", "uint")):
        feature = train.features[column]
    numbered = Dataset.from_dict({"label": column_values(rows, column), "row": range(len(rows))})
    labels = stripped(raw_labels(with_class_names(numbered, feature, where)))
    for row, label in enumerate(labels):
        if label in (None, "") or is_unlabelled(label, problem):
            raise UserError(f"{where}: row {row}: the label is missing; add it or remove the row (filter)")
        if problem == "regression" and not (isinstance(label, int | float) and math.isfinite(label)):
            raise UserError(
                f"{where}: row {row}: the label must be a finite number, found {excerpt(label)}; correct it or remove "
                "the row"
            )
    return labels


def _groups(rows: Dataset, column: str, where: str) -> npt.NDArray[np.int64]:
    """Return a number for each row, equal for equal values of a column."""
    feature, values = rows.features[column], column_values(rows, column)
    if not isinstance(feature, ClassLabel | Value):
        raise UserError(
            f"{where}: column '{column}' must hold one value a row, found {feature}; name another group_column"
        )
    if None in values:
        raise UserError(
            f"{where}: row {values.index(None)}: the value of '{column}' is missing; add it or remove the row (filter)"
        )
    numbers = {value: number for number, value in enumerate(dict.fromkeys(values))}
    return np.asarray([numbers[value] for value in values], np.int64)


def _targets(
    rows: Mapping[str, Dataset],
    problem: ProbeProblem,
    where: Mapping[str, str],
    max_train_samples: int | None,
) -> tuple[dict[str, npt.NDArray[Any]], list[Any] | None]:
    """Return the targets of each split, and the classes in the order of their numbers, or None for values."""
    labels = {split: column_values(of_split, _LABEL) for split, of_split in rows.items()}
    if problem == "regression":
        values = {split: np.asarray(of_split, np.float64) for split, of_split in labels.items()}
        for split, of_split in values.items():
            if np.ptp(of_split) == 0:
                raise UserError(
                    f"{where[split]}: the values must differ, found {of_split[0]} in every row; a correlation is "
                    "undefined otherwise"
                )
        return values, None
    classes = sorted(set(labels["train"]))
    numbers = {label: number for number, label in enumerate(classes)}
    for row, label in enumerate(labels.get("test", ())):
        if label not in numbers and max_train_samples is not None:
            raise UserError(
                f"{where['test']}: the label {excerpt(label)} is no class of the {len(labels['train']):,} training "
                f"rows drawn, found max_train_samples={max_train_samples}; raise it"
            )
        if label not in numbers:
            raise UserError(
                f"{where['test']}: row {row}: the label {excerpt(label)} is no class of the {len(labels['train']):,} "
                f"training rows, which have {format_list(classes)}; correct it or remove the row (filter)"
            )
    return {
        split: np.asarray([numbers[label] for label in of_split], np.int64)
        for split, of_split in labels.items()
    }, classes


def _check(targets: npt.NDArray[Any], classes: list[Any] | None, where: str) -> None:
    """Check that a probe can be fitted to targets; the message names classes."""
    try:
        if classes is None:
            check_targets(targets, "regression")
        else:
            check_targets(np.asarray(classes)[targets], "single_label_classification")
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error


def _folds(
    targets: npt.NDArray[Any],
    classes: list[Any] | None,
    groups: npt.NDArray[np.int64] | None,
    group_column: str,
    where: str,
    seed: int,
) -> list[Fold]:
    if groups is not None:
        least, size, what, of = NUM_FOLDS, len(np.unique(groups)), f"values of {group_column}", ""
    elif classes is None:
        least, size, what, of = LEAST_VALUES, len(targets), "rows", ""
    else:
        counts = np.bincount(targets)
        least, size, what = NUM_FOLDS, int(counts.min()), "rows of each class"
        of = f" of class {excerpt(classes[counts.argmin()])}"
    if size < least:
        raise UserError(
            f"{where}: data without a test split need {least} {what} or more, found {size}{of}; give more or a test "
            "split"
        )
    if groups is not None:
        return list(GroupKFold(NUM_FOLDS).split(targets, targets, groups))
    folds: Any = KFold if classes is None else StratifiedKFold
    return list(folds(NUM_FOLDS, shuffle=True, random_state=seed).split(targets, targets))
