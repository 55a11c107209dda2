"""Recipes of table runs: the scripts' arguments, and functions that train a run and return what was measured."""

import dataclasses
import functools
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from datasets import Dataset
from transformers import EvalPrediction, HfArgumentParser, PreTrainedTokenizerBase

from hf_layerfusion.data.arrow_tables import column_values
from hf_layerfusion.errors import UserError
from hf_layerfusion.evaluation.metrics import compute_metrics_for
from hf_layerfusion.hub.environment import hardware_name, library_environment
from hf_layerfusion.recipes.best_metric import with_metric
from hf_layerfusion.recipes.data_preparation import PreparedData, prepare, tokenize
from hf_layerfusion.recipes.data_record import DATA, DataRecord, check_data, data_record
from hf_layerfusion.recipes.fold_runs import prepare_folds
from hf_layerfusion.recipes.layer_use_report import measure_layers
from hf_layerfusion.recipes.model_setup import encodes_pairs_separately, load_tokenizer
from hf_layerfusion.recipes.multitask.multitask_arguments import (
    MultitaskDataArguments,
    MultitaskModelArguments,
    MultitaskTrainingArguments,
)
from hf_layerfusion.recipes.multitask.task_training import (
    MultitaskData,
    make_multitask_trainer,
    prepare_multitask,
    tasks_record,
    train_multitask,
)
from hf_layerfusion.recipes.recipe_arguments import (
    AbsaDataArguments,
    AbsaTrainingArguments,
    CheckpointArguments,
    DataArguments,
    ModelArguments,
    NliDataArguments,
    NliTrainingArguments,
    PoolingModelArguments,
    RunTrainingArguments,
    TextDataArguments,
    TextModelArguments,
    TextTrainingArguments,
    TweetTrainingArguments,
)
from hf_layerfusion.recipes.run_report import epoch_rows
from hf_layerfusion.recipes.teaching import (
    check_teacher,
    open_teacher,
    raw_rows,
    teacher_record,
    with_predictions,
    with_unlabelled,
    with_weight,
)
from hf_layerfusion.recipes.training_run import make_trainer, train_and_predict
from hf_layerfusion.run_layout import SETTINGS_FILE, find
from hf_layerfusion.storage import read_object, write_json
from reproduction.best_layer import best_layer
from reproduction.run_table import PREPARATIONS, TEACHER_MEMBERS, in_folder
from reproduction.run_teachers import members_cost

Settings: TypeAlias = dict[str, Any]
Prepared: TypeAlias = tuple[PreparedData, dict[str, Dataset]]

# Settings that may change when a run is resumed.
RESUME_SETTINGS = ("output_dir", "resume_from_checkpoint", "disable_tqdm")
TOKENIZER_SETTINGS = ("model_name_or_path", "tokenizer_name", "model_revision")


class RunRecipe(NamedTuple):
    """Recipe of a table's runs.

    Attributes:
        arguments: dataclasses of the script's arguments, whose defaults apply where a table sets nothing.
        train: function from a run's settings, fold and data folder to the content of its result file.
    """

    arguments: tuple[type, type, type]
    train: Callable[[Settings, int | None, Path], dict[str, Any]]


def _one_task(model_class: type, data_class: type, training_class: type) -> RunRecipe:
    classes = (model_class, data_class, training_class)

    def train(settings: Settings, fold: int | None, data_dir: Path) -> dict[str, Any]:
        model_arguments, data_arguments, training_arguments = HfArgumentParser(classes).parse_dict(
            in_folder(settings, data_dir)
        )
        training_arguments = with_weight(data_arguments, training_arguments)
        teacher = open_teacher(data_arguments, training_arguments)
        parts, tokenizer = _prepared(
            data_class,
            _tokenizer_key(model_arguments),
            json.dumps(vars(data_arguments)),
            encodes_pairs_separately(model_arguments),
        )
        data, encoded = parts[0 if fold is None else fold - 1]
        record, taught = data_record(data), {}
        if teacher is not None:
            check_teacher(
                teacher, data.schema, len(data.text_columns), training_arguments.distillation_temperature
            )
            record |= teacher_record(teacher)
            taught["teacher"] = members_cost(data_arguments.teacher)
        _store_settings(settings, record, vars(data_arguments))
        if teacher is not None:
            encoded = with_predictions(teacher, data, encoded)
        training_arguments = with_metric(training_arguments, data.schema.problem_type)
        trainer = make_trainer(data, encoded, tokenizer, model_arguments, training_arguments)
        result = train_and_predict(trainer, encoded)
        use = measure_layers(trainer, encoded["validation"]) if "validation" in encoded else None
        return {
            "metrics": result.metrics,
            "parameters": result.parameters,
            "training_seconds": result.training_seconds,
            "num_examples": {name: len(split) for name, split in data.splits.items()},
            DATA: record,
            "epochs": epoch_rows(result.history),
            "predictions": _joined_predictions(result.logits),
            "labels": "" if result.labels is None else _numbers(result.labels),
            "layer_use": None if use is None else dataclasses.asdict(use),
            **taught,
            **_machine(training_arguments),
        }

    return RunRecipe(classes, train)


