"""Rendering of finished runs as one HTML page that needs no other file and no network."""

import base64
import functools
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from hf_layerfusion.evaluation.layer_use import LayerUse
from hf_layerfusion.evaluation.plots.layer_plots import plot_layer_use
from hf_layerfusion.evaluation.plots.run_plots import (
    TableRow,
    has_training_curves,
    plot_regression,
    plot_table,
    plot_training_curves,
)
from hf_layerfusion.evaluation.plots.surgery_plots import plot_conflicts
from hf_layerfusion.evaluation.plots.task_plots import plot_task_metrics
from hf_layerfusion.hub.card import format_duration
from hf_layerfusion.metric_registry import METRICS, inline_name, selection_metrics
from hf_layerfusion.recipes.report.recorded_runs import RunRecord, TaskRecord
from hf_layerfusion.recipes.run_comparison import RunDifference
from hf_layerfusion.run_layout import PLOTS, find

MOST_CLASSES = 30
"""Number of classes above which no confusion matrix is shown."""
LONGEST_TEXT = 600
"""Characters of a text that are shown."""
SIGNIFICANT = 0.05

_NOT_COMPARED = (
    "output_dir", "data", "num_rows", "run_name", "hub_", "logging_", "log_", "save_", "report_to", "disable_tqdm",
    "push_to_hub", "local_rank", "dataset_", "project", "trackio_",
)  # fmt: skip


@dataclass(frozen=True)
class Image:
    """A figure of the page.

    Attributes:
        caption: Its caption.
        source: The PNG as a data URI.
    """

    caption: str
    source: str


@dataclass(frozen=True)
class MetricCell:
    """A metric as the page shows it.

    Attributes:
        title: Its name in print.
        value: Its value.
        interval: Its 95 % interval, empty if it is not known.
        deviation: Its standard deviation over seeds or folds, empty for a single run.
    """

    title: str
    value: str
    interval: str
    deviation: str


@dataclass(frozen=True)
class Comparison:
    """Runs compared with the first of them on one task.

    Attributes:
        task: The task, empty for runs of one task.
        measure: Name of the score.
        shows_mean: Whether the mean score is another figure than the main metric.
        rows: Cells of each run.
        verdicts: The finding on each run but the first, in one sentence.
        figure: The differences with their intervals.
    """

    task: str
    measure: str
    shows_mean: bool
    rows: list[dict[str, str]]
    verdicts: list[str]
    figure: Image | None


@dataclass
class RunView:
    """Section of a run on the page: its record, and the figures and texts made of it."""

    record: RunRecord
    facts: list[tuple[str, str]]
    tasks: list[dict[str, Any]]
    curves: list[Image]
    more_curves: list[Image]
    layers: list[tuple[str, Image, LayerUse]]
    layers_note: str
    settings: list[tuple[str, str]]
    notes: list[str] = field(default_factory=list)


def render_report(
    runs: Sequence[RunRecord],
    comparisons: Mapping[str, tuple[str, list[RunDifference]]],
    comparison_note: str,
    version: str,
) -> str:
    """Return the page. The same runs give the same page.

    Args:
        runs: One run or more.
        comparisons: By task, the name of the score and a row for each run; empty for a single run.
        comparison_note: Why there are none, in one line.
        version: Version of the package.
    """
    return _template().render(
        title=f"Report of {runs[0].name}" if len(runs) == 1 else f"Report of {len(runs)} runs",
        views=[_view(run) for run in runs],
        comparisons=[_comparison(task, *found, runs) for task, found in comparisons.items()],
        comparison_note=comparison_note,
        differing=_differing_settings(runs),
        version=version,
        longest=LONGEST_TEXT,
    )


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["shown"] = _shown
    return environment.from_string(
        resources.files(__package__).joinpath("report_template.html").read_text(encoding="utf-8")
    )


def _shown(text: str) -> str:
    """Return a text without what is too long to be read in a table."""
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}…"


