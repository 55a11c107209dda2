"""Texts that an ensemble is fitted and tested on, with labels in the ensemble's order."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hf_layerfusion.data.arrow_tables import column_values
from hf_layerfusion.data.files import read_examples
from hf_layerfusion.data.label_names import raw_labels
from hf_layerfusion.data.labels import LabelSchema
from hf_layerfusion.ensembling.member_models import TaskSchema
from hf_layerfusion.errors import UserError
from hf_layerfusion.recipes.data_preparation import clean, make_cleaner, text_columns
from hf_layerfusion.recipes.ensemble_artifacts import text_rows
from hf_layerfusion.recipes.ensembles.ensemble_arguments import EnsembleDataArguments
from hf_layerfusion.recipes.multitask.multitask_arguments import MultitaskDataArguments
from hf_layerfusion.recipes.multitask.task_preparation import make_tasks, read_tasks_file
from hf_layerfusion.recipes.recipe_arguments import DataArguments

SPLITS = ("validation", "test")


@dataclass
class SplitTexts:
    """Texts of one split of a task.

    Attributes:
        ids: ids of the rows, `[N]`.
        columns: cleaned texts by column.
        as_read: the same texts as they stand in the file.
        labels: class indices in the order of the ensemble's labels, or values, `[N]`; None without labels.
        id_name: name of the column of the ids.
    """

    ids: list[str]
    columns: dict[str, list[str]]
    as_read: dict[str, list[str]]
    labels: np.ndarray | None
    id_name: str = "id"

    @property
    def rows(self) -> list[tuple[str, ...]]:
        """Rows of one text, or of the two texts of a pair."""
        return list(zip(*self.columns.values(), strict=True))

    def select(self, kept: np.ndarray) -> "SplitTexts":
        """Return the rows selected by a mask `[N]`."""
        places = np.flatnonzero(kept).tolist()

        def chosen(columns: dict[str, list[str]]) -> dict[str, list[str]]:
            return {name: [column[place] for place in places] for name, column in columns.items()}

        return dataclasses.replace(
            self,
            ids=[self.ids[place] for place in places],
            columns=chosen(self.columns),
            as_read=chosen(self.as_read),
            labels=None if self.labels is None else self.labels[kept],
        )


def read_texts(
    arguments: EnsembleDataArguments, tasks: Mapping[str, TaskSchema]
) -> dict[str, dict[str, SplitTexts]]:
    """Read the splits of an ensemble's tasks, by task and split.

    Raises:
        UserError: There are no data, or they have other tasks or labels than the ensemble; or as the readers of
            `data.files`.
    """
    found = {}
    for name, data in _sources(arguments, tasks).items():
        splits = {}
        for split in SPLITS:
            path = getattr(data, f"{split}_file")
            if path is not None:
                splits[split] = _read(path, split, data, tasks[name])
        if not splits:
            raise UserError(
                f"task '{name}': --validation_file or --test_file must name its texts, found neither; name one."
            )
        found[name] = splits
    return found


def _sources(arguments: EnsembleDataArguments, tasks: Mapping[str, TaskSchema]) -> dict[str, DataArguments]:
    if arguments.tasks_file is None:
        if len(tasks) > 1:
            raise UserError(
                f"--tasks_file must name the data of the members' tasks {', '.join(tasks)}, found none; name it, or "
                "the one task that each member is used for (TASK=MEMBER)."
            )
        known = {field.name for field in dataclasses.fields(DataArguments)}
        given = {name: value for name, value in vars(arguments).items() if name in known}
        return {next(iter(tasks)): DataArguments(**given)}
    entries = read_tasks_file(arguments.tasks_file)
    absent = sorted(tasks.keys() - entries.keys())
    if absent:
        raise UserError(
            f"--tasks_file {arguments.tasks_file}: must have the members' task {absent[0]!r}, found "
            f"{', '.join(entries)}; add it."
        )
    folder = Path(arguments.data_dir or Path(arguments.tasks_file).parent)
    made = make_tasks(entries, folder, MultitaskDataArguments())
    return {name: made[name].data for name in tasks}


def _read(path: str, split: str, data: DataArguments, task: TaskSchema) -> SplitTexts:
    columns = text_columns(data)
    rows = read_examples(
        path,
        text_columns=columns,
        label_column=data.label_column,
        label_required=split == "validation",
        id_column=data.id_column,
        skip_incomplete=data.skip_incomplete,
    )
    labels = None
    if "label" in rows.column_names:
        schema = _schema(task, data, raw_labels(rows), path).with_numeric_labels(rows, path)
        labels = np.array(column_values(schema.encode(rows, path), "label"))
        if not task.is_regression:
            labels = np.array([task.labels.index(name) for name in schema.names])[labels]
    cleaned, _ = clean(rows, make_cleaner(data), split)
    texts = text_rows(cleaned, columns)
    by_column = {name: [row[place] for row in texts] for place, name in enumerate(columns)}
    as_read = {name: column_values(rows, name) for name in columns}
    return SplitTexts(column_values(rows, "id"), by_column, as_read, labels, data.id_column or "id")


def _schema(task: TaskSchema, data: DataArguments, labels: list[Any], path: str) -> LabelSchema:
    """Return the schema that reads a file's labels as the ensemble's.

    Labels may be the ensemble's names, the raw labels that the first member was trained on, or, with `--class_names`,
    integers that these name in ascending order.
    """
    if task.is_regression:
        return LabelSchema("regression", task.labels)
    names = tuple(data.class_names or task.labels)
    if sorted(names) != sorted(task.labels):
        raise UserError(
            f"{path}: the labels must be the members' {', '.join(task.labels)}, found {', '.join(names)}; correct "
            "--class_names."
        )
    if data.class_names is None:
        return LabelSchema("single_label_classification", names, task.values)
    if not all(isinstance(label, int) for label in labels):
        return LabelSchema("single_label_classification", names)
    numbers = sorted(set(labels))
    if len(numbers) != len(names):
        raise UserError(
            f"{path}: --class_names must name each of {len(numbers)} integer labels, found {len(names)} names; add or "
            "remove some."
        )
    return LabelSchema("single_label_classification", names, tuple(map(str, numbers)))
