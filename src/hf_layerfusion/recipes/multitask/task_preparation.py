"""Tasks of a run: read from the tasks file, prepared one by one, tokenized for the model."""

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
from transformers.trainer_utils import IntervalStrategy

from hf_layerfusion import TaskConfig
from hf_layerfusion.data.arrow_tables import column_values, row_number
from hf_layerfusion.data.files import read_examples
from hf_layerfusion.data.truncation import CUTS, encode
from hf_layerfusion.errors import UserError, nearest, one_line
from hf_layerfusion.evaluation.predictions import COURSE_COLUMNS, check_predictions
from hf_layerfusion.hub.paths import inside, is_plain_name
from hf_layerfusion.metric_registry import EVAL_PREFIX, PROBLEM_METRICS, selection_metrics
from hf_layerfusion.recipes.data_preparation import (
    PreparedData,
    clean,
    encode_splits,
    make_cleaner,
    prepare,
    side_by_side,
)
from hf_layerfusion.recipes.fold_runs import prepare_folds
from hf_layerfusion.recipes.multitask.multitask_arguments import (
    MultitaskDataArguments,
    MultitaskModelArguments,
)
from hf_layerfusion.recipes.recipe_arguments import PairDataArguments, RunTrainingArguments
from hf_layerfusion.training.task_data import SWAPPED

PREDICT = "predict"
FILE_FIELDS = ("train_file", "validation_file", "test_file")
PAIR_ORDERS = ("random", "given")
# Options that hold for all tasks, or that an entry sets in another way: `labels` and `--cut`.
SHARED_OPTIONS = {
    "class_names", "max_seq_length", "max_predict_samples", "split_seed", "language", "truncation",
    "pad_to_max_length", "prediction_format", "class_scores", "folds", "fold_split", "dataset_description",
    "dataset_defects", "dataset_warning",
}  # fmt: skip
ONE_TASK_OPTIONS = {"teacher", "unlabelled_file", "max_unlabelled_samples"}


@dataclass
class TaskDataArguments(PairDataArguments):
    """Data arguments of one task, given in its entry of the tasks file."""

    labels: list[str] | None = None
    predict_file: str | None = None
    course_name: str | None = None


@dataclass(frozen=True)
class TaskSpec:
    """Specification of a task: an entry of the tasks file.

    Attributes:
        name: the task's name.
        data: data arguments.
        settings: fields of `TaskConfig`; `labels` may be missing until the data are read.
        predict_file: file of unlabelled texts to predict.
        course_name: the task's name in the prediction files of CS 224N.
    """

    name: str
    data: PairDataArguments
    settings: dict[str, Any]
    predict_file: str | None = None
    course_name: str | None = None

    def settings_in(self, arguments: MultitaskModelArguments) -> dict[str, Any]:
        """Return the settings in a model of these arguments: with the fuser of `--pooling`, unless they name `fusion`
        or `sentence_vector`."""
        if arguments.pooling is None or self.settings.keys() & {"fusion", "sentence_vector"}:
            return self.settings
        fusion = {"pooling": arguments.pooling, "token_pooling": arguments.token_pooling}
        return {
            **self.settings,
            "fusion": {name: value for name, value in fusion.items() if value is not None},
        }

    def settings_of(self, problem_type: str) -> dict[str, Any]:
        """Return the settings, completed by this problem type if they name none and by the metric that goes with it."""
        problem_type = self.settings.get("problem_type") or problem_type
        return {"metric": selection_metrics(problem_type)[0], **self.settings, "problem_type": problem_type}


def read_tasks_file(path: str | None) -> dict[str, dict[str, Any]]:
    """Return the entries of a tasks file.

    Raises:
        UserError: No file is named, or it cannot be read or is not a JSON object of objects.
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
        raise UserError(f"--tasks_file {path}: is not valid JSON ({one_line(error)}); correct it.") from error
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
    """Return an object from its pairs, refusing repeated keys, of which json would keep the last.

    Raises:
        ValueError: A key is repeated.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} is repeated in an object")
    return found


