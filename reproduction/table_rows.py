"""Rows of a table of runs: metrics read from the run files, and significance tests of their differences."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import ttest_rel

from hf_layerfusion.errors import UserError
from hf_layerfusion.evaluation.significance import (
    Difference,
    holm,
    mcnemar,
    mean_sd,
    nadeau_bengio,
    paired_bootstrap,
)
from hf_layerfusion.evaluation.task_significance import TaskPredictions, bootstrap_tasks
from hf_layerfusion.storage import read_object
from reproduction.run_table import RunTable

SIGNIFICANCE_LEVEL = 0.05
FEW_SEEDS = 5
ONE_SEED = "one seed: no verdict"
WITHIN_NOISE = "within noise"


@dataclass
class VariantRow:
    """A row of the report on a table of runs.

    Attributes:
        variant: name of the row.
        values: metric of each run, in the order of seeds and folds.
        listed: metrics that are printed one by one, if there are fewer seeds than `FEW_SEEDS`.
        also: further metrics of each run by name; empty where runs do not have them.
        difference: difference to the baseline in the metric's unit, with a p-value corrected by Holm over the table;
            None for a baseline.
        verdict: why the difference is not conclusive, or why there is no verdict.
        figure: the figure that the source reports.
        parameters: number of the model's parameters.
        seconds: mean training time of the runs that were not interrupted; None if all were.
        memory: mean peak memory in MiB of the runs that measured it; None if none did.
    """

    variant: str
    values: list[float]
    listed: list[float]
    also: dict[str, list[float]]
    difference: Difference | None
    verdict: str
    figure: str
    parameters: int
    seconds: float | None
    memory: float | None


def read_variant_rows(table: RunTable, results: Path) -> list[VariantRow]:
    """Read the finished runs of a table, and test each row against its baseline.

    Folds are compared by Nadeau and Bengio's t-test, other runs by a paired bootstrap over examples on averages over
    seeds; where each seed draws its own training rows, over the seeds that both rows have. If both rows are single
    models of one classification task, the p-value is McNemar's. Seeds are not resampled, as a handful says nothing
    about their distribution; a verdict says where the difference is within their spread.

    Raises:
        UserError: Runs of the table were scored on different examples.
    """
    stored: dict[str, dict[str, dict[str, Any]]] = {}
    for run in table.runs():
        if run.file(results).exists():
            content = read_run_file(run.file(results), "settings", "metrics")
            stored.setdefault(run.variant, {})[run.name] = content
    rows = []
    for variant, runs in stored.items():
        declared = table.variants[variant]
        contents = list(runs.values())
        values = _values(table, contents)
        has_folds = "folds" in contents[0]["settings"]
        difference, verdict = None, ""
        baseline = declared.get("baseline", table.baseline)
        if baseline in stored and variant != baseline:
            others, own = stored[baseline], runs
            if table.draws:  # rows are compared on the training rows that both were trained on
                both = others.keys() & runs.keys()
                others, own = ({name: of[name] for name in of if name in both} for of in (others, runs))
            if own:
                difference = _compare(table, variant, others, own)
            if own and not has_folds:
                verdict_of = _verdict_of_draws if table.draws else _verdict_of_seeds
                by_seed = [others[name] for name in own] if table.draws else others.values()
                verdict = verdict_of(_values(table, by_seed), _values(table, own.values()))
        rows.append(
            VariantRow(
                variant,
                values,
                values if len(values) < FEW_SEEDS and not has_folds else [],
                {metric: _values(table, contents, metric) for metric in table.also},
                difference,
                verdict,
                declared.get("figure", ""),
                contents[0]["parameters"],
                mean_of("training_seconds", contents),
                mean_of("peak_memory_mib", contents),
            )
        )
    tested = [(row, row.difference) for row in rows if row.difference is not None]
    adjusted = holm([difference.p_value for _, difference in tested])
    for (row, difference), p_value in zip(tested, adjusted, strict=True):
        row.difference = replace(difference, p_value=p_value)
        if is_within_noise(row.difference) and row.verdict != ONE_SEED:
            row.verdict = WITHIN_NOISE
        row.verdict = "; ".join(filter(None, [row.verdict, difference.remark]))
    return rows


def is_within_noise(difference: Difference) -> bool:
    """Return whether the difference has a p-value and is not significant."""
    return difference.p_value is not None and difference.p_value >= SIGNIFICANCE_LEVEL


def read_run_file(file: Path, *needed: str) -> dict[str, Any]:
    """Read a run file.

    Args:
        file: the run file.
        needed: keys that it must have.

    Raises:
        UserError: The file is damaged.
    """
    way_out = "delete it and run its table again"
    content = read_object(file, way_out)
    missing = [name for name in needed if name not in content]
    if missing:
        raise UserError(
            f"{file}: must be a run file with {', '.join(needed)}, found no {missing[0]}; {way_out}."
        )
    for metrics in content.get("metrics", {}).values():
        metrics.update(
            {name: math.nan for name, value in metrics.items() if value is None}
        )  # written as null
    return content


def mean_of(name: str, contents: Iterable[dict[str, Any]]) -> float | None:
    """Return the mean of a measurement over the runs that have it; an interrupted run has no training time."""
    known = [content[name] for content in contents if content.get(name) is not None]
    return mean_sd(known)[0] if known else None


def _values(table: RunTable, contents: Iterable[dict[str, Any]], metric: str | None = None) -> list[float]:
    """Return a metric of each run; `SPLIT/METRIC` names a split other than the table's."""
    split, _, name = (metric or table.metric).rpartition("/")
    found = [content["metrics"][split or table.split] for content in contents]
    return [metrics[name] for metrics in found if metric is None or name in metrics]


