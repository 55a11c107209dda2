"""What a data set's labels are, and their numbers: the rules of transformers' own classification script."""

import logging
import math
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, get_args

import pyarrow as pa
from datasets import ClassLabel, Dataset, Features, List, Value

from hf_layerfusion.data import tables
from hf_layerfusion.data.columns import excerpt
from hf_layerfusion.errors import UserError

ProblemType: TypeAlias = Literal["single_label_classification", "multi_label_classification", "regression"]

REGRESSION_NAME = "score"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelSchema:
    """The problem type, and the classes in the order of their ids.

    Attributes:
        problem_type: as in a transformers config.
        names: the class names, position i for id i; for a regression the name of the one output.
        values: the raw label of each class as text, for instance `("-1", "1")` where the names are
            `("negative", "positive")`; by default the names themselves.

    Raises:
        UserError: an unknown problem type, or two classes of one name.
    """

    problem_type: ProblemType
    names: tuple[str, ...]
    values: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_problem_type(self.problem_type)
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
        """Reads the schema off the training data's column `label`.

        Floats mean regression, lists multi-label classification, all else single-label classification.
        Integers are classes in ascending order, named "0", "1", … as they stand, or in the same order by
        `declared`. Strings are in the order of `declared`, else of a `ClassLabel` column, else of the
        alphabet. Classes whose names differ in capitals or blanks alone are different classes; a warning names
        them.

        Args:
            train: the training data, before a validation part is split off.
            declared: the names of all classes.
            problem_type: overrides the inference: integers may be regression targets, whole floats classes.
            where: the file or split, for messages.

        Raises:
            UserError: no labels; labels that do not fit `problem_type`; fewer than two classes; a class that
                occurs once (single-label only) or never; a class that is not among the declared ones.
        """
        if "label" not in train.column_names:
            raise UserError(f"{where}: has no labels; name their column")
        labels = raw_labels(train)
        declared = None if declared is None else [name.strip() for name in declared]
        kind = _problem_type(labels) if problem_type is None else _check_problem_type(problem_type)
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
                f"{where}: the only class is {_listed(counts) or 'none'}, and a classifier needs two; add "
                "examples of another"
            )
        once = [value for value, count in counts.items() if count == 1 and not multiple]
        if once:
            raise _fault(
                train,
                where,
                first[once[0]],
                f"the class {excerpt(once[0])} occurs only once; add another example of it",
            )
        if declared is None:
            declared = _class_names(train)
        if all(isinstance(value, int) for value in counts):
            values = [str(value) for value in sorted(counts)]
            names = values if declared is None else list(declared)
            if len(names) != len(values):
                raise UserError(
                    f"{where}: {len(names)} label names for {len(values)} classes ({_listed(values)}); give "
                    "one name for each class, in ascending order"
                )
        else:
            values = names = sorted(map(str, counts)) if declared is None else list(declared)
            for value in counts:
                if value not in names:
                    raise _fault(
                        train,
                        where,
                        first[value],
                        f"the label {excerpt(value)} is not among the declared {_listed(names)}; declare it too",
                    )
            never = [name for name in names if name not in counts]
            if never:
                raise UserError(
                    f"{where}: the class {excerpt(never[0])} never occurs; add examples of it, or declare only "
                    f"{_listed([name for name in names if name in counts])}"
                )
        _warn_of_like_names(names, where)
        return cls(kind, tuple(names), tuple(values))

    @property
    def num_labels(self) -> int:
        """The number of the model's outputs: one for each class, one for a regression."""
        return len(self.names)

    @property
    def id2label(self) -> dict[int, str]:
        """Names by id, for the model's config."""
        return dict(enumerate(self.names))

    @property
    def label2id(self) -> dict[str, int]:
        """Ids by name, for the model's config."""
        return {name: index for index, name in enumerate(self.names)}

    def for_numbers(self, dataset: Dataset, where: str) -> "LabelSchema":
        """The schema to read a file with that was not the training data: this one, or where the file's labels are
        integers that stand neither among the values nor among the names, one that takes them for class numbers.

        Args:
            dataset: The file's examples.
            where: The file, for the warning.
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
        logger.warning("%s: labels are read as the numbers of the classes %s", where, _listed(self.names))
        return replace(self, values=tuple(str(number) for number in range(self.num_labels)))

    def encode(self, dataset: Dataset, where: str) -> Dataset:
        """Replaces raw labels by what a loss is computed from; a dataset without a column `label` stays as it
        is.

        - single-label: class ids, in a `ClassLabel` column that knows the names, so that encoding twice is
          safe;
        - multi-label: lists of `num_labels` floats, 1.0 for each class in the row's list, which may be empty;
        - regression: floats.

        A class may be given by its raw value or by its name; where these clash the raw value counts.

        Args:
            dataset: any split.
            where: its file or name, for messages.

        Raises:
            UserError: a class that the training data lacks, a target that is not a finite number, or a label
                of the wrong kind, with the row.
        """
        if "label" not in dataset.column_names:
            return dataset
        labels = raw_labels(dataset)
        if self.problem_type == "regression":
            targets = [_target(dataset, where, index, label) for index, label in enumerate(labels)]
            return _with_labels(dataset, targets, Value("float32"))
        multiple = self.problem_type == "multi_label_classification"
        # Readers strip labels; a model may have been trained on names with blanks around them.
        stripped = {name.strip(): index for index, name in enumerate(self.names)}
        ids = stripped | self.label2id | {value: index for index, value in enumerate(self.values)}
        rows = []
        for index, label in enumerate(labels):
            classes = [str(value) for value in _classes(dataset, where, index, label, multiple)]
            unknown = [value for value in classes if value not in ids]
            if unknown:
                raise _fault(
                    dataset,
                    where,
                    index,
                    f"the label {excerpt(unknown[0])} is not in the training data, which has "
                    f"{_listed(self.values)}; "
                    "correct it or delete the row",
                )
            rows.append([ids[value] for value in classes])
        if multiple:
            hot = [[float(number in row) for number in range(self.num_labels)] for row in rows]
            return _with_labels(dataset, hot, List(Value("float32")))
        return _with_labels(dataset, [number for (number,) in rows], ClassLabel(names=list(self.names)))


def _check_problem_type(problem_type: str) -> ProblemType:
    for known in get_args(ProblemType):
        if problem_type == known:
            return known
    raise UserError(f"problem_type must be one of {', '.join(get_args(ProblemType))}, found {problem_type!r}")


def _problem_type(labels: Sequence[Any]) -> ProblemType:
    if any(isinstance(label, list) for label in labels):
        return "multi_label_classification"
    if any(isinstance(label, float) for label in labels):
        return "regression"
    return "single_label_classification"


def _class_names(dataset: Dataset) -> list[str] | None:
    """The names of a `ClassLabel` column or of a column of lists of them."""
    feature = dataset.features["label"]
    feature = getattr(feature, "feature", feature)
    return feature.names if isinstance(feature, ClassLabel) else None


def raw_labels(dataset: Dataset) -> list[Any]:
    """Return the labels as Python values, those of a `ClassLabel` column by name."""
    labels = tables.values(dataset, "label")
    names = _class_names(dataset)
    if names is None:
        return labels
    return [[names[item] for item in label] if isinstance(label, list) else names[label] for label in labels]


def with_class_names(dataset: Dataset, feature: Any, where: str) -> Dataset:
    """Return the dataset with the class names that its source has for the integers of column `label`.

    Args:
        dataset: Examples with integers, or lists of them, as labels.
        feature: What the source says of the column: a `ClassLabel`, a list of one, or anything else, which changes
            nothing. Blanks around a name are removed.
        where: The file or split, for messages.

    Raises:
        UserError: An integer without a name; -1, which stands for "not given", is none only in a list.
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
            raise _fault(
                dataset, where, row, f"the label {value} has no name among {_listed(named.names)}; correct it"
            )
        return numbers[value]

    labels = [
        [number(row, value) for value in label] if isinstance(label, list) else number(row, label)
        for row, label in enumerate(tables.values(dataset, "label"))
    ]
    return _with_labels(
        dataset, labels, List(ClassLabel(names=names)) if multiple else ClassLabel(names=names)
    )


