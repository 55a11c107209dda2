"""Label schema of a data set, following the rules of transformers' text classification script."""

import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, get_args

from datasets import ClassLabel, Dataset, List, Value

from hf_layerfusion.data.columns import excerpt
from hf_layerfusion.data.label_names import (
    class_names,
    format_list,
    raw_labels,
    row_error,
    warn_of_like_names,
    with_labels,
)
from hf_layerfusion.errors import UserError, nearest

ProblemType: TypeAlias = Literal["single_label_classification", "multi_label_classification", "regression"]

REGRESSION_NAME = "score"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelSchema:
    """Problem type of a data set, and its classes in the order of their ids.

    Attributes:
        problem_type: Problem type as in a transformers configuration.
        names: Class names, where position i is id i; for a regression the name of the single output.
        values: Raw label of each class as text, for instance `("-1", "1")` for the names `("negative", "positive")`; by
            default the names.

    Raises:
        UserError: If the problem type is unknown, or two classes have the same name.
    """

    problem_type: ProblemType
    names: tuple[str, ...]
    values: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_problem_type(self.problem_type)
        repeated = [name for name in self.names if self.names.count(name) > 1]
        if repeated:
            raise UserError(f"the label name {repeated[0]!r} is given twice; name every class differently")
        if not self.values:
            object.__setattr__(self, "values", self.names)

    @classmethod
    def infer(
        cls,
        train: Dataset,
        declared: Sequence[str] | None = None,
        problem_type: str | None = None,
        where: str = "the training data",
    ) -> "LabelSchema":
        """Infer the schema from the column `label` of the training data.

        Floats mean regression, lists multi-label classification, everything else single-label classification. Integers
        are classes in ascending order, named "0", "1", … or, in the same order, by `declared`. Strings are in the order
        of `declared`, otherwise of a `ClassLabel` column, otherwise alphabetical. Classes whose names differ only in
        letter case or whitespace are different classes; a warning names them.

        Args:
            train: Training data, before a validation part is split off.
            declared: Names of all classes.
            problem_type: Overrides the inference: integers may be regression targets, whole floats classes.
            where: Name of the file or split, for error messages.

        Raises:
            UserError: If there are no labels; if labels do not fit `problem_type`; if there are fewer than two classes;
                if a class occurs once (single-label only) or never; or if a class is not among the declared ones.
        """
        if "label" not in train.column_names:
            raise UserError(f"{where}: has no labels; name their column")
        labels = raw_labels(train)
        declared = None if declared is None else [name.strip() for name in declared]
        kind = _problem_type(labels) if problem_type is None else check_problem_type(problem_type)
        if kind == "regression":
            if declared is not None and len(declared) != 1:
                raise UserError(
                    f"a regression has one output, found {len(declared)} label names; give one name or none, "
                    "or set problem_type to single_label_classification"
                )
            schema = cls(kind, tuple(declared or (REGRESSION_NAME,)))
            schema.encode(train, where)
            return schema

        multiple = kind == "multi_label_classification"
        counts: Counter[int | str] = Counter()
        first: dict[int | str, int] = {}
        for index, label in enumerate(labels):
            for value in _classes(train, where, index, label, multiple):
                counts[value] += 1
                first.setdefault(value, index)
        if len(counts) < (1 if multiple else 2):
            raise UserError(
                f"{where}: the only class is {format_list(counts) or 'none'}, and a classifier needs two; add "
                "examples of another"
            )
        once = [value for value, count in counts.items() if count == 1 and not multiple]
        if once:
            raise row_error(
                train,
                where,
                first[once[0]],
                f"the class {excerpt(once[0])} occurs only once; add another example of it",
            )
        if declared is None:
            declared = class_names(train)
        if all(isinstance(value, int) for value in counts):
            values = [str(value) for value in sorted(counts)]
            names = values if declared is None else list(declared)
            if len(names) != len(values):
                raise UserError(
                    f"{where}: {len(names)} label names for {len(values)} classes ({format_list(values)}); give "
                    "one name for each class, in ascending order"
                )
        else:
            values = names = sorted(map(str, counts)) if declared is None else list(declared)
            for value in counts:
                if value not in names:
                    raise row_error(
                        train,
                        where,
                        first[value],
                        f"the label {excerpt(value)} is not among the declared {format_list(names)}; declare it too",
                    )
            never = [name for name in names if name not in counts]
            if never:
                raise UserError(
                    f"{where}: the class {excerpt(never[0])} never occurs; add examples of it, or declare only "
                    f"{format_list([name for name in names if name in counts])}"
                )
        warn_of_like_names(names, where)
        return cls(kind, tuple(names), tuple(values))

    @property
    def num_labels(self) -> int:
        """Number of the model's outputs: one per class, or one for a regression."""
        return len(self.names)

    @property
    def id2label(self) -> dict[int, str]:
        """Names by id, for the model's configuration."""
        return dict(enumerate(self.names))

    @property
    def label2id(self) -> dict[str, int]:
        """Ids by name, for the model's configuration."""
        return {name: index for index, name in enumerate(self.names)}

    def with_numeric_labels(self, dataset: Dataset, where: str) -> "LabelSchema":
        """Return the schema for a file other than the training data.

        It is this schema, unless the file's labels are integers that are neither values nor names; then the integers
        are read as class ids.

        Args:
            dataset: Examples of the file.
            where: Name of the file, for the warning.
        """
        if self.problem_type == "regression" or "label" not in dataset.column_names:
            return self
        found = {
            value
            for label in raw_labels(dataset)
            for value in (label if isinstance(label, list) else [label])
        }
        numbered = all(type(value) is int and 0 <= value < self.num_labels for value in found)
        if not found or not numbered or any(str(value) in {*self.names, *self.values} for value in found):
            return self
        logger.warning("%s: labels are read as ids of the classes %s", where, format_list(self.names))
        return replace(self, values=tuple(str(number) for number in range(self.num_labels)))

    def encode(self, dataset: Dataset, where: str) -> Dataset:
        """Replace raw labels by the targets of a loss; a dataset without a column `label` is returned unchanged.

        - single-label: class ids, in a `ClassLabel` column with the names, so that encoding twice is safe;
        - multi-label: lists of `num_labels` floats, 1.0 for each class of the row, of which there may be none;
        - regression: floats.

        A class may be given by its raw value or by its name; the raw value takes precedence.

        Args:
            dataset: Any split.
            where: Name of its file or split, for error messages.

        Raises:
            UserError: If a class does not occur in the training data, a target is not a finite number, or a label has
                the wrong kind; with the row.
        """
        if "label" not in dataset.column_names:
            return dataset
        labels = raw_labels(dataset)
        if self.problem_type == "regression":
            targets = [_target(dataset, where, index, label) for index, label in enumerate(labels)]
            return with_labels(dataset, targets, Value("float32"))
        multiple = self.problem_type == "multi_label_classification"
        # Readers strip labels, but a model may have been trained on names with surrounding whitespace.
        stripped = {name.strip(): index for index, name in enumerate(self.names)}
        ids = stripped | self.label2id | {value: index for index, value in enumerate(self.values)}
        rows = []
        for index, label in enumerate(labels):
            classes = [str(value) for value in _classes(dataset, where, index, label, multiple)]
            unknown = [value for value in classes if value not in ids]
            if unknown:
                raise row_error(
                    dataset,
                    where,
                    index,
                    f"the label {excerpt(unknown[0])} is not among the known ones, "
                    f"{format_list(self.values)}; "
                    "correct it or delete the row",
                )
            rows.append([ids[value] for value in classes])
        if multiple:
            hot = [[float(number in row) for number in range(self.num_labels)] for row in rows]
            return with_labels(dataset, hot, List(Value("float32")))
        return with_labels(dataset, [number for (number,) in rows], ClassLabel(names=list(self.names)))


