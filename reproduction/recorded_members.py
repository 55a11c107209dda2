"""Runs as members of an ensemble: what their run files say they answered, with nothing predicted again."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hf_layerfusion.ensembling.batched_metrics import score_of
from hf_layerfusion.ensembling.combiners import Array
from hf_layerfusion.errors import UserError
from hf_layerfusion.evaluation.task_significance import TaskPredictions
from reproduction.ensemble_table import EnsembleTable
from reproduction.table_rows import numbers, read_run_file

ONE_TASK = "default"
TEST, VALIDATION = "test", "validation"

# By task, then by split: logits `[N, C]` or values `[N]`.
Predictions = dict[str, dict[str, Array]]


@dataclass(frozen=True)
class RecordedMembers:
    """Runs that answered the same examples.

    Attributes:
        labels: by task and split, `[N]`.
        regressions: the tasks whose answers are values.
        runs: their predictions by name.
        missing: runs that were asked for and have no predictions to combine.
    """

    labels: Predictions
    regressions: set[str]
    runs: dict[str, Predictions]
    missing: list[str]

    @property
    def splits(self) -> list[str]:
        """The splits that there are predictions of."""
        return [split for split in (VALIDATION, TEST) if all(split in each for each in self.labels.values())]

    def problem_type(self, task: str) -> str:
        """The task's."""
        return "regression" if task in self.regressions else "single_label_classification"

    def scores(self, predictions: Sequence[Predictions], split: str) -> dict[str, Array]:
        """By task, the accuracy or correlation of each of several predictions; NaN where it is undefined."""
        found = {}
        for task, labels in self.labels.items():
            _, score = score_of(self.problem_type(task))
            found[task] = score(np.stack([each[task][split] for each in predictions]), labels[split])
        return found

    def means(self, predictions: Sequence[Predictions], split: str) -> Array:
        """The mean over tasks of `scores`, of each of several predictions; the worst, minus infinity, where a score is
        undefined."""
        mean: Array = np.mean(list(self.scores(predictions, split).values()), axis=0)
        return worst_where_undefined(mean)

    def task_predictions(self, predictions: Sequence[Predictions]) -> dict[str, TaskPredictions]:
        """What several predictions answer to the test examples, for the tests of differences."""
        found = {}
        for task, labels in self.labels.items():
            stacked = np.stack([each[task][TEST] for each in predictions])
            is_value = task in self.regressions
            given = stacked if is_value else stacked.argmax(axis=2)
            found[task] = TaskPredictions(labels[TEST].astype(float), given.astype(float), is_value)
        return found


def worst_where_undefined(scores: Array) -> Array:
    """`scores` with minus infinity in the place of NaN, so that the best of them is one that is defined."""
    found: Array = np.where(np.isfinite(scores), scores, -np.inf)
    return found


def read_members(table: EnsembleTable, results: Path) -> RecordedMembers:
    """Reads the runs of a table of ensembles.

    A run over several tasks has logits of the validation and test examples (older run files have none: they count as
    missing); a run of one task has the classes that it answered to the test examples, which suffice for a vote.

    Raises:
        UserError: if two runs answered other examples.
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
                        f"{file}: must answer the {split} examples of task '{task}' that {next(iter(members.runs))} "
                        "answers, found others; run it again."
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
