"""What a data set's labels are, and their numbers: the rules of transformers' own classification script."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import pyarrow as pa
from datasets import ClassLabel, Dataset, DatasetInfo, Features, Value
from datasets import Sequence as ListOf

from hf_layerfusion.data.files import row_number
from hf_layerfusion.errors import UserError

ProblemType: TypeAlias = Literal["single_label_classification", "multi_label_classification", "regression"]

REGRESSION_NAME = "score"


@dataclass(frozen=True)
class LabelSchema:
    """The problem type and the classes in the order of their ids.

    Attributes:
        problem_type: as in `PreTrainedConfig.problem_type`.
        names: the class names, the one at position i for id i; for a regression `("score",)`.
        values: the raw label of each class as text, for instance `("-1", "1")` with names `("negative", "positive")`;
            the names themselves by default.
    """

    problem_type: ProblemType
    names: tuple[str, ...]
    values: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.problem_type not in get_args(ProblemType):
            raise UserError(
                f"problem_type must be one of {', '.join(get_args(ProblemType))}, found {self.problem_type!r}"
            )
        repeated = [name for name, count in Counter(self.names).items() if count > 1]
        if repeated:
            raise UserError(
                f"the label name {repeated[0]!r} is given twice; give every class a name of its own"
            )
        if not self.values:
            object.__setattr__(self, "values", self.names)

    @classmethod
    def infer(
        cls,
        train: Dataset,
        declared: Sequence[str] | None = None,
        problem_type: ProblemType | str | None = None,
        where: str = "the training data",
    ) -> "LabelSchema":
        """Reads the schema off the training data's column `label`.

        Floats mean regression, lists multi-label classification, everything else single-label classification.
        Integers are classes in ascending order, named "0", "1", … as they stand or, in the same order, by `declared`.
        Strings are in the order of `declared`, else of a `ClassLabel` column, else of the alphabet.

        Args:
            train: the training data, validation rows included where they are still to be split off.
            declared: names of all classes.
            problem_type: overrides the inference: integers may be regression targets, whole floats classes.
            where: the file or split, for messages.

        Raises:
            UserError: no labels; a kind that does not fit `problem_type`; fewer than two classes; a class that occurs
                once (single-label) or never; a class that is not among the declared ones.
        """
        if "label" not in train.column_names:
            raise UserError(f"{where}: has no label; name the column of the labels")
        labels = _raw_labels(train)
        if problem_type is None:
            problem_type = _problem_type(labels)
        if problem_type not in get_args(ProblemType):
            raise UserError(
                f"problem_type must be one of {', '.join(get_args(ProblemType))}, found {problem_type!r}"
            )
        if problem_type == "regression":
            if declared is not None and len(declared) != 1:
                raise UserError(
                    f"a regression has one output, found {len(declared)} label names; give one, or set problem_type "
                    "to single_label_classification"
                )
            schema = cls("regression", tuple(declared or (REGRESSION_NAME,)))
            schema.encode(train, where)
            return schema

        multiple = problem_type == "multi_label_classification"
        rows = [_classes(train, where, index, label, multiple) for index, label in enumerate(labels)]
        counts = Counter(value for row in rows for value in row)
        feature = train.features["label"]
        if declared is None:
            inner = getattr(feature, "feature", feature)
            declared = inner.names if isinstance(inner, ClassLabel) else None
        if all(isinstance(value, int) for value in counts):
            values = [str(value) for value in sorted(counts)]
            names = values if declared is None else list(declared)
            if len(names) != len(values):
                raise UserError(
                    f"{where}: {len(names)} label names are given for the {len(values)} classes {_listed(values)}; "
                    "give one name for each, in ascending order"
                )
        else:
            values = names = sorted(counts) if declared is None else list(declared)
            for index, row in enumerate(rows):
                for value in row:
                    if value not in names:
                        raise UserError(
                            f"{where}: row {row_number(train, index)}: the label {value!r} is not among the declared "
                            f"{_listed(names)}; declare it or delete the row"
                        )
            unused = [name for name in names if name not in counts]
            if unused:
                raise UserError(
                    f"{where}: the class {unused[0]!r} never occurs; declare only classes that do: "
                    f"{_listed([name for name in names if name in counts])}"
                )
        if len(counts) < (1 if multiple else 2):
            raise UserError(
                f"{where}: every label is {_listed(values) or 'empty'}, and a classifier needs two classes; give "
                "examples of another"
            )
        if not multiple:
            for index, (value,) in enumerate(rows):
                if counts[value] == 1:
                    raise UserError(
                        f"{where}: row {row_number(train, index)}: the class {value!r} occurs only once; give it "
                        "another example or delete the row"
                    )
        return cls(
            "multi_label_classification" if multiple else "single_label_classification",
            tuple(names),
            tuple(values),
        )

    @property
    def num_labels(self) -> int:
        """The number of the model's outputs: of classes, or 1 for a regression."""
        return len(self.names)

    @property
    def id2label(self) -> dict[int, str]:
        """Names by id, for the model's config."""
        return dict(enumerate(self.names))

    @property
    def label2id(self) -> dict[str, int]:
        """Ids by name, for the model's config."""
        return {name: index for index, name in enumerate(self.names)}

    def encode(self, dataset: Dataset, where: str) -> Dataset:
        """Replaces raw labels by what a model computes its loss from; without a column `label`, nothing changes.

        - single-label: class ids, as a `ClassLabel` column with the names, so that encoding again changes nothing;
        - multi-label: `[num_labels]` floats, 1.0 for the classes that are in the row's list (none is allowed);
        - regression: floats.

        A class may be given by its raw value or its name.

        Raises:
            UserError: a class that is not in the training data, a target that is not a finite number, or a label of
                another kind, with `where` and the row.
        """
        if "label" not in dataset.column_names:
            return dataset
        labels = _raw_labels(dataset)
        encoded: list[Any]
        feature: Any
        if self.problem_type == "regression":
            encoded = [_target(dataset, where, index, label) for index, label in enumerate(labels)]
            feature = Value("float32")
        else:
            multiple = self.problem_type == "multi_label_classification"
            ids = self.label2id | {value: index for index, value in enumerate(self.values)}
            rows = []
            for index, label in enumerate(labels):
                row = _classes(dataset, where, index, label, multiple)
                unknown = [value for value in row if str(value) not in ids]
                if unknown:
                    raise UserError(
                        f"{where}: row {row_number(dataset, index)}: the label {unknown[0]!r} is not in the training "
                        f"data, which has {_listed(self.values)}; correct it or delete the row"
                    )
                rows.append([ids[str(value)] for value in row])
            if multiple:
                encoded = [[float(index in row) for index in range(self.num_labels)] for row in rows]
                feature = ListOf(Value("float32"))
            else:
                encoded = [row[0] for row in rows]
                feature = ClassLabel(names=list(self.names))
        return _with_labels(dataset, encoded, feature)