def check_problem_type(problem_type: str) -> ProblemType:
    """Return `problem_type` if it is known.

    Raises:
        UserError: If it is not.
    """
    for known in get_args(ProblemType):
        if problem_type == known:
            return known
    raise UserError(
        f"problem_type must be one of {', '.join(get_args(ProblemType))}, found {problem_type!r}; "
        f"{nearest(problem_type, get_args(ProblemType))}"
    )


def _problem_type(labels: Sequence[Any]) -> ProblemType:
    if any(isinstance(label, list) for label in labels):
        return "multi_label_classification"
    if any(isinstance(label, float) for label in labels):
        return "regression"
    return "single_label_classification"


def _classes(dataset: Dataset, where: str, index: int, label: Any, multiple: bool) -> list[int | str]:
    """Return the classes of one row, integers or strings; exactly one unless `multiple`."""
    if multiple != isinstance(label, list):
        wanted, other = ("a list of classes", "single") if multiple else ("one class", "multi")
        raise row_error(
            dataset,
            where,
            index,
            f"the label {excerpt(label)} is not {wanted}; write it so, or set problem_type to "
            f"{other}_label_classification",
        )
    classes: list[int | str] = []
    for value in label if multiple else [label]:
        if isinstance(value, bool) or (isinstance(value, float) and value.is_integer()):
            value = int(value)
        if not isinstance(value, int | str):
            raise row_error(
                dataset,
                where,
                index,
                f"{excerpt(value)} is not a class; write a name or an integer, or train a regression",
            )
        if value in classes:
            raise row_error(
                dataset,
                where,
                index,
                f"the class {excerpt(value)} occurs twice in one label; list the row's classes, not zeros and ones",
            )
        classes.append(value)
    return classes


def _target(dataset: Dataset, where: str, index: int, label: Any) -> float:
    if not isinstance(label, int | float) or not math.isfinite(label):
        raise row_error(
            dataset,
            where,
            index,
            f"the label {excerpt(label)} is not a finite number, which a regression needs; correct it or delete the "
            "row",
        )
    return float(label)
