"""Finished runs as their folders record them, for a report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import logit

from hf_layerfusion.ensembling.ensemble_manifest import FILE_NAME as ENSEMBLE_FILE
from hf_layerfusion.errors import UserError
from hf_layerfusion.evaluation.intervals import Interval, metric_intervals
from hf_layerfusion.evaluation.layer_use import LayerUse
from hf_layerfusion.evaluation.mistakes import Mistake, worst_mistakes
from hf_layerfusion.evaluation.predictions import read_rows
from hf_layerfusion.metric_registry import METRICS
from hf_layerfusion.recipes.multitask.task_comparison import task_answers, tasks_of_run
from hf_layerfusion.recipes.run_comparison import RunAnswers, run_answers
from hf_layerfusion.run_layout import (
    LAYER_USE_FILE,
    LOGITS_FILE,
    RESULTS_FILE,
    SETTINGS_FILE,
    TABLE_FILE,
    find,
    find_in_parts,
)
from hf_layerfusion.storage import read_object

NUM_MISTAKES = 10
STATE_FILE = "trainer_state.json"
DATA_FILES = ("train_file", "validation_file", "test_file", "tasks_file")
SPLITS = ("test", "validation", "eval", "predict")
"""Splits in the order in which a run is judged by them."""


@dataclass
class TaskRecord:
    """Figures of a run on one task.

    Attributes:
        name: The task; empty for a run of one task.
        split: The split that it is judged on.
        metrics: Mean and, over several seeds or folds, standard deviation of each metric that the run recorded, by
            split and name.
        intervals: Metrics computed from the predictions, with their intervals over the texts; empty without truth.
        answers: The answers with the truth; None if they cannot be read.
        labels: True classes, values or 0/1 labels, `[N]` or `[N, C]`; None without truth.
        predictions: The same of each seed, `[seeds, N]` or `[seeds, N, C]`; None without truth.
        mistakes: The worst predictions, of the seeds' mean.
        missing: Why the answers cannot be read, in one line; empty if they can.
    """

    name: str
    split: str
    metrics: dict[str, dict[str, tuple[float, float | None]]]
    intervals: dict[str, Interval] = field(default_factory=dict)
    answers: RunAnswers | None = None
    labels: npt.NDArray[Any] | None = None
    predictions: npt.NDArray[Any] | None = None
    mistakes: list[Mistake] = field(default_factory=list)
    missing: str = ""

    @property
    def problem_type(self) -> str | None:
        """The problem type, None if it is not known."""
        return None if self.answers is None else self.answers.schema.problem_type


@dataclass
class RunRecord:
    """A finished run.

    Attributes:
        name: Its folder as it was named.
        folder: The folder.
        kind: `"run"`, `"seeds"`, `"folds"`, `"prediction"` or `"ensemble"`.
        settings: Its settings.
        results: Its results.
        tasks: Its tasks, one without a name for a run of one task.
        histories: The Trainer's log, by the name of the seed or fold, empty for a single run.
        layer_use: The use of the layers, by the same.
        table: Header and rows of an ensemble's table, None for any other run.
    """

    name: str
    folder: Path
    kind: str
    settings: dict[str, Any]
    results: dict[str, Any]
    tasks: list[TaskRecord]
    histories: dict[str, list[dict[str, Any]]]
    layer_use: dict[str, LayerUse]
    table: list[dict[str, str]] | None = None

    @property
    def has_tasks(self) -> bool:
        """True for a run of several tasks."""
        return bool(self.tasks and self.tasks[0].name)


def read_run(name: str) -> RunRecord:
    """Read a finished run.

    Args:
        name: Its folder; of several seeds or folds the one above theirs.

    Raises:
        UserError: It is no run, or has not ended.
    """
    folder = Path(name)
    settings_file, results_file = find(folder, SETTINGS_FILE), find(folder, RESULTS_FILE)
    if not settings_file.is_file():
        raise UserError(f"{name}: must be the folder of a run, found no {SETTINGS_FILE}; name one")
    if not results_file.is_file():
        raise UserError(f"{name}: holds no {RESULTS_FILE}; name a run that has ended")
    settings = read_object(settings_file, "name the folder of a run")
    results = read_object(results_file, "run it again")
    tasks = list((tasks_of_run(folder) or {}).get("tasks", ()))
    seeds, folds = (find_in_parts(folder, f"{part}-*", STATE_FILE) for part in ("seed", "fold"))
    is_ensemble = (folder / ENSEMBLE_FILE).is_file()
    single = "run" if find(folder, STATE_FILE).is_file() else "prediction"
    table = find(folder, TABLE_FILE)
    states = seeds or folds or {folder: find(folder, STATE_FILE)}
    parts = {path: place.name if place != folder else "" for place, path in states.items() if path.is_file()}
    uses = {place.name if place != folder else "": find(place, LAYER_USE_FILE) for place in states}
    return RunRecord(
        name=name,
        folder=folder,
        kind="ensemble" if is_ensemble else "folds" if folds else "seeds" if seeds else single,
        settings=settings,
        results=results,
        tasks=[_task(folder, task, settings, results) for task in tasks or [""]],
        histories={
            part: list(read_object(path, "run it again").get("log_history") or ())
            for path, part in parts.items()
        },
        layer_use={
            part: LayerUse(**read_object(path, "run it again"))
            for part, path in uses.items()
            if path.is_file()
        },
        table=read_rows(table) if is_ensemble and table.is_file() else None,
    )


def _task(folder: Path, name: str, settings: dict[str, Any], results: Mapping[str, Any]) -> TaskRecord:
    metrics = recorded_metrics(results, f"{name}_" if name else "")
    record = TaskRecord(name, next(iter(metrics), SPLITS[0]), metrics)
    try:
        answers = task_answers(folder, name, settings) if name else run_answers(folder)
        labels, predictions = coded(answers)
    except UserError as error:
        record.missing = f"{error}{_hint(settings)}"
        return record
    record.answers, record.labels, record.predictions = answers, labels, predictions
    record.intervals = metric_intervals(answers.schema.problem_type, labels, predictions)
    record.mistakes = _mistakes(folder, answers, labels, predictions, bool(name))
    return record


def _hint(settings: Mapping[str, Any]) -> str:
    """Return where to call the command if a run names files that are not there by relative paths, else nothing."""
    paths = [Path(str(settings[name])) for name in DATA_FILES if settings.get(name)]
    if all(path.is_absolute() or path.exists() for path in paths):
        return ""
    return "; the run names its files by relative paths: call the command in the folder where the run was started"


def recorded_metrics(
    results: Mapping[str, Any], prefix: str
) -> dict[str, dict[str, tuple[float, float | None]]]:
    """Return the metrics of a run's results by split and name, each with its standard deviation where there is one.

    Args:
        results: The content of `all_results.json`.
        prefix: What stands between split and metric: `TASK_`, or nothing.
    """
    found: dict[str, dict[str, tuple[float, float | None]]] = {}
    for split in SPLITS:
        for metric in METRICS:
            value = results.get(f"{split}_{prefix}{metric}")
            mean, sd = (value.get("mean"), value.get("sd")) if isinstance(value, dict) else (value, None)
            if isinstance(mean, int | float):
                found.setdefault(split, {})[metric] = float(mean), None if sd is None else float(sd)
    return found


def coded(answers: RunAnswers) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return truth and answers as numbers: indices of classes, values or 0/1 labels, `[N, …]` and `[seeds, N, …]`.

    Raises:
        UserError: A label of the data is none of the model's.
    """
    schema = answers.schema
    if schema.problem_type == "regression":
        values = [[float(row["value"]) for row in rows] for rows in answers.answers]
        return np.array([float(value) for value in answers.truth]), np.array(values)
    if schema.problem_type == "multi_label_classification":
        sets = [[set(filter(None, row["label"].split(";"))) for row in rows] for rows in answers.answers]
        return _masks(answers.truth, schema.names), np.array([_masks(rows, schema.names) for rows in sets])
    places = {name: place for place, name in enumerate(schema.names)}
    labels = [[places[row["label"]] for row in rows] for rows in answers.answers]
    return np.array([places[str(label)] for label in answers.truth]), np.array(labels)


