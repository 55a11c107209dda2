"""Recorded runs as members of ensembles: their predictions are read from run files, nothing is predicted again."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hf_layerfusion.ensembling.batched_metrics import score_of
from hf_layerfusion.ensembling.combiners import Array
from hf_layerfusion.ensembling.fitted import worst_if_undefined
from hf_layerfusion.errors import UserError
from hf_layerfusion.evaluation.task_significance import TaskPredictions
from reproduction.ensemble_table import EnsembleTable
from reproduction.table_rows import numbers, read_run_file

ONE_TASK = "default"
TEST, VALIDATION = "test", "validation"

# Logits `[N, C]` or values `[N]` by task and split.
Predictions = dict[str, dict[str, Array]]


@dataclass(frozen=True)
class RecordedMembers:
    """Runs that predicted the same examples.

    Attributes:
        labels: labels by task and split, `[N]`.
        regressions: names of the regression tasks.
        runs: predictions of each run by name.
        missing: names of requested runs without predictions to combine.
    """

    labels: Predictions
    regressions: set[str]
    runs: dict[str, Predictions]
    missing: list[str]

    @property
    def splits(self) -> list[str]:
        """Names of the splits that all tasks have."""
        return [split for split in (VALIDATION, TEST) if all(split in each for each in self.labels.values())]

    def problem_type(self, task: str) -> str:
        """Return the problem type of a task."""
        return "regression" if task in self.regressions else "single_label_classification"

    def scores(self, predictions: Sequence[Predictions], split: str) -> dict[str, Array]:
        """Return the accuracy or correlation of each of several predictions by task; NaN where it is undefined."""
        found = {}
        for task, labels in self.labels.items():
            _, score = score_of(self.problem_type(task))
            found[task] = score(np.stack([each[task][split] for each in predictions]), labels[split])
        return found

    def means(self, predictions: Sequence[Predictions], split: str) -> Array:
        """Return the mean over tasks of `scores` for each of several predictions; minus infinity where a score is
        undefined."""
        mean: Array = np.mean(list(self.scores(predictions, split).values()), axis=0)
        return worst_if_undefined(mean, required=False)

    def task_predictions(self, predictions: Sequence[Predictions]) -> dict[str, TaskPredictions]:
        """Return the predictions of the test examples in the form of the significance tests."""
        found = {}
        for task, labels in self.labels.items():
            stacked = np.stack([each[task][TEST] for each in predictions])
            is_value = task in self.regressions
            given = stacked if is_value else stacked.argmax(axis=2)
            found[task] = TaskPredictions(labels[TEST].astype(float), given.astype(float), is_value)
        return found


def read_members(table: EnsembleTable, results: Path) -> RecordedMembers:
    """Read the runs of a table of ensembles.

    A multitask run has logits of the validation and test examples; older run files have none, and count as missing. A
    run on one task has the predicted classes of the test examples, which suffice for a vote.

    Raises:
        UserError: Two runs predicted different examples.
    """
    members = RecordedMembers({}, set(), {}, [])
    for run in table.runs():
        file = table.file(results, run)
        found = _read(read_run_file(file, "labels")) if file.exists() else None
        if found is None:
            members.missing.append(run)
            continue
        if not members.runs:
            members.labels.update(found.labels)
            members.regressions.update(found.regressions)
        for task, splits in members.labels.items():
            for split, labels in splits.items():
                if not np.array_equal(labels, found.labels.get(task, {}).get(split, np.empty(0))):
                    raise UserError(
                        f"{file}: must predict the same {split} examples of task '{task}' as "
                        f"{next(iter(members.runs))}, found others; run it again."
                    )
        members.runs[run] = found.predictions
    return members


class _Found(NamedTuple):
    labels: Predictions
    predictions: Predictions
    regressions: set[str]


def _read(content: dict[str, Any]) -> _Found | None:
    if isinstance(content["predictions"], str):
        labels = np.array(numbers(content["labels"]), int)
        classes = np.array(numbers(content["predictions"]), int)
        ballots = np.eye(max(labels.max(), classes.max()) + 1)[classes]
        return _Found({ONE_TASK: {TEST: labels}}, {ONE_TASK: {TEST: ballots}}, set())
    if "logits" not in content:
        return None
    tasks = content["settings"]["tasks"]
    found = _Found({}, {}, {name for name in tasks if tasks[name].get("problem_type") == "regression"})
    for split, labels_of in ((VALIDATION, content["validation_labels"]), (TEST, content["labels"])):
        for task, text in labels_of.items():
            labels, logits = np.array(numbers(text)), np.array(numbers(content["logits"][split][task]))
            is_value = task in found.regressions
            found.labels.setdefault(task, {})[split] = labels if is_value else labels.astype(int)
            shaped = logits if is_value else logits.reshape(len(labels), -1)
            found.predictions.setdefault(task, {})[split] = shaped
    return found
