"""Tables of runs: declared in a file, reported from the files that their runs wrote."""

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from hf_layerfusion.errors import UserError
from hf_layerfusion.evaluation.significance import format_mean_sd, holm, mean_sd, paired_bootstrap
from hf_layerfusion.hub.markdown import markdown_table

SIGNIFICANCE_LEVEL = 0.05
SOURCE_COLUMN = "source: other data, other encoder"


@dataclass(frozen=True)
class Run:
    """One cell of a table: a variant trained with a seed.

    Attributes:
        group: folder that tables with common runs share.
        variant: name of the row.
        seed: the run's seed.
        settings: every argument that differs from the script's default.
    """

    group: str
    variant: str
    seed: int
    settings: dict[str, Any]

    def file(self, results: Path) -> Path:
        """Where the run's result stands below the folder `results`."""
        return results / self.group / self.variant / f"seed-{self.seed}.json"


@dataclass(frozen=True)
class Table:
    """A declarative table: variants × seeds, with what they have in common.

    Attributes:
        name: its name on the command line.
        title: what it shows, with its source.
        group: folder of the run files, common to tables that share rows.
        split: split that is reported.
        metric: the split's metric.
        baseline: the row that the others are tested against, `None` for tables without tests.
        data: the data arguments; files are relative to the data folder.
        common: settings of every run.
        seeds: seeds of a row that says none of its own.
        variants: rows in order: `settings`, and optionally `seeds` and the source's printed `figure`.
    """

    name: str
    title: str
    group: str
    split: str
    metric: str
    baseline: str | None
    data: dict[str, Any]
    common: dict[str, Any]
    seeds: list[int]
    variants: dict[str, dict[str, Any]]

    @classmethod
    def load(cls, name: str) -> "Table":
        """Reads a table that ships with the package.

        Raises:
            UserError: if there is none of that name.
        """
        if name not in table_names():
            raise UserError(f"--table must be one of {', '.join(table_names())}, found {name!r}.")
        text = (resources.files("hf_layerfusion.experiments") / "tables" / f"{name}.json").read_text("utf-8")
        content = json.loads(text)
        if "extends" in content:
            base = json.loads(
                (resources.files("hf_layerfusion.experiments") / "tables" / content.pop("extends")).read_text(
                    "utf-8"
                )
            )
            content = {**base, **content}
        return cls(name=name, **content)

    def runs(self, overrides: Mapping[str, Any] | None = None) -> list[Run]:
        """Every run of the table, the first seed of every row before the second; `overrides` are settings that win
        over the table's."""
        runs = [
            Run(
                self.group,
                variant,
                seed,
                {**self.data, **self.common, **row.get("settings", {}), **(overrides or {}), "seed": seed},
            )
            for variant, row in self.variants.items()
            for seed in row.get("seeds", self.seeds)
        ]
        return sorted(runs, key=lambda run: run.seed)


def table_names() -> list[str]:
    """Names of the tables that ship with the package."""
    folder = resources.files("hf_layerfusion.experiments") / "tables"
    return sorted(
        file.name.removesuffix(".json")
        for file in folder.iterdir()
        if file.name.endswith(".json") and not file.name.startswith("_")
    )


@dataclass
class Row:
    """A row of a report.

    Attributes:
        variant: its name.
        values: the metric of each run.
        difference: to the baseline, with its 95 % interval; `None` for the baseline itself.
        p_value: two-sided, corrected by Holm over the table.
        figure: what the source prints.
        parameters: of the model.
        seconds: mean training time.
    """

    variant: str
    values: list[float]
    difference: tuple[float, float, float] | None
    p_value: float | None
    figure: str
    parameters: int
    seconds: float


def read_rows(table: Table, results: Path) -> list[Row]:
    """Reads the runs of a table that have finished, and tests each row against the baseline: a paired bootstrap over
    examples on seed averages.

    Raises:
        UserError: if runs of one table were scored on other examples.
    """
    stored: dict[str, list[dict[str, Any]]] = {}
    for run in table.runs():
        if run.file(results).exists():
            stored.setdefault(run.variant, []).append(
                json.loads(run.file(results).read_text(encoding="utf-8"))
            )
    rows = []
    for variant, contents in stored.items():
        difference, p_value = None, None
        if table.baseline in stored and variant != table.baseline:
            baseline, scores = correctness(stored[table.baseline]), correctness(contents)
            if baseline.shape[1] != scores.shape[1]:
                raise UserError(
                    f"{table.name}: '{variant}' was scored on {scores.shape[1]} examples, the baseline on "
                    f"{baseline.shape[1]}; delete the older run files and run them again."
                )
            test = paired_bootstrap(baseline, scores, seed=0)
            difference, p_value = (test.difference, test.low, test.high), test.p_value
        rows.append(
            Row(
                variant,
                [content["metrics"][table.split][table.metric] for content in contents],
                difference,
                p_value,
                table.variants[variant].get("figure", ""),
                contents[0]["parameters"],
                mean_sd([content["training_seconds"] for content in contents])[0],
            )
        )
    tested = [row for row in rows if row.p_value is not None]
    for row, adjusted in zip(
        tested, holm([row.p_value for row in tested if row.p_value is not None]), strict=True
    ):
        row.p_value = adjusted
    return rows


def correctness(contents: list[dict[str, Any]]) -> np.ndarray:
    """Whether each run got each example of the reported split right, `[runs, examples]`."""
    return np.array(
        [np.equal(content["predictions"].split(), content["labels"].split()) for content in contents], float
    )


HEADER = (
    "variant", "accuracy, mean (sd)", "runs", "difference [95 %]", "p (Holm)", "", "parameters", "seconds a run",
    SOURCE_COLUMN,
)  # fmt: skip


def report_cells(rows: list[Row]) -> list[list[str]]:
    """The report's cells, a list a row, in the order of `HEADER`."""
    cells = []
    for row in rows:
        difference = p_value = verdict = ""
        if row.difference is not None and row.p_value is not None:
            difference = "{:+.2f} [{:+.2f}, {:+.2f}]".format(*(100 * value for value in row.difference))
            p_value = f"{row.p_value:.3f}"
            if len(row.values) == 1:
                verdict = "one seed: no verdict"
            elif row.p_value >= SIGNIFICANCE_LEVEL:
                verdict = "within noise"
        cells.append(
            [
                row.variant,
                format_mean_sd(row.values),
                str(len(row.values)),
                difference,
                p_value,
                verdict,
                f"{row.parameters:,}",
                f"{row.seconds:.0f}",
                row.figure,
            ]
        )
    return cells


def format_markdown(rows: list[Row]) -> str:
    """The report as a markdown table."""
    return str(markdown_table(HEADER, report_cells(rows)))


def format_csv(rows: list[Row]) -> str:
    """The report as csv (RFC 4180)."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([HEADER, *report_cells(rows)])
    return buffer.getvalue()
