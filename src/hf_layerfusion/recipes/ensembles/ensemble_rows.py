"""Rows of the comparison table: members and their combinations, with what was measured of each."""

from dataclasses import dataclass, field

import numpy as np
from transformers import EvalPrediction

from hf_layerfusion.ensembling.batched_metrics import score_of
from hf_layerfusion.ensembling.combiners import Array
from hf_layerfusion.ensembling.ensemble import Ensemble
from hf_layerfusion.ensembling.fitted import worst_if_undefined
from hf_layerfusion.evaluation.metrics import compute_metrics_for
from hf_layerfusion.evaluation.significance import Difference
from hf_layerfusion.evaluation.task_significance import TaskPredictions, bootstrap_tasks
from hf_layerfusion.recipes.ensembles.ensemble_data import SplitTexts

RESAMPLES = 2000
SOUP = "soup"

# Predictions by task and split: those of the members, `[M, N, C]` or `[M, N]`, or of a combination, without M.
Predictions = dict[str, dict[str, Array]]


@dataclass
class ComparisonRow:
    """A row of the comparison table.

    Attributes:
        name: name of the member or combiner.
        kind: `member`, `combiner` or `soup`.
        members: number of members that count, by task.
        predictions: predictions by task and split.
        metrics: metrics by task and split; the key `mean` stands for the mean over all tasks.
        gain: difference to the best member of each task on the reported split; None if not measured.
    """

    name: str
    kind: str
    members: dict[str, int]
    predictions: Predictions
    metrics: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    gain: Difference | None = None


@dataclass
class CombinerComparison:
    """Result of comparing combiners.

    Attributes:
        ensemble: the ensemble with the chosen combiner.
        texts: texts by task and split.
        member_predictions: predictions by task and split, `[M, N, C]` or `[M, N]`.
        main_metrics: the main metric of each task, which is maximized.
        rows: rows of the table, members first.
        chosen: name of the chosen combiner.
        notes: notes on changes to the texts.
    """

    ensemble: Ensemble
    texts: dict[str, dict[str, SplitTexts]]
    member_predictions: Predictions
    main_metrics: dict[str, str]
    rows: list[ComparisonRow]
    chosen: str
    notes: list[str]

    def reported(self, task: str) -> str | None:
        """Return the split that a task is reported on: test if it has labels, else validation; None if neither has."""
        splits = [split for split in ("test", "validation") if split in self.texts[task]]
        return next((split for split in splits if self.texts[task][split].labels is not None), None)

    @property
    def gains_on(self) -> str:
        """Names of the splits that gains are measured on."""
        return " and ".join(sorted({str(self.reported(task)) for task in self.texts}))


def measure(row: ComparisonRow, comparison: CombinerComparison) -> None:
    """Compute the metrics of a row."""
    for task, splits in row.predictions.items():
        kind = comparison.ensemble.tasks[task].problem_type
        for split, predictions in splits.items():
            labels = comparison.texts[task][split].labels
            if labels is not None:
                found = compute_metrics_for(kind)(EvalPrediction(predictions, labels))
                row.metrics.setdefault(task, {})[split] = found
    if len(comparison.main_metrics) > 1:
        for split in ("validation", "test"):
            mean = main_mean(row, comparison, split)
            if np.isfinite(mean):
                row.metrics.setdefault("mean", {})[split] = {"mean": mean}


def main_mean(row: ComparisonRow, comparison: CombinerComparison, split: str) -> float:
    """Return the mean over all tasks of their main metrics; minus infinity if one is missing."""
    values = [
        row.metrics.get(task, {}).get(split, {}).get(main) for task, main in comparison.main_metrics.items()
    ]
    known = [value for value in values if value is not None and np.isfinite(value)]
    return float(np.mean(known)) if len(known) == len(values) else -np.inf


def best_members(comparison: CombinerComparison) -> dict[str, int]:
    """Return the index of each task's best member on the validation data or, without them, on the reported split."""
    best = {}
    for task, splits in comparison.member_predictions.items():
        split = "validation" if "validation" in splits else comparison.reported(task)
        if split is not None:
            kind = comparison.ensemble.tasks[task].problem_type
            _, score = score_of(kind, comparison.main_metrics[task])
            found = score(splits[split], np.asarray(comparison.texts[task][split].labels))
            best[task] = int(worst_if_undefined(found, required=False).argmax())
    return best


def add_gains(comparison: CombinerComparison) -> None:
    """Compare combiners and soup with the best member of each task by accuracy or correlation."""
    best = best_members(comparison)
    if len(best) < len(comparison.texts) or any(comparison.reported(task) is None for task in best):
        return
    baseline = {
        task: _task_predictions(
            comparison, task, comparison.member_predictions[task][str(comparison.reported(task))][member]
        )
        for task, member in best.items()
    }
    for row in comparison.rows:
        if row.kind != "member":
            variant = {
                task: _task_predictions(
                    comparison, task, row.predictions[task][str(comparison.reported(task))]
                )
                for task in best
            }
            row.gain = bootstrap_tasks(baseline, variant, RESAMPLES)


def _task_predictions(comparison: CombinerComparison, task: str, predictions: Array) -> TaskPredictions:
    labels = np.asarray(comparison.texts[task][str(comparison.reported(task))].labels, np.float64)
    is_correlation = comparison.ensemble.tasks[task].is_regression
    predicted = predictions if is_correlation else predictions.argmax(axis=1)
    return TaskPredictions(labels, np.asarray(predicted, np.float64)[None], is_correlation)