def make_tasks(
    entries: Mapping[str, Mapping[str, Any]], folder: Path, arguments: MultitaskDataArguments
) -> dict[str, TaskSpec]:
    """Return the tasks that entries of a tasks file specify.

    Args:
        entries: for each task, fields of `TaskConfig` and `PairDataArguments`, `predict_file` and `course_name`.
        folder: folder that the files are relative to.
        arguments: arguments that all tasks share.

    Raises:
        UserError: A key is missing or unknown, a value has the wrong type, or a file lies outside the folder; names
            the task.
    """
    types = get_type_hints(TaskDataArguments)  # `HfArgumentParser` changes the fields' own types
    data_fields = {field.name for field in dataclasses.fields(TaskDataArguments)}
    data_fields -= SHARED_OPTIONS | ONE_TASK_OPTIONS
    model_fields = {field.name for field in dataclasses.fields(TaskConfig)}
    shared = {
        name: getattr(arguments, name)
        for name in ("max_seq_length", "split_seed", "max_predict_samples", "language", "folds")
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
                f"task '{name}': course_name must be unique, found {course_name!r} twice; the "
                "prediction files of both tasks would have the same name."
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
                f"task '{name}': pair must agree with text_pair_column, found {entry['pair']!r} and "
                f"{data.text_pair_column!r}; correct one of them."
            )
        tasks[name] = TaskSpec(name, data, settings, data.predict_file, course_name)
    return tasks


def prepare_task(task: TaskSpec) -> list[tuple[TaskSpec, PreparedData]]:
    """Read and prepare a task's data, or those of each fold with `folds`; the task is returned with the labels and
    metric that they imply.

    Without test data, the validation data become the test data and checkpoints are selected on a tenth of the
    training data.

    Raises:
        UserError: As `prepare`, `prepare_folds` and `completed`.
    """
    try:
        parts = [prepare(task.data)] if task.data.folds is None else prepare_folds(task.data)
    except UserError as error:
        raise UserError(f"task '{task.name}': {error}") from error
    return [completed(task, data) for data in parts]


def completed(task: TaskSpec, data: PreparedData) -> tuple[TaskSpec, PreparedData]:
    """Return the task with the labels and metric that its data imply, and the data with the texts to predict.

    Raises:
        UserError: A value lies outside the task's range; or as `TaskConfig`.
    """
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
    try:
        check_predictions(problem_type, data.schema.names, data.text_columns)
    except UserError as error:
        raise UserError(f"task '{task.name}': {error}") from error
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
        texts = read_examples(
            task.predict_file,
            text_columns=data.text_columns,
            label_column=None,
            id_column=task.data.id_column,
        )
        data.splits[PREDICT], _ = clean(texts, make_cleaner(task.data), PREDICT)
    return replace(task, settings=settings), data


def check_task_names(tasks: Mapping[str, TaskSpec], arguments: MultitaskDataArguments) -> None:
    """Check named options before data are read.

    Raises:
        UserError: `--pair_order`, `--cut` or `--train_tasks` is unknown, or a task does not have its metric.
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


def check_task_options(entries: Mapping[str, Mapping[str, Any]], arguments: RunTrainingArguments) -> None:
    """Check training options that name tasks before data are read.

    Args:
        entries: entries of the tasks file.
        arguments: the run's training arguments.

    Raises:
        UserError: `--task_weights` or `--metric_for_best_model` names an unknown task or metric, or `--task_metrics` is
            given, whose place is the tasks file.
    """
    if arguments.task_metrics:
        raise UserError(
            f"--task_metrics must be left out, found {json.dumps(arguments.task_metrics)}; name the metric of a task "
            "by the key 'metric' of its entry in the tasks file"
        )
    for name in arguments.task_weights or ():
        if name not in entries:
            raise UserError(
                f"--task_weights must be of the tasks {', '.join(entries)}, found {name!r}; {nearest(name, entries)}"
            )
    chosen = arguments.metric_for_best_model
    if chosen is None or arguments.eval_strategy == IntervalStrategy.NO:
        return
    metrics = dict.fromkeys(name for found in PROBLEM_METRICS.values() for name in found)
    known = ["mean", "loss", *(f"{task}_{name}" for task in entries for name in ("loss", *metrics))]
    if chosen.removeprefix(EVAL_PREFIX) not in known:
        raise UserError(
            f"--metric_for_best_model must be mean, loss or TASK_METRIC with one of the tasks {', '.join(entries)}, "
            f"found {chosen!r}; {nearest(chosen.removeprefix(EVAL_PREFIX), known, 'correct it')}"
        )


def tokenize_task(
    task: TaskSpec, data: PreparedData, tokenizer: PreTrainedTokenizerBase, arguments: MultitaskDataArguments
) -> dict[str, Dataset]:
    """Tokenize a task's splits.

    The columns of a siamese pair hold a list for each text. Joint pairs trained in random order have additional
    columns `swapped_…`.

    Raises:
        UserError: As `data.truncation.encode` and `encode_splits`.
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