def _ensemble(model_class: type, data_class: type, training_class: type) -> RunRecipe:
    """Return the recipe of a row that trains nothing itself: the test predictions of a teacher's averaged members."""
    classes = (model_class, data_class, training_class)

    def predict(settings: Settings, fold: int | None, data_dir: Path) -> dict[str, Any]:
        _, data_arguments, training_arguments = HfArgumentParser(classes).parse_dict(
            in_folder(settings, data_dir)
        )
        data = prepare(data_arguments)
        teacher = open_teacher(data_arguments, training_arguments)
        if teacher is None:
            raise UserError("a row of an ensemble needs teacher_members, found none; name them.")
        check_teacher(
            teacher, data.schema, len(data.text_columns), training_arguments.distillation_temperature
        )
        rows = raw_rows(data.splits["test"], data.text_columns)
        return {
            **_tested(data, teacher.logits(rows, data.schema.problem_type, data.schema.names)),
            **members_cost(data_arguments.teacher),
            DATA: data_record(data) | teacher_record(teacher),
            **_machine(training_arguments),
        }

    return RunRecipe(classes, predict)


def _best_layer(model_class: type, data_class: type, training_class: type) -> RunRecipe:
    """Return the recipe of a row that fits a probe to each layer and predicts with the best one in cross-validation."""
    classes = (model_class, data_class, training_class)

    def fit(settings: Settings, fold: int | None, data_dir: Path) -> dict[str, Any]:
        model_arguments, data_arguments, training_arguments = HfArgumentParser(classes).parse_dict(
            in_folder(settings, data_dir)
        )
        data, start = prepare(data_arguments), time.perf_counter()
        found = best_layer(
            data,
            model_arguments,
            apart=encodes_pairs_separately(model_arguments),
            cache_dir=training_arguments.cache_frozen_states,
            batch_size=training_arguments.eval_batch_size,
            seed=training_arguments.seed,
        )
        return {
            "layer": found.layer,
            "parameters": found.parameters,
            "training_seconds": time.perf_counter() - start,
            **_tested(data, found.outputs),
            DATA: data_record(data),
            **_machine(training_arguments),
        }

    return RunRecipe(classes, fit)


def _tested(data: PreparedData, outputs: np.ndarray) -> dict[str, Any]:
    """Return the metrics and the predictions of a model's outputs for the test rows, `[N, C]`."""
    labels = np.asarray(column_values(data.splits["test"], "label"))
    metrics = compute_metrics_for(data.schema.problem_type)(EvalPrediction(outputs, labels))
    return {
        "metrics": {"test": metrics},
        "num_examples": {name: len(split) for name, split in data.splits.items()},
        "predictions": _joined_predictions(outputs),
        "labels": _numbers(labels),
    }


def _store_settings(settings: Settings, record: DataRecord, files: Mapping[str, Any]) -> None:
    """Write a run's settings beside its checkpoints, or check that an interrupted run resumes with the same ones.

    Raises:
        UserError: Names the settings or the data that differ.
    """
    folder = Path(settings["output_dir"])
    path = find(folder, SETTINGS_FILE)
    content = {name: value for name, value in settings.items() if name not in RESUME_SETTINGS}
    if path.exists():
        stored = read_object(path, "delete the folder")
        names = {*stored, *content} - {DATA}
        changed = sorted(name for name in names if stored.get(name) != content.get(name))
        if changed:
            raise UserError(
                f"{folder}: holds an interrupted run with other settings ({', '.join(changed)}); delete the "
                "folder to start again."
            )
        check_data(folder, stored, record, files)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, content | {DATA: record})


def _tokenizer_key(arguments: CheckpointArguments) -> str:
    return json.dumps({name: getattr(arguments, name) for name in TOKENIZER_SETTINGS})


@functools.lru_cache(maxsize=4)
def _prepared(
    data_class: type[DataArguments], tokenizer_settings: str, data_settings: str, separate_pairs: bool
) -> tuple[list[Prepared], PreTrainedTokenizerBase]:
    """Return the data of a run, or of each fold of a cross-validation, with the tokenizer."""
    arguments = data_class(**json.loads(data_settings))
    tokenizer = load_tokenizer(CheckpointArguments(**json.loads(tokenizer_settings)))
    parts = prepare_folds(arguments) if arguments.folds else [prepare(arguments)]
    parts = [with_unlabelled(data, arguments) for data in parts]
    encoded = [tokenize(data, tokenizer, arguments, separate_pairs=separate_pairs) for data in parts]
    return list(zip(parts, encoded, strict=True)), tokenizer


