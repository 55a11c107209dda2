"""Reports of tables of ensembles."""

from pathlib import Path

import numpy as np
import pandas as pd

from hf_layerfusion.evaluation.plots.run_plots import TableRow
from hf_layerfusion.evaluation.significance import Difference
from reproduction.ensemble_table import EnsembleTable
from reproduction.ensemble_table_rows import EnsembleRow, combine_members
from reproduction.recorded_members import (
    ONE_TASK,
    TEST,
    VALIDATION,
    RecordedMembers,
    read_members,
)
from reproduction.table_formats import results_frame
from reproduction.table_report import (
    SOURCE_COLUMN,
    Report,
    format_difference,
    format_p_value,
    format_value,
)
from reproduction.table_rows import WITHIN_NOISE, is_within_noise


def report_of_ensembles(table: EnsembleTable, results: Path) -> Report | None:
    """Return the report of a table of ensembles over the members that have run, None if none has.

    Raises:
        UserError: As `read_members` and `combine_members`.
    """
    members = read_members(table, results)
    rows = combine_members(table, members)
    if not rows:
        return None
    gains = [(row.name, row.gain) for row in rows if row.gain is not None]
    bars = [_bar(name, gain) for name, gain in gains if np.isfinite([gain.low, gain.high]).all()]
    axis = "gain over the best member, in points, and its 95 % interval"
    return Report(table.title, frame_of_ensembles(rows), bars, axis, _notes(rows, members))


def frame_of_ensembles(rows: list[EnsembleRow]) -> pd.DataFrame:
    """Return the report's table with a row for each of `rows`."""
    columns = [
        *[(VALIDATION, name) for name in list(rows[0].metrics.get(VALIDATION, ()))[:1]],
        *[(TEST, name) for name in rows[0].metrics[TEST]],
    ]
    header = [
        "ensemble", "combiner", "members", "missing",
        *(f"{split}, {'accuracy' if name == ONE_TASK else name}" for split, name in columns),
        "gain over the best member [95 %]", "p (Holm)", "", "gain over the mean member [95 %]",
        "disagreement", "correlation of errors", SOURCE_COLUMN,
    ]  # fmt: skip
    cells = [
        [
            row.name,
            row.combiner.replace("_", " "),
            _range(list(row.counts.values())),
            str(row.missing or ""),
            *(format_value(row.metrics[split][name]) for split, name in columns),
            format_difference(row.gain),
            format_p_value(row.gain),
            _verdict(row.gain),
            format_difference(row.gain_over_mean),
            _figure(row.disagreement),
            _figure(row.error_correlation),
            row.figure,
        ]
        for row in rows
    ]
    return results_frame(header, cells)


def _verdict(gain: Difference | None) -> str:
    if gain is None:
        return ""
    return "; ".join(filter(None, [WITHIN_NOISE if is_within_noise(gain) else "", gain.remark]))


def _bar(name: str, gain: Difference) -> TableRow:
    reach = (gain.difference - gain.low, gain.high - gain.difference)
    return TableRow(name, 100 * gain.difference, (100 * reach[0], 100 * reach[1]))


def _range(counts: list[int]) -> str:
    """Return `7`, or `3 to 7` where tasks differ."""
    return " to ".join(map(str, sorted({min(counts), max(counts)}))) if counts else ""


def _figure(value: float) -> str:
    return f"{value:.2f}" if np.isfinite(value) else ""


def _notes(rows: list[EnsembleRow], members: RecordedMembers) -> list[str]:
    """Return notes on selected and missing members."""
    notes = [
        f"{row.name}: " + "; ".join(f"{task}: {', '.join(used)}" for task, used in row.used.items()) + "."
        for row in rows
        if row.used
    ]
    if members.missing:
        notes.append(f"Missing members: {', '.join(members.missing)}.")
    return notes