def _masks(sets: Sequence[Any], names: Sequence[str]) -> npt.NDArray[np.int64]:
    return np.array([[int(name in labels) for name in names] for labels in sets], dtype=np.int64)


def _mistakes(
    folder: Path, answers: RunAnswers, labels: npt.NDArray[Any], predictions: npt.NDArray[Any], is_task: bool
) -> list[Mistake]:
    """Return the worst predictions, by the logits where the run wrote them, or else by the answers' probabilities."""
    names = list(answers.schema.names)
    if answers.schema.problem_type == "regression":
        return worst_mistakes(predictions.mean(axis=0), labels, None, NUM_MISTAKES)
    logits = None if is_task else _logits(folder, len(labels), names)
    if logits is None:
        if answers.schema.problem_type == "multi_label_classification":
            logits = np.where(predictions.mean(axis=0) > 0.5, 1.0, -1.0)
        else:
            scores = [[float(row["score"]) for row in rows] for rows in answers.answers]
            logits = np.mean(
                [_peaked(*each, len(names)) for each in zip(predictions, scores, strict=True)], 0
            )
    return worst_mistakes(logits, labels, names, NUM_MISTAKES)


def _peaked(classes: npt.NDArray[Any], scores: Sequence[float], count: int) -> npt.NDArray[np.float64]:
    """Return logits `[N, C]` that give the predicted class its probability and all others equal ones."""
    found = np.zeros((len(classes), count))
    bounded = np.clip(scores, 1e-6, 1 - 1e-6)
    found[np.arange(len(classes)), classes] = logit(bounded) + np.log(max(count - 1, 1))
    return found


def _logits(folder: Path, count: int, names: Sequence[str]) -> npt.NDArray[np.float64] | None:
    """Return the mean logits of a run's seeds, `[N, C]`, or those of its folds one after the other; None without
    them."""
    folds, seeds = (find_in_parts(folder, f"{part}-*", LOGITS_FILE) for part in ("fold", "seed"))
    files = folds or seeds or {folder: find(folder, LOGITS_FILE)}
    columns = [f"logit_{name}" for name in names]
    found = []
    for path in files.values():
        rows = read_rows(path) if path.is_file() else []
        if not rows or not set(columns) <= rows[0].keys():
            return None
        found.append(np.array([[float(row[name]) for name in columns] for row in rows]))
    if folds:
        found = [np.concatenate(found)]
    return np.mean(found, axis=0) if all(len(each) == count for each in found) else None
