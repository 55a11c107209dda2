"""Labels of data sets by name: ids for the loss, and names for the model's configuration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

from datasets import ClassLabel, Dataset, Features, List, Value
from transformers.utils import logging

from hf_layerfusion.data.arrow_tables import column_values
from hf_layerfusion.data.label_names import format_list, warn_of_like_names
from hf_layerfusion.data.labels import REGRESSION_NAME, LabelSchema, ProblemType
from hf_layerfusion.data.soft_labels import is_unlabelled, unlabelled_target
from hf_layerfusion.errors import UserError

logger = logging.get_logger(__name__)

LABEL_COLUMNS = ("label", "labels")
REGRESSION, SINGLE, MULTIPLE = "regression", "single_label_classification", "multi_label_classification"


class LabelColumn(NamedTuple):
    """A column of labels.

    Attributes:
        name: Its name.
        feature: Its type: `ClassLabel`, `Value`, or a list of one.
        where: Its data set, for messages.
    """

    name: str
    feature: Any
    where: str

    @property
    def is_list(self) -> bool:
        """True for a list of labels in each row."""
        return hasattr(self.feature, "feature")

    @property
    def item(self) -> Any:
        """The type of a single label."""
        return getattr(self.feature, "feature", self.feature)

    @property
    def is_named(self) -> bool:
        """True for labels that are strings or have names."""
        return isinstance(self.item, ClassLabel) or self.item.dtype in ("string", "large_string")

    def is_missing(self, label: Any) -> bool:
        """Return whether a row has no label: None, an empty string, or the -1 of a `ClassLabel`."""
        if isinstance(label, str):
            return not label.strip()
        return label is None or (isinstance(self.feature, ClassLabel) and label == -1)

    def values(self, dataset: Dataset) -> list[Any]:
        """Return the labels of a data set as Python values."""
        return stripped(column_values(dataset, self.name))


def stripped(labels: Sequence[Any]) -> list[Any]:
    """Return labels, or lists of them, with names that have no whitespace around them."""
    return [
        label.strip() if isinstance(label, str) else stripped(label) if isinstance(label, list) else label
        for label in labels
    ]


def label_column(features: Features, where: str) -> LabelColumn | None:
    """Return the column of labels, `label` or `labels`, or None if there is none.

    Raises:
        UserError: There are both, or their type cannot be a label's.
    """
    found = [name for name in LABEL_COLUMNS if name in features]
    if len(found) > 1:
        raise UserError(
            f"{where}: the labels must be in one column, found 'label' and 'labels'; remove one (remove_columns)"
        )
    if not found:
        return None
    column = LabelColumn(found[0], features[found[0]], where)
    if not isinstance(column.item, ClassLabel | Value):
        raise UserError(
            f"{where}: column '{column.name}': a label must be a name, a number or a list of these, found "
            f"{column.feature}; convert it"
        )
    return column


@dataclass
class ModelLabels:
    """The labels of a model, or of one of its tasks.

    Attributes:
        num_labels: The width of the logits.
        problem_type: As in the model's configuration; None until data or `num_labels` determine it.
        names: The names of the classes in the order of their ids; empty until data determine them.
        values: The raw labels that the model was trained on, where they differ from the names.
        what: The model or its task, for messages.
    """

    num_labels: int
    problem_type: str | None = None
    names: list[str] = field(default_factory=list)
    values: list[str] = field(default_factory=list)
    what: str = "the model"

    @classmethod
    def of_model(cls, config: Any) -> ModelLabels:
        """Return the labels of a model of one task by its configuration; names such as `LABEL_0` are none."""
        names = [str(config.id2label[number]) for number in range(config.num_labels)]
        # A CerBERTus model without declared tasks settles the problem type of its only head when it is made.
        only = next(iter(getattr(config, "task_configs", {}).values()), None)
        problem_type = config.problem_type or getattr(only, "problem_type", None)
        if problem_type is None and config.num_labels == 1:
            problem_type = REGRESSION
        return cls(
            config.num_labels,
            problem_type,
            [] if names == [f"LABEL_{number}" for number in range(len(names))] else names,
            [str(value) for value in getattr(config, "label_values", None) or ()],
        )

    @classmethod
    def of_task(cls, name: str, task: Any) -> ModelLabels:
        """Return the labels of a task by its `TaskConfig`."""
        return cls(task.num_labels, task.problem_type, list(task.labels), what=f"task '{name}'")

    def settle(self, column: LabelColumn, training: Dataset | None = None) -> None:
        """Determine problem type and names by a column of labels, as far as they are unknown.

        Args:
            column: The column.
            training: The training data, whose labels have names; None for others and for streams.

        Raises:
            UserError: The labels do not fit the model, or their names cannot be known.
        """
        if self.problem_type is None:
            self.problem_type = MULTIPLE if column.is_list else SINGLE
        self._check_kind(column)
        if self.problem_type == REGRESSION or self.names or not column.is_named:
            return
        if isinstance(column.item, ClassLabel):
            names = list(column.item.names)
        elif training is None:
            raise UserError(
                f"{column.where}: the labels are names, and the ids of {self.what} have none, which only training data "
                "that are no stream can tell; load the model with id2label={0: 'negative', …}"
            )
        else:
            labels = [label for label in column.values(training) if not column.is_missing(label)]
            names = sorted({name for label in labels for name in (label if column.is_list else [label])})
        if self.problem_type == SINGLE and len(names) < 2:
            raise UserError(
                f"{column.where}: a classifier needs two classes or more, found "
                + (f"one, {format_list(names)}" if names else "no labels")
                + "; add rows of others"
            )
        if len(names) != self.num_labels:
            raise UserError(
                f"{column.where}: the number of labels must be the model's num_labels={self.num_labels}, found "
                f"{len(names)} ({format_list(names)}); load the model with num_labels={len(names)}, or with id2label "
                "if a label does not occur"
            )
        warn_of_like_names(names, column.where)
        logger.info(f"{self.what} gets the labels {format_list(names)}, in this order")
        self.names = names

    def _check_kind(self, column: LabelColumn) -> None:
        found = "lists" if column.is_list else "names" if column.is_named else None
        if self.problem_type == REGRESSION and found:
            raise UserError(
                f"{column.where}: {self.what} predicts one number (num_labels={self.num_labels}), found {found} as "
                "labels; load the model with num_labels=2 or more, or give numbers"
            )
        if self.problem_type == SINGLE and (column.is_list or str(column.item.dtype).startswith("float")):
            found = found or "fractions"
            raise UserError(
                f"{column.where}: {self.what} gives each text one of {self.num_labels} classes, found {found} as "
                "labels; load the model with "
                + (
                    "problem_type='multi_label_classification'"
                    if column.is_list
                    else "num_labels=1, a regression"
                )
                + ", or give a name or an integer a row"
            )

    def schema(self, column: LabelColumn) -> LabelSchema:
        """Return the settled labels, as those of the data set of a column."""
        kind = cast(ProblemType, self.problem_type)
        if kind == REGRESSION:
            return LabelSchema(kind, (REGRESSION_NAME,))
        ids = [str(number) for number in range(self.num_labels)]
        names = self.names or ids
        by_name = column.is_named or any(name.lstrip("-").isdigit() for name in names)
        values = self.values or (names if by_name else ids)
        return LabelSchema(kind, tuple(names), tuple(values))

    def targets(
        self, labels: Sequence[Any], rows: Sequence[int], column: LabelColumn, may_lack: bool = False
    ) -> list[Any]:
        """Return the targets of a loss: ids, numbers, or a list of `num_labels` numbers for each row.

        Args:
            labels: The labels.
            rows: Their rows, counted from 0, for messages.
            column: Their column.
            may_lack: Whether rows may have no label, or that of `unlabelled_target`, because a teacher's prediction is
                their target.

        Raises:
            UserError: A label is missing or unknown to the model; names the row.
        """
        missing = [column.is_missing(label) for label in labels]
        if may_lack:
            kind = str(self.problem_type)
            missing = [
                lacks or is_unlabelled(label, kind) for lacks, label in zip(missing, labels, strict=True)
            ]
        if any(missing):
            if not may_lack:
                row = rows[missing.index(True)]
                raise UserError(
                    f"{column.where}: row {row}: the label is missing; add it or remove the row (filter)"
                )
            given = [
                (label, row) for label, row, lacks in zip(labels, rows, missing, strict=True) if not lacks
            ]
            found = iter(self.targets([label for label, _ in given], [row for _, row in given], column))
            without = unlabelled_target(str(self.problem_type), self.num_labels)
            return [without if lacks else next(found) for lacks in missing]
        if column.is_list and not column.is_named:
            return [self._hot(label, row, column) for row, label in zip(rows, labels, strict=True)]
        dataset = Dataset.from_dict(
            {"label": stripped(labels), "row": list(rows)},
            features=Features({"label": column.feature, "row": Value("int64")}),
        )
        return column_values(self.schema(column).encode(dataset, column.where), "label")

    def _hot(self, label: list[Any], row: int, column: LabelColumn) -> list[float]:
        """Return the targets of a list of numbers."""
        if len(label) != self.num_labels or not all(
            isinstance(number, int | float) and 0 <= number <= 1 for number in label
        ):
            raise UserError(
                f"{column.where}: row {row}: the label must be a list of {self.num_labels} numbers from 0 to 1, one "
                f"for each class, or a list of names, found {label!r}; correct it"
            )
        return [float(number) for number in label]

    def name(self, model: Any) -> None:
        """Write problem type and names into a model's configuration."""
        model.config.problem_type = self.problem_type
        if self.names:
            model.config.id2label = dict(enumerate(self.names))
            model.config.label2id = {name: number for number, name in enumerate(self.names)}


LABEL_FEATURES = {SINGLE: Value("int64"), REGRESSION: Value("float32"), MULTIPLE: List(Value("float32"))}
"""The type of the targets of each problem type."""
