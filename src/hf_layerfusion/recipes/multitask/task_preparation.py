"""The tasks of a run: read from a file, prepared one by one, encoded for the model."""

import dataclasses
import functools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_type_hints

from datasets import Dataset
from huggingface_hub.dataclasses import type_validator
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedTokenizerBase

from hf_layerfusion import TaskConfig
from hf_layerfusion.data.arrow_tables import column_values, row_number
from hf_layerfusion.data.files import read_examples
from hf_layerfusion.data.truncation import CUTS, encode
from hf_layerfusion.errors import UserError, nearest, one_line
from hf_layerfusion.evaluation.predictions import COURSE_COLUMNS
from hf_layerfusion.hub.paths import inside, is_plain_name
from hf_layerfusion.metric_registry import PROBLEM_METRICS, selection_metrics
from hf_layerfusion.recipes.data_preparation import PreparedData, encode_splits, prepare, side_by_side
from hf_layerfusion.recipes.multitask.multitask_arguments import MultitaskDataArguments
from hf_layerfusion.recipes.recipe_arguments import PairDataArguments
from hf_layerfusion.training.task_data import SWAPPED

PREDICT = "predict"
FILE_FIELDS = ("train_file", "validation_file", "test_file")
PAIR_ORDERS = ("random", "given")
# Said once for all tasks, or said otherwise in an entry: `labels` and `--cut`.
NOT_OF_ONE_TASK = {
    "class_names", "max_seq_length", "max_predict_samples", "split_seed", "language", "truncation",
    "pad_to_max_length", "prediction_format",
}  # fmt: skip


@dataclass
class TaskDataArguments(PairDataArguments):
    """What an entry of the tasks file says of a task's data."""

    labels: list[str] | None = None
    predict_file: str | None = None
    course_name: str | None = None


@dataclass(frozen=True)
class TaskSpec:
    """An entry of the tasks file.

    Attributes:
        name: the task's name.
        data: where its texts come from.
        settings: fields of `TaskConfig`; `labels` may be missing until the data are read.
        predict_file: texts without labels to predict, relative to the data's folder.
        course_name: the task's name in the prediction files of CS 224N.
    """

    name: str
    data: PairDataArguments
    settings: dict[str, Any]
    predict_file: str | None = None
    course_name: str | None = None

    def settings_of(self, problem_type: str) -> dict[str, Any]:
        """The settings; with this problem type where they name none, and a metric that goes with it."""
        problem_type = self.settings.get("problem_type") or problem_type
        return {"metric": selection_metrics(problem_type)[0], **self.settings, "problem_type": problem_type}


def read_tasks_file(path: str | None) -> dict[str, dict[str, Any]]:
    """The entries of a tasks file.

    Raises:
        UserError: if none is named, or it cannot be read or is no JSON object of objects.
    """
    if path is None:
        raise UserError(
            "--tasks_file must name a .json file with an entry for each task, found none; name one."
        )
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"), object_pairs_hook=_each_key_once)
    except OSError as error:
        raise UserError(f"--tasks_file {path}: cannot be read ({error.strerror}); check the path.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"--tasks_file {path}: is no sound JSON ({one_line(error)}); mend it.") from error
    if (
        not isinstance(content, dict)
        or not content
        or not all(isinstance(entry, dict) for entry in content.values())
    ):
        raise UserError(
            f'--tasks_file {path}: must be an object by task, {{"sst5": {{…}}}}; see examples/tasks.json.'
        )
    return content


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these pairs; json itself would keep the last of two tasks of one name.

    Raises:
        ValueError: a key that stands twice.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} stands twice in an object")
    return found


def make_tasks(
    entries: Mapping[str, Mapping[str, Any]], folder: Path, arguments: MultitaskDataArguments
) -> dict[str, TaskSpec]:
    """The tasks that entries of a tasks file declare.

    Args:
        entries: by task: fields of `TaskConfig` and `PairDataArguments`, `predict_file` and `course_name`.
        folder: what the files are relative to.
        arguments: what holds for all tasks.

    Raises:
        UserError: a key that is missing or unknown, or a value of the wrong type, with the task's name; a file outside
            of the folder.
    """
    types = get_type_hints(TaskDataArguments)  # `HfArgumentParser` changes those of the fields
    data_fields = {field.name for field in dataclasses.fields(TaskDataArguments)} - NOT_OF_ONE_TASK
    model_fields = {field.name for field in dataclasses.fields(TaskConfig)}
    shared = {
        name: getattr(arguments, name)
        for name in ("max_seq_length", "split_seed", "max_predict_samples", "language")
    }
    if arguments.max_train_samples is not None:
        shared["max_train_samples"] = arguments.max_train_samples
    tasks: dict[str, TaskSpec] = {}
    for name, entry in entries.items():
        unknown = sorted(entry.keys() - data_fields - model_fields)
        if unknown:
            raise UserError(
                f"task '{name}': has no key {unknown[0]!r}; see docs/multitask.md for those there are."
            )
        if "train_file" not in entry and "dataset_name" not in entry:
            raise UserError(
                f"task '{name}': lacks the key 'train_file' or 'dataset_name'; name its training data."
            )
        course_name = entry.get("course_name")
        if course_name not in (None, *COURSE_COLUMNS):
            raise UserError(
                f"task '{name}': course_name must be one of {', '.join(COURSE_COLUMNS)}, found {course_name!r}; "
                f"{nearest(course_name, COURSE_COLUMNS)}"
            )
        if course_name is not None and course_name in {task.course_name for task in tasks.values()}:
            raise UserError(
                f"task '{name}': course_name must be one task's alone, found {course_name!r} twice; the "
                "prediction files of both would have one name."
            )
        if not is_plain_name(name):
            raise UserError(
                f"task '{name}': must have a name of letters, digits, '_' and '-'; choose another."
            )
        of_data = {key: value for key, value in entry.items() if key in data_fields}
        try:
            for key, value in of_data.items():
                type_validator(key, value, types[key])
        except TypeError as error:
            raise UserError(f"task '{name}': {one_line(error)}; correct it.") from error
        data = TaskDataArguments(**{**of_data, **shared})
        data.class_names = data.labels
        for key in (*FILE_FIELDS, "predict_file"):
            if (file := getattr(data, key)) is not None:
                setattr(data, key, str(inside(folder, file, f"task '{name}': {key}")))
        settings = {key: value for key, value in entry.items() if key in model_fields}
        settings["pair"] = data.text_pair_column is not None
        if entry.get("pair", settings["pair"]) != settings["pair"]:
            raise UserError(
                f"task '{name}': pair must be what text_pair_column says, found {entry['pair']!r} and "
                f"{data.text_pair_column!r}; correct one of them."
            )
        tasks[name] = TaskSpec(name, data, settings, data.predict_file, course_name)
    return tasks