def _raw_labels(dataset: Dataset) -> list[Any]:
    """The labels in Python, those of a `ClassLabel` by their names."""
    feature = dataset.features["label"]
    labels: list[Any] = dataset["label"][:]
    if isinstance(feature, ClassLabel):
        return [feature.names[label] for label in labels]
    inner = getattr(feature, "feature", None)
    if isinstance(inner, ClassLabel):
        return [[inner.names[item] for item in label] for label in labels]
    return labels


def _problem_type(labels: Sequence[Any]) -> ProblemType:
    if any(isinstance(label, list) for label in labels):
        return "multi_label_classification"
    if any(isinstance(label, float) for label in labels):
        return "regression"
    return "single_label_classification"


def _classes(dataset: Dataset, where: str, index: int, label: Any, multiple: bool) -> list[int | str]:
    """The classes of one row, as a list of integers or strings."""
    if multiple != isinstance(label, list):
        kind, wanted = ("single", "a list of classes") if multiple else ("multi", "one class")
        raise UserError(
            f"{where}: row {row_number(dataset, index)}: the label {label!r} is not {wanted}; write it so, or set "
            f"problem_type to {kind}_label_classification"
        )
    classes: list[int | str] = []
    for value in label if multiple else [label]:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int | str):
            raise UserError(
                f"{where}: row {row_number(dataset, index)}: {value!r} is no class; write an integer or a name, or set "
                "problem_type to regression"
            )
        if value in classes:
            raise UserError(
                f"{where}: row {row_number(dataset, index)}: the class {value!r} stands twice in one label; list the "
                "classes of the row, each once, not zeros and ones"
            )
        classes.append(int(value) if isinstance(value, bool) else value)
    return classes


def _target(dataset: Dataset, where: str, index: int, label: Any) -> float:
    if not isinstance(label, int | float) or not math.isfinite(label):
        raise UserError(
            f"{where}: row {row_number(dataset, index)}: the label {label!r} is not a finite number, which a "
            "regression needs; correct it or delete the row"
        )
    return float(label)


def _with_labels(dataset: Dataset, labels: Sequence[Any], feature: Any) -> Dataset:
    features = Features({**dataset.features, "label": feature})
    table = dataset.with_format("arrow")[:]
    position = table.column_names.index("label")
    schema = features.arrow_schema
    table = table.set_column(position, "label", pa.array(labels, schema.field("label").type))
    return Dataset(table.cast(schema), info=DatasetInfo(features=features), split=dataset.split)


def _listed(values: Sequence[str]) -> str:
    shown = ", ".join(map(repr, values[:20]))
    return shown if len(values) <= 20 else f"{shown}, … ({len(values)} in all)"