def _drawn(caption: str, plot: Callable[..., None], *arguments: Any, **named: Any) -> Image:
    """Return a figure that one of `evaluation.plots` draws; its argument `path` is added."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "figure.png"
        plot(*arguments, path=path, **named)
        return _embedded(caption, path)


def _embedded(caption: str, path: Path) -> Image:
    return Image(caption, f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}")


def _view(run: RunRecord) -> RunView:
    curves = [image for part, history in run.histories.items() for image in _curves(run, part, history)]
    count = len(curves) // max(len(run.histories), 1)
    return RunView(
        record=run,
        facts=_facts(run),
        tasks=[_task_view(run, task) for task in run.tasks],
        curves=curves[:count],
        more_curves=curves[count:],
        layers=[
            (part, _drawn(f"Use of the layers{f' in {part}' if part else ''}.", plot_layer_use, use), use)
            for part, use in run.layer_use.items()
        ],
        layers_note="" if run.layer_use else _why_no_layers(run),
        settings=[(name, _setting(value)) for name, value in sorted(run.settings.items()) if name != "data"],
        notes=_notes(run),
    )


def _notes(run: RunRecord) -> list[str]:
    notes = []
    if run.kind == "ensemble":
        notes.append(
            "An ensemble is not trained: it has no curves, and its members have their own use of layers."
        )
    if run.kind == "prediction":
        notes.append(
            "Predictions of a trained model: curves and the use of layers are with the run that trained it."
        )
    if run.settings.get("hp_search"):
        notes.append("The settings were found by a search before the run.")
    return notes


def _why_no_layers(run: RunRecord) -> str:
    if run.kind in ("ensemble", "prediction"):
        return ""
    if run.has_tasks:
        return "The use of layers is not measured for a model of several tasks."
    if run.settings.get("architecture") == "plain":
        return "A plain model reads the last layer of its encoder alone."
    return "The run measured no use of layers, which needs validation data."


def _facts(run: RunRecord) -> list[tuple[str, str]]:
    """Return what distinguishes a run at a glance: model, size, time."""
    settings, results = run.settings, run.results
    seeds, folds = settings.get("seeds") or [], results.get("folds")
    values: list[tuple[str, Any]] = [
        ("Encoder", settings.get("model_name_or_path")),
        ("Architecture", settings.get("architecture")),
        ("Fusion", settings.get("fusion")),
        ("Pooling", settings.get("pooling")),
        ("Combiner", results.get("combiner")),
        ("Members", ", ".join(settings.get("members") or ())),
        ("Tasks", ", ".join(task.name for task in run.tasks) if run.has_tasks else None),
        (
            "Seeds" if len(seeds) > 1 else "Seed",
            ", ".join(map(str, seeds)) if seeds else settings.get("seed"),
        ),
        ("Folds", folds),
        ("Parameters", _count(results.get("parameters"))),
        ("Training time", _time(results.get("training_seconds"))),
        ("Epochs", _plain(results.get("epochs"))),
    ]
    if not any(
        task.metrics for task in run.tasks
    ):  # a run that is judged by no metric, such as further pretraining
        known = {"parameters", "training_seconds", "epochs", "folds"}
        values += [
            (name.replace("_", " ").capitalize(), f"{value:,.4g}")
            for name, value in results.items()
            if isinstance(value, int | float) and name not in known
        ]
    return [(name, str(value)) for name, value in values if value not in (None, "", [])]


def _mean(value: Any) -> Any:
    return value.get("mean") if isinstance(value, dict) else value


def _plain(value: Any) -> str | None:
    return None if _mean(value) is None else f"{_mean(value):g}"


def _count(value: Any) -> str | None:
    return None if _mean(value) is None else f"{_mean(value):,.0f}"


def _time(value: Any) -> str | None:
    each = " each" if isinstance(value, dict) else ""
    return None if _mean(value) is None else format_duration(_mean(value)) + each


def _curves(run: RunRecord, part: str, history: list[dict[str, Any]]) -> list[Image]:
    images = []
    where = f" of {part}" if part else ""
    if has_training_curves(history):
        metric = "mean" if run.has_tasks else _main_metric(run.tasks[0])
        caption = f"Loss and {inline_name(metric)} by epoch{where}."
        images.append(_drawn(caption, plot_training_curves, history, metric=metric))
    if run.has_tasks:
        keys = {task.name: f"eval_{task.name}_{_main_metric(task)}" for task in run.tasks}
        known = {name: key for name, key in keys.items() if any(key in entry for entry in history)}
        if known:
            images.append(
                _drawn(
                    f"Each task's main metric on its validation texts{where}.",
                    plot_task_metrics,
                    history,
                    known,
                    title="Validation by task and epoch",
                )
            )
    if any(name.startswith("cosine_") for entry in history for name in entry):
        images.append(_drawn(f"Conflicts between the tasks' gradients{where}.", plot_conflicts, history))
    return images


def _main_metric(task: TaskRecord) -> str:
    if task.problem_type is not None:
        return selection_metrics(task.problem_type)[0]
    recorded = task.metrics.get(task.split, {})
    return next((name for name in recorded if METRICS[name].greater_is_better), "loss")


def metric_cells(task: TaskRecord) -> list[MetricCell]:
    """Return the metrics of a task on the split that it is judged on, the main one first.

    Values with an interval are computed from the predictions, all others are those that the run recorded.
    """
    recorded = task.metrics.get(task.split, {})
    main = _main_metric(task)
    names = [*task.intervals, *(name for name in recorded if name not in task.intervals)]
    cells = []
    for name in sorted(names, key=lambda name: name != main):
        interval = task.intervals.get(name)
        value, deviation = recorded.get(name, (math.nan, None))
        if interval is not None:
            value = interval.value
        cells.append(
            MetricCell(
                METRICS[name].title,
                _figure(value),
                "" if interval is None or math.isnan(interval.low) else _ends(interval.low, interval.high),
                "" if deviation is None else _figure(deviation),
            )
        )
    return cells


def _figure(value: float) -> str:
    if not math.isfinite(value):
        return "undefined"
    return _minus(f"{value:.3f}" if abs(value) < 1000 else f"{value:,.0f}")


def _minus(number: str) -> str:
    return number.replace("-", "−")


def _ends(low: float, high: float, sign: str = "") -> str:
    return _minus(f"{low:{sign}.3f} to {high:{sign}.3f}")


def _task_view(run: RunRecord, task: TaskRecord) -> dict[str, Any]:
    found: dict[str, Any] = {
        "record": task,
        "cells": metric_cells(task),
        "count": 0 if task.labels is None else len(task.labels),
        "confusion": None,
        "classes": [],
        "figures": [],
        "mistakes": [],
        "notes": [],
    }
    if task.answers is None or task.labels is None or task.predictions is None:
        found["figures"] = _stored_figures(run, task)
        if run.kind != "ensemble" or run.has_tasks:
            found["notes"].append(f"Answers and truth are not shown: {task.missing}")
        else:
            found["notes"].append(f"Intervals and mistakes are not shown: {task.missing}")
        return found
    names, labels = list(task.answers.schema.names), task.labels
    pooled = np.concatenate(list(task.predictions)), np.concatenate([labels] * len(task.predictions))
    if task.problem_type == "regression":
        mean = task.predictions.mean(axis=0)
        of_seeds = ", mean of the seeds" if len(task.predictions) > 1 else ""
        caption = f"Predicted against true values{of_seeds}."
        found["figures"] = [_drawn(caption, plot_regression, labels, mean)]
    else:
        if task.problem_type == "single_label_classification":
            found["confusion"] = _confusion(pooled[1], pooled[0], names)
            if found["confusion"] is None:
                found["notes"].append(f"With more than {MOST_CLASSES} classes no confusion matrix is shown.")
        found["classes"] = _class_rows(pooled[1], pooled[0], names, len(task.predictions))
    rows = task.answers.rows
    found["mistakes"] = [
        {"texts": [_shown(text) for text in rows[mistake.row][1:]], "true": mistake.true,
         "predicted": mistake.predicted, "severity": f"{mistake.severity:.2f}"}
        for mistake in task.mistakes
    ]  # fmt: skip
    return found


def _stored_figures(run: RunRecord, task: TaskRecord) -> list[Image]:
    """Return the figures of predictions that the run drew itself, of a run whose truth cannot be read again."""
    names = [f"{task.name}.png"] if task.name else ["confusion_matrix.png", "regression.png", "gain.png"]
    paths = [find(run.folder, f"{PLOTS}/{name}") for name in names]
    return [
        _embedded(f"{path.stem.replace('_', ' ').capitalize()}, as the run drew it.", path)
        for path in paths
        if path.is_file()
    ]


def _confusion(labels: Any, predictions: Any, names: Sequence[str]) -> dict[str, Any] | None:
    """Return the counts of true and predicted classes with the percentages of each true class."""
    if len(names) > MOST_CLASSES:
        return None
    counts = confusion_matrix(labels, predictions, labels=range(len(names)))
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    cells = [
        [(f"{count:,}", round(100 * float(share))) for count, share in zip(row, of_row, strict=True)]
        for row, of_row in zip(counts, shares, strict=True)
    ]
    return {"names": list(names), "cells": cells}


def _class_rows(labels: Any, predictions: Any, names: Sequence[str], times: int) -> list[dict[str, str]]:
    """Return precision, recall, F1 and the number of texts of each class or label."""
    precision, recall, f1, count = precision_recall_fscore_support(
        labels, predictions, labels=range(len(names)), zero_division=0
    )
    return [
        {"name": name, "precision": _figure(precision[place]), "recall": _figure(recall[place]),
         "f1": _figure(f1[place]), "count": f"{int(count[place]) // times:,}"}
        for place, name in enumerate(names)
    ]  # fmt: skip


def _comparison(
    task: str, measure: str, rows: Sequence[RunDifference], runs: Sequence[RunRecord]
) -> Comparison:
    cells, verdicts = [], []
    first = rows[0].run
    drawn = [TableRow(first, 0.0, None)]
    for row, run in zip(rows, runs, strict=True):
        record = next(each for each in run.tasks if each.name == task)
        main = metric_cells(record)[0]
        cell = {"run": row.run, "metric": main.value, "interval": main.interval, "title": main.title}
        cell |= {"mean": _figure(row.mean), "difference": "", "ends": "", "p": "", "verdict": ""}
        if (found := row.difference) is not None:
            cell["difference"] = _minus(f"{found.difference:+.3f}")
            cell["ends"] = _ends(found.low, found.high, "+") if math.isfinite(found.low) else found.remark
            cell["p"] = "–" if row.adjusted is None else _p_value(row.adjusted)
            cell["verdict"] = _verdict(row)
            sentence = {"better": "is better than", "worse": "is worse than"}.get(cell["verdict"])
            verdicts.append(
                f"{row.run} {sentence} {first} (p = {cell['p']})."
                if sentence
                else f"No difference between {row.run} and {first} was found (p = {cell['p']})."
            )
            if math.isfinite(found.low):
                error = (found.difference - found.low, found.high - found.difference)
                drawn.append(TableRow(row.run, found.difference, error))
        cells.append(cell)
    figure = None
    if len(drawn) > 1:
        figure = _drawn(
            f"Difference in {measure} from {first}, with 95 % intervals. Right of 0 is better.",
            plot_table,
            drawn,
            xlabel=f"difference in {measure}",
            title=f"Difference from {first}",
        )
    shows_mean = measure != str(cells[0]["title"]).lower()
    return Comparison(task, measure, shows_mean, cells, verdicts, figure)


def _verdict(row: RunDifference) -> str:
    if row.difference is None or row.adjusted is None or row.adjusted >= SIGNIFICANT:
        return "no difference"
    return "better" if row.difference.difference > 0 else "worse"


def _p_value(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else f"{value:.4f}"


def _differing_settings(runs: Sequence[RunRecord]) -> list[tuple[str, list[str]]]:
    """Return the settings that all runs have and in which they differ, with the value of each run."""
    names = set(runs[0].settings).intersection(*(run.settings for run in runs))
    rows = []
    for name in sorted(names):
        values = [_setting(run.settings[name]) for run in runs]
        if len(set(values)) > 1 and not name.startswith(_NOT_COMPARED):
            rows.append((name, values))
    return rows


def _setting(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_setting(each)}" for name, each in value.items()) or "–"
    if isinstance(value, list | tuple):
        return ", ".join(map(_setting, value)) or "–"
    return "–" if value in (None, "") else str(value)