def prepare_task(task: TaskSpec) -> tuple[TaskSpec, PreparedData]:
    """Reads a task's data; the task comes back with the labels and the metric that they say.

    Checkpoints are chosen on a tenth of the training data unless there are test data; the validation data are then the
    test.

    Raises:
        UserError: as `prepare` and `TaskConfig`; a value outside the task's range, with its row.
    """
    try:
        data = prepare(task.data)
    except UserError as error:
        raise UserError(f"task '{task.name}': {error}") from error
    problem_type = data.schema.problem_type
    settings = task.settings_of(problem_type)
    if problem_type != "regression":
        settings["labels"] = list(data.schema.names)
    try:
        TaskConfig(**settings)
    except (ValueError, StrictDataclassError) as error:
        raise UserError(f"task '{task.name}': {one_line(error)}") from error
    if settings["metric"] not in (metrics := selection_metrics(settings["problem_type"])):
        raise UserError(
            f"task '{task.name}': metric must be one of {', '.join(metrics)}, found {settings['metric']!r}; correct it."
        )
    for name, split in data.splits.items():
        if settings.get("value_range") is not None and "label" in split.column_names:
            low, high = settings["value_range"]
            for index, value in enumerate(column_values(split, "label")):
                if not low <= value <= high:
                    raise UserError(
                        f"task '{task.name}': {name}: row {row_number(split, index)}: the label {value:g} lies outside "
                        f"value_range [{low:g}, {high:g}]; correct one of them."
                    )
    if task.predict_file is not None:
        data.splits[PREDICT] = read_examples(
            task.predict_file,
            text_columns=data.text_columns,
            label_column=None,
            id_column=task.data.id_column,
        )
    return replace(task, settings=settings), data


def check_task_names(tasks: Mapping[str, TaskSpec], arguments: MultitaskDataArguments) -> None:
    """Refuses names that are in no table, before data are read.

    Raises:
        UserError: an unknown `--pair_order`, `--cut` or `--train_tasks`; a metric that no task has.
    """
    named: list[tuple[str, str, Iterable[str]]] = [
        ("--pair_order", arguments.pair_order, PAIR_ORDERS),
        ("--cut", arguments.cut, CUTS),
        *(("--train_tasks", name, tasks) for name in arguments.train_tasks or ()),
    ]
    for task in tasks.values():
        problem_type = task.settings.get("problem_type")
        metrics = [
            name
            for kind in ([problem_type] if problem_type in PROBLEM_METRICS else PROBLEM_METRICS)
            for name in selection_metrics(kind)
        ]
        named += [(f"task '{task.name}': metric", task.settings.get("metric") or metrics[0], metrics)]
    for what, name, known in named:
        if name not in known:
            raise UserError(
                f"{what} must be one of {', '.join(dict.fromkeys(known))}, found {name!r}; {nearest(name, known)}"
            )


def tokenize_task(
    task: TaskSpec, data: PreparedData, tokenizer: PreTrainedTokenizerBase, arguments: MultitaskDataArguments
) -> dict[str, Dataset]:
    """Turns a task's splits into model inputs: a siamese pair's columns hold a list for each text; a joint pair that is
    trained in random order has further columns `swapped_…`.

    Raises:
        UserError: as `data.truncation.encode` and `encode_splits`.
    """
    columns, is_siamese = data.text_columns, task.settings.get("pair_encoding") == "siamese"
    cut = functools.partial(encode, tokenizer, max_length=arguments.max_seq_length, cut=arguments.cut)

    def siamese(batch: dict[str, list[str]]) -> dict[str, list[Any]]:
        return side_by_side(*(cut(batch[column]) for column in columns))

    def joint(batch: dict[str, list[str]]) -> dict[str, list[Any]]:
        return cut(*(batch[column] for column in columns))

    def in_both_orders(batch: dict[str, list[str]]) -> dict[str, list[Any]]:
        swapped = cut(*(batch[column] for column in reversed(columns)))
        return joint(batch) | {f"{SWAPPED}{name}": rows for name, rows in swapped.items()}

    most = tokenizer.model_max_length
    encoded = encode_splits(data.splits, siamese if is_siamese else joint, most)
    if task.settings["pair"] and not is_siamese and arguments.pair_order == "random":
        encoded |= encode_splits({"train": data.splits["train"]}, in_both_orders, most)
    return encoded
