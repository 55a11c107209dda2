"""Reports of tables of runs: text in three formats, and a plot with error bars."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from hf_layerfusion.evaluation.plots.run_plots import TableRow, plot_table
from hf_layerfusion.evaluation.plots.task_plots import plot_task_predictions
from hf_layerfusion.evaluation.significance import Difference, format_mean_sd, mean_sd
from hf_layerfusion.storage import writable, write_text
from reproduction.run_table import RunTable
from reproduction.table_formats import results_frame, to_csv, to_latex, to_markdown
from reproduction.table_rows import VariantRow, read_run_file, read_variant_rows

UNDEFINED = "undefined"
SOURCE_COLUMN = "source: other data, other encoder"


class Report(NamedTuple):
    """Report of a table.

    Attributes:
        title: title of the table.
        table: its rows and columns, as text.
        bars: bars of the plot.
        axis: label of the plot's axis.
        notes: notes below the Markdown table, one line each.
    """

    title: str
    table: pd.DataFrame
    bars: list[TableRow]
    axis: str
    notes: list[str]

    def markdown(self) -> str:
        """Return the table as Markdown, with its notes as a list."""
        notes = "".join(f"- {note}\n" for note in self.notes)
        return to_markdown(self.table) + (f"\n{notes}" if notes else "")

    def texts(self, name: str) -> dict[str, str]:
        """Return the content of the report's text files by name."""
        return {
            f"{name}.md": self.markdown(),
            f"{name}.csv": to_csv(self.table),
            f"{name}.tex": to_latex(self.table, self.title, f"tab:{name}"),
        }

    def write(self, results: Path, name: str) -> None:
        """Write the text files and, if there are bars, the plot `NAME.png` into `results`."""
        with writable(f"--results {results}"):
            for file, text in self.texts(name).items():
                write_text(results / file, text)
            if self.bars:
                plot_table(self.bars, results / f"{name}.png", self.axis, self.title)


def report_of_runs(table: RunTable, results: Path) -> Report | None:
    """Return the report of a table's finished runs, None without any.

    Raises:
        UserError: As `read_variant_rows`.
    """
    rows = read_variant_rows(table, results)
    if not rows:
        return None
    bars = [TableRow(row.variant, *mean_sd(row.values)) for row in rows if np.isfinite(row.values).all()]
    axis = f"{table.metric} on {table.split}: mean, and sd over runs to each side"
    return Report(table.title, frame_of_runs(table, rows), bars, axis, [])


def plot_predictions(table: RunTable, results: Path) -> None:
    """Plot the predictions of the first finished run of `plotted_variant` for each task.

    The plots are `TABLE-TASK.png` and `TABLE-TASK_distributions.png` in `results`.
    """
    files = [run.file(results) for run in table.runs() if run.variant == table.plotted_variant]
    finished = [file for file in files if file.exists()]
    if not finished:
        return
    content = read_run_file(finished[0], "metrics", "labels", "predictions")
    for task, stored in content["labels"].items():
        labels, predictions = (
            np.array(text.split(), float) for text in (stored, content["predictions"][task])
        )
        names = None
        if f"{task}_accuracy" in content["metrics"][table.split]:
            labels, predictions = labels.astype(int), predictions.astype(int)
            names = [str(label) for label in range(max(labels.max(), predictions.max()) + 1)]
        title = f"{task}, {finished[0].parent.name}: {len(labels):,} texts"
        plot_task_predictions(labels, predictions, results, f"{table.name}-{task}", title, names)


def frame_of_runs(table: RunTable, rows: list[VariantRow]) -> pd.DataFrame:
    """Return the report's table with a row for each of `rows`."""
    names = [metric.replace("/", ", ").replace("_", " ") for metric in (table.metric, *table.also)]
    header = [
        "variant", *(f"{name}, mean (sd)" for name in names), "runs", "each seed", "difference [95 %]", "p (Holm)", "",
        "parameters", "seconds a run", "peak MiB", SOURCE_COLUMN,
    ]  # fmt: skip
    cells = [
        [
            row.variant,
            format_mean_sd(row.values),
            *(format_mean_sd(values) if values else "" for values in row.also.values()),
            str(len(row.values)),
            ", ".join(map(format_value, row.listed)) if len(row.listed) > 1 else "",
            format_difference(row.difference),
            format_p_value(row.difference),
            row.verdict,
            f"{row.parameters:,}",
            "" if row.seconds is None else f"{row.seconds:.0f}",
            "" if row.memory is None else f"{row.memory:,.0f}",
            row.figure,
        ]
        for row in rows
    ]
    return results_frame(header, cells)


def format_value(value: float) -> str:
    """Format a metric in hundredths, such as `86.52`; `undefined` where it is, as the correlation of constant
    predictions."""
    return f"{100 * value:.2f}" if np.isfinite(value) else UNDEFINED


def format_p_value(difference: Difference | None) -> str:
    """Format the p-value of a difference, such as `0.012`; empty without one."""
    if difference is None or difference.p_value is None:
        return ""
    return "< 0.001" if difference.p_value < 0.0005 else f"{difference.p_value:.3f}"


def format_difference(difference: Difference | None) -> str:
    """Format a difference with its interval in hundredths, such as `+0.72 [-0.04, +1.48]`; empty without one."""
    if difference is None:
        return ""
    ends = (difference.difference, difference.low, difference.high)
    if not np.isfinite(ends[0]):
        return UNDEFINED
    if not np.isfinite(ends).all():
        return f"{100 * ends[0]:+.2f}"
    return "{:+.2f} [{:+.2f}, {:+.2f}]".format(*(100 * value for value in ends))