def without_label(dataset: Dataset, dropped: str, names: Mapping[Any, str] | None = None) -> Dataset:
    """Return the rows that have another label than `dropped`, whatever its capitals and the blanks around it.

    A `ClassLabel` column loses the name too. A dataset without labels stays as it is.

    Args:
        dataset: Any split, with raw labels.
        dropped: The name of the class to leave out.
        names: The classes' names by their raw labels, where the labels are not names themselves.
    """
    if "label" not in dataset.column_names:
        return dataset

    def is_dropped(label: Any) -> bool:
        name = (names or {}).get(label, label) if not isinstance(label, list) else None
        return isinstance(name, str) and same_name(name, dropped)

    labels = raw_labels(dataset)
    kept = [row for row, label in enumerate(labels) if not is_dropped(label)]
    rows = dataset if len(kept) == len(labels) else tables.take(dataset, kept)
    feature = dataset.features["label"]
    if not isinstance(feature, ClassLabel) or not any(is_dropped(name) for name in feature.names):
        return rows
    others = [name for name in feature.names if not is_dropped(name)]
    return _with_labels(rows, [others.index(labels[row]) for row in kept], ClassLabel(names=others))


def same_name(first: str, second: str) -> bool:
    """Return whether two names differ at most in capitals, blanks and the way their characters are composed."""
    return _plain(first) == _plain(second)