def _verdict_of_seeds(baseline: list[float], variant: list[float]) -> str:
    """Return a verdict on the spread over seeds, which the bootstrap over examples does not know.

    The difference must exceed twice its standard error over seeds.
    """
    if len(variant) == 1 or len(baseline) == 1:
        return ONE_SEED
    if not np.isfinite([*baseline, *variant]).all():
        return ""
    error = math.sqrt(np.var(baseline, ddof=1) / len(baseline) + np.var(variant, ddof=1) / len(variant))
    return "within the seeds' spread" if abs(np.mean(variant) - np.mean(baseline)) <= 2 * error else ""


def _verdict_of_draws(baseline: list[float], variant: list[float]) -> str:
    """Return a verdict on the spread over draws of training rows: a paired t-test over the draws.

    Args:
        baseline: value of each draw.
        variant: values of the same draws, in the same order.
    """
    if len(variant) == 1:
        return ONE_SEED
    if not np.isfinite([*baseline, *variant]).all():
        return ""
    # Without any difference there is no p-value.
    is_clear = ttest_rel(variant, baseline).pvalue < SIGNIFICANCE_LEVEL
    return "" if is_clear else "within the draws' spread"


def _compare(
    table: RunTable, variant: str, baseline: dict[str, dict[str, Any]], runs: dict[str, dict[str, Any]]
) -> Difference | None:
    folds = next(iter(runs.values()))["settings"].get("folds")
    _check_same_labels(table, variant, baseline, runs)
    if folds is not None:
        both = [name for name in runs if name in baseline]
        differences = [
            runs[name]["metrics"][table.split][table.metric]
            - baseline[name]["metrics"][table.split][table.metric]
            for name in both
        ]
        return nadeau_bengio(differences, 1 / folds) if len(both) == folds else None
    expected, found = correctness(baseline.values()), correctness(runs.values())
    if expected is None or found is None:
        return bootstrap_tasks(task_predictions(baseline.values()), task_predictions(runs.values()))
    difference = paired_bootstrap(expected, found, seed=0)
    if len(expected) == len(found) == 1:
        return replace(difference, p_value=mcnemar(expected[0], found[0]))
    return difference


def _check_same_labels(
    table: RunTable, variant: str, baseline: dict[str, dict[str, Any]], runs: dict[str, dict[str, Any]]
) -> None:
    """Check that the runs of two rows were scored on the same examples, each fold separately.

    Raises:
        UserError: Names the row.
    """
    has_folds = next(iter(runs.values()))["settings"].get("folds") is not None
    first = next(iter(baseline.values()))
    checked = [
        (f"'{variant}', {name},", run, baseline.get(name) if has_folds else first)
        for name, run in runs.items()
    ]
    if not has_folds:
        checked += [(f"the baseline's {name}", run, first) for name, run in baseline.items()]
    for name, run, other in checked:
        if other is None:
            continue
        by_task, of_other = _labels_by_task(run), _labels_by_task(other)
        for task in by_task.keys() & of_other.keys():
            if by_task[task] != of_other[task]:
                counts = len(by_task[task]), len(of_other[task])
                raise UserError(
                    f"{table.name}: {name} was scored on {counts[0]} examples and the baseline on "
                    f"{counts[1]}, which are different ones; delete the older run files and run them again."
                )


def _labels_by_task(run: dict[str, Any]) -> dict[str, list[str]]:
    return {name: text.split() for name, text in _by_task(run.get("labels", {})).items()}


def numbers(text: str) -> list[float]:
    """Return the numbers in a string of a run file."""
    return [float(number) for number in text.split()]


def task_predictions(contents: Iterable[dict[str, Any]]) -> dict[str, TaskPredictions]:
    """Return the predictions of a row's runs, one for each seed, for the examples of each task; the name of a run's
    only task is empty where the settings have none."""
    runs = list(contents)
    settings = runs[0]["settings"]
    tasks = settings.get("tasks", {"": settings})
    predictions = [_by_task(run["predictions"]) for run in runs]
    return {
        task: TaskPredictions(
            np.array(numbers(labels)),
            np.array([numbers(of_run[task]) for of_run in predictions]),
            is_correlation=tasks[task].get("problem_type") == "regression",
        )
        for task, labels in _by_task(runs[0]["labels"]).items()
    }


def correctness(contents: Iterable[dict[str, Any]]) -> np.ndarray | None:
    """Return whether each run predicted each example correctly, `[runs, examples]`; None for several tasks or a
    regression."""
    (predicted, *others) = task_predictions(contents).values()
    return None if others or predicted.is_correlation else (predicted.predictions == predicted.labels) * 1.0


def _by_task(texts: str | dict[str, str]) -> dict[str, str]:
    return texts if isinstance(texts, dict) else {"": texts}