MULTITASK_CLASSES = (MultitaskModelArguments, MultitaskDataArguments, MultitaskTrainingArguments)


def task_entries(settings: Settings) -> dict[str, dict[str, Any]]:
    """Return a run's entries of the tasks file: its `tasks`, updated by `task_settings` and limited to `only_tasks`
    if given."""
    changes = settings.get("task_settings", {})
    names = settings.get("only_tasks") or list(settings["tasks"])
    return {name: {**settings["tasks"][name], **changes.get(name, {})} for name in names}


def arguments_of(settings: Settings) -> Settings:
    """Return the settings of a run that are arguments of its script."""
    return {
        name: value
        for name, value in settings.items()
        if name not in ("tasks", "task_settings", "only_tasks", *PREPARATIONS, TEACHER_MEMBERS)
    }


def _train_tasks(settings: Settings, fold: int | None, data_dir: Path) -> dict[str, Any]:
    model_arguments, data_arguments, training_arguments = HfArgumentParser(MULTITASK_CLASSES).parse_dict(
        arguments_of(settings)
    )
    entries = task_entries(settings)
    parts = _prepared_tasks(
        json.dumps(entries), str(data_dir), _tokenizer_key(model_arguments), json.dumps(vars(data_arguments))
    )
    data = parts[0 if fold is None else fold - 1]
    record, files = tasks_record(data)
    _store_settings(settings, record, files)
    trainer = make_multitask_trainer(data, model_arguments, data_arguments, training_arguments)
    result = train_multitask(trainer, data)
    return {
        "metrics": result.metrics,
        "parameters": result.parameters,
        "training_seconds": result.training_seconds,
        "num_examples": {
            name: {split: len(rows) for split, rows in prepared.splits.items()}
            for name, prepared in data.prepared.items()
        },
        DATA: record,
        "epochs": epoch_rows(result.history),
        "predictions": {name: _joined_predictions(found["test"]) for name, found in result.logits.items()},
        "labels": _of_split(result.labels, "test"),
        "validation_labels": _of_split(result.labels, "validation"),
        "logits": {split: _of_split(result.logits, split) for split in ("validation", "test")},
        **_machine(training_arguments),
    }


def _machine(arguments: RunTrainingArguments) -> dict[str, Any]:
    """Return hardware and library versions."""
    return {
        "hardware": hardware_name(arguments.device, arguments.world_size),
        "environment": library_environment(),
    }


def _joined_predictions(values: np.ndarray) -> str:
    """Return class indices of logits `[N, C]`, or values `[N]` or `[N, 1]` to three decimals, as one string."""
    if values.ndim == 2 and values.shape[1] > 1:
        values = values.argmax(axis=1)
    return _numbers(values)


def _of_split(values: dict[str, dict[str, Any]], split: str) -> dict[str, str]:
    """Return each task's numbers of a split as a string."""
    return {name: _numbers(np.asarray(found[split])) for name, found in values.items() if split in found}


def _numbers(values: np.ndarray) -> str:
    """Return numbers to three decimals as one string, row by row."""
    return " ".join(f"{value:.3f}".rstrip("0").rstrip(".") for value in values.reshape(-1).tolist())


@functools.lru_cache(maxsize=4)
def _prepared_tasks(
    entries: str, data_dir: str, tokenizer_settings: str, data_settings: str
) -> list[MultitaskData]:
    return prepare_multitask(
        json.loads(entries),
        Path(data_dir),
        MultitaskModelArguments(**json.loads(tokenizer_settings)),
        MultitaskDataArguments(**json.loads(data_settings)),
    )


RUN_RECIPES: dict[str, RunRecipe] = {
    "tweets": _one_task(ModelArguments, DataArguments, TweetTrainingArguments),
    "absa": _one_task(PoolingModelArguments, AbsaDataArguments, AbsaTrainingArguments),
    "nli": _one_task(PoolingModelArguments, NliDataArguments, NliTrainingArguments),
    "text": _one_task(TextModelArguments, TextDataArguments, TextTrainingArguments),
    "text-ensemble": _ensemble(TextModelArguments, TextDataArguments, TextTrainingArguments),
    "text-best-layer": _best_layer(TextModelArguments, TextDataArguments, TextTrainingArguments),
    "multitask": RunRecipe(MULTITASK_CLASSES, _train_tasks),
}
"""Recipes by the names that tables use. A new script is a row here."""