def _plain(name: str) -> str:
    return "".join(unicodedata.normalize("NFKC", name).casefold().split())


def _warn_of_like_names(names: Sequence[str], where: str) -> None:
    like: dict[str, list[str]] = {}
    for name in names:
        like.setdefault(_plain(name), []).append(name)
    for group in like.values():
        if len(group) > 1:
            logger.warning(
                "%s: the classes %s differ in capitals or blanks alone and are trained as different classes; give them "
                "one name if they are one",
                where,
                _listed(group),
            )


def _classes(dataset: Dataset, where: str, index: int, label: Any, multiple: bool) -> list[int | str]:
    """The classes of one row: integers or strings, exactly one unless `multiple`."""
    if multiple != isinstance(label, list):
        wanted, other = ("a list of classes", "single") if multiple else ("one class", "multi")
        raise _fault(
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
            raise _fault(
                dataset,
                where,
                index,
                f"{excerpt(value)} is no class; write a name or an integer, or train a regression",
            )
        if value in classes:
            raise _fault(
                dataset,
                where,
                index,
                f"the class {excerpt(value)} stands twice in one label; list the row's classes, not zeros and ones",
            )
        classes.append(value)
    return classes


def _target(dataset: Dataset, where: str, index: int, label: Any) -> float:
    if not isinstance(label, int | float) or not math.isfinite(label):
        raise _fault(
            dataset,
            where,
            index,
            f"the label {excerpt(label)} is not a finite number, which a regression needs; correct it or delete the "
            "row",
        )
    return float(label)


def _with_labels(dataset: Dataset, labels: Sequence[Any], feature: ClassLabel | List | Value) -> Dataset:
    features = Features({**dataset.features, "label": feature})
    table = tables.to_table(dataset)
    column = pa.array(labels, features.arrow_schema.field("label").type)
    return tables.from_table(table.set_column(table.column_names.index("label"), "label", column), features)


def _fault(dataset: Dataset, where: str, index: int, problem: str) -> UserError:
    return UserError(f"{where}: row {tables.row_number(dataset, index)}: {problem}")


def _listed(values: Iterable[object]) -> str:
    shown = [excerpt(value) for value in values]
    return ", ".join(shown) if len(shown) <= 20 else f"{', '.join(shown[:20])}, … ({len(shown)} in all)"
