"""Tables of runs: declared in a file, reported from the files that their runs wrote."""

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from hf_layerfusion.errors import UserError
from hf_layerfusion.evaluation.significance import (
    Difference,
    TaskAnswers,
    bootstrap_tasks,
    format_mean_sd,
    holm,
    mean_sd,
    nadeau_bengio,
    paired_bootstrap,
)
from hf_layerfusion.hub.markdown import markdown_table

SIGNIFICANCE_LEVEL = 0.05
ONE_SEED = "one seed: no verdict"
SOURCE_COLUMN = "source: other data, other encoder"


@dataclass(frozen=True)
class Run:
    """One training of a table: a variant with a seed and, in a cross-validation, a fold.

    Attributes:
        group: folder that tables with common runs share.
        variant: name of the row.
        seed: the run's seed.
        settings: every argument that differs from the script's default.
        recipe: whose defaults these are: a name of `runner.RECIPES`.
        fold: number of the fold that is tested on, from 1; `None` without folds.
    """

    group: str
    variant: str
    seed: int
    settings: dict[str, Any]
    recipe: str = "tweets"
    fold: int | None = None

    @property
    def name(self) -> str:
        """What tells the runs of a row apart, and a file or folder by: `seed-0`, or `seed-0-fold-1`."""
        return f"seed-{self.seed}" + ("" if self.fold is None else f"-fold-{self.fold}")

    def file(self, results: Path) -> Path:
        """Where the run's result stands below the folder `results`."""
        return results / self.group / self.variant / f"{self.name}.json"


@dataclass(frozen=True)
class Table:
    """A declarative table: variants × seeds, with what they have in common.

    Attributes:
        name: its name on the command line.
        title: what it shows, with its source.
        group: folder of the run files, common to tables that share rows.
        split: split that is reported.
        metric: the split's metric that rows are compared by.
        baseline: the row that the others are tested against, `None` for tables without tests.
        data: the data arguments; files are relative to the data folder.
        common: settings of every run; `folds` among them makes each run a cross-validation.
        seeds: seeds of a row that says none of its own.
        variants: rows in order: `settings`, and optionally `seeds`, a `baseline` of its own and the source's printed
            `figure`.
        recipe: whose defaults the settings differ from: a name of `runner.RECIPES`.
        also: further metrics to print.
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
    recipe: str = "tweets"
    also: tuple[str, ...] = ()

    @classmethod
    def load(cls, name: str) -> "Table":
        """Reads a table that ships with the package.

        Raises:
            UserError: if there is none of that name.
        """
        if name not in table_names():
            raise UserError(f"--table must be one of {', '.join(table_names())}, found {name!r}.")
        content = _read(f"{name}.json")
        if "extends" in content:
            content = {**_read(content.pop("extends")), **content}
        if "data_sets" in content:
            content["variants"] = _for_each_data_set(
                content.pop("data_sets"), content["variants"], content["baseline"]
            )
        content["also"] = tuple(content.get("also", ()))
        return cls(name=name, **content)

    def runs(self, overrides: Mapping[str, Any] | None = None) -> list[Run]:
        """Every run of the table, the first seed of every row before the second; `overrides` are settings that win
        over the table's."""
        runs = []
        for variant, row in self.variants.items():
            settings = {**self.data, **self.common, **row.get("settings", {}), **(overrides or {})}
            for seed in row.get("seeds", self.seeds):
                for fold in range(1, settings["folds"] + 1) if "folds" in settings else (None,):
                    run_settings = {**settings, "seed": seed}
                    runs.append(Run(self.group, variant, seed, run_settings, self.recipe, fold))
        return sorted(runs, key=lambda run: (run.seed, run.fold or 0))


def _read(file: str) -> dict[str, Any]:
    text = (resources.files("hf_layerfusion.experiments") / "tables" / file).read_text("utf-8")
    content: dict[str, Any] = json.loads(text)
    return content


def _for_each_data_set(
    data_sets: dict[str, dict[str, Any]], variants: dict[str, dict[str, Any]], baseline: str
) -> dict[str, dict[str, Any]]:
    """Every variant on every data set, as rows `DATA_SET-VARIANT`, tested against the baseline on the same data. The
    variants' `figures` are by data set."""
    return {
        f"{data_set}-{name}": {
            **{key: value for key, value in row.items() if key != "figures"},
            "settings": {**files, **row.get("settings", {})},
            "figure": row.get("figures", {}).get(data_set, ""),
            "baseline": f"{data_set}-{baseline}",
        }
        for data_set, files in data_sets.items()
        for name, row in variants.items()
    }


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
        also: the further metrics of each run, by name.
        difference: to the baseline, in the metric's unit, its p-value corrected by Holm over the table; `None` for a
            baseline.
        verdict: what the difference does not show, where it does not.
        figure: what the source prints.
        parameters: of the model.
        seconds: mean training time.
    """

    variant: str
    values: list[float]
    also: dict[str, list[float]]
    difference: Difference | None
    verdict: str
    figure: str
    parameters: int
    seconds: float


def read_rows(table: Table, results: Path) -> list[Row]:
    """Reads the runs of a table that have finished, and tests each row against its baseline: over folds by Nadeau and
    Bengio's t-test, else by a paired bootstrap over examples on seed averages.

    Raises:
        UserError: if runs of one table were scored on other examples.
    """
    stored: dict[str, dict[str, dict[str, Any]]] = {}
    for run in table.runs():
        if run.file(results).exists():
            content = json.loads(run.file(results).read_text(encoding="utf-8"))
            stored.setdefault(run.variant, {})[run.name] = content
    rows = []
    for variant, runs in stored.items():
        declared = table.variants[variant]
        contents = list(runs.values())
        values = _values(table, contents)
        difference, verdict = None, ""
        baseline = declared.get("baseline", table.baseline)
        if baseline in stored and variant != baseline:
            difference = _compare(table, variant, stored[baseline], runs)
            if "folds" not in contents[0]["settings"]:
                verdict = _verdict_of_seeds(_values(table, stored[baseline].values()), values)
        rows.append(
            Row(
                variant,
                values,
                {metric: _values(table, contents, metric) for metric in table.also},
                difference,
                verdict,
                declared.get("figure", ""),
                contents[0]["parameters"],
                mean_sd([content["training_seconds"] for content in contents])[0],
            )
        )
    tested = [(row, row.difference) for row in rows if row.difference is not None]
    adjusted = holm([difference.p_value for _, difference in tested])
    for (row, difference), p_value in zip(tested, adjusted, strict=True):
        row.difference = replace(difference, p_value=p_value)
        if p_value >= SIGNIFICANCE_LEVEL and row.verdict != ONE_SEED:
            row.verdict = "within noise"
    return rows


def _values(table: Table, contents: Iterable[dict[str, Any]], metric: str | None = None) -> list[float]:
    """A metric of each run; `SPLIT/METRIC` is that of another split than the table's."""
    split, _, name = (metric or table.metric).rpartition("/")
    return [content["metrics"][split or table.split][name] for content in contents]


def _verdict_of_seeds(baseline: list[float], variant: list[float]) -> str:
    """What a difference does not show because of its seeds, which the bootstrap over examples knows nothing of: it must
    be more than twice its standard error over seeds."""
    if len(variant) == 1 or len(baseline) == 1:
        return ONE_SEED
    error = math.sqrt(np.var(baseline, ddof=1) / len(baseline) + np.var(variant, ddof=1) / len(variant))
    return "within the seeds' spread" if abs(np.mean(variant) - np.mean(baseline)) <= 2 * error else ""


def _compare(
    table: Table, variant: str, baseline: dict[str, dict[str, Any]], runs: dict[str, dict[str, Any]]
) -> Difference | None:
    folds = next(iter(runs.values()))["settings"].get("folds")
    if folds is not None:
        both = [name for name in runs if name in baseline]
        differences = [
            runs[name]["metrics"][table.split][table.metric]
            - baseline[name]["metrics"][table.split][table.metric]
            for name in both
        ]
        return nadeau_bengio(differences, 1 / folds) if len(both) == folds else None
    if "tasks" in next(iter(runs.values()))["settings"]:
        return bootstrap_tasks(task_answers(baseline.values()), task_answers(runs.values()))
    expected, found = correctness(baseline.values()), correctness(runs.values())
    if expected.shape[1] != found.shape[1]:
        raise UserError(
            f"{table.name}: '{variant}' was scored on {found.shape[1]} examples, the baseline on "
            f"{expected.shape[1]}; delete the older run files and run them again."
        )
    return paired_bootstrap(expected, found, seed=0)


def task_answers(contents: Iterable[dict[str, Any]]) -> dict[str, TaskAnswers]:
    """What the runs of a row, one a seed, answered to the examples of each task."""
    runs = list(contents)

    def numbers(text: str) -> list[float]:
        return [float(number) for number in text.split()]

    return {
        task: TaskAnswers(
            np.array(numbers(labels)),
            np.array([numbers(run["predictions"][task]) for run in runs]),
            is_correlation=runs[0]["settings"]["tasks"][task].get("problem_type") == "regression",
        )
        for task, labels in runs[0]["labels"].items()
    }


def correctness(contents: Iterable[dict[str, Any]]) -> np.ndarray:
    """Whether each run got each example of the reported split right, `[runs, examples]`."""
    return np.array(
        [np.equal(content["predictions"].split(), content["labels"].split()) for content in contents], float
    )


def header(table: Table) -> list[str]:
    """The names of the report's columns."""
    names = [metric.replace("/", ", ").replace("_", " ") for metric in (table.metric, *table.also)]
    measured = [f"{name}, mean (sd)" for name in names]
    return [
        "variant", *measured, "runs", "difference [95 %]", "p (Holm)", "", "parameters", "seconds a run",
        SOURCE_COLUMN,
    ]  # fmt: skip


def report_cells(rows: list[Row]) -> list[list[str]]:
    """The report's cells, a list a row, in the order of `header`."""
    cells = []
    for row in rows:
        difference = p_value = ""
        if row.difference is not None:
            ends = (row.difference.difference, row.difference.low, row.difference.high)
            difference = "{:+.2f} [{:+.2f}, {:+.2f}]".format(*(100 * value for value in ends))
            p_value = f"{row.difference.p_value:.3f}"
        cells.append(
            [
                row.variant,
                format_mean_sd(row.values),
                *(format_mean_sd(values) for values in row.also.values()),
                str(len(row.values)),
                difference,
                p_value,
                row.verdict,
                f"{row.parameters:,}",
                f"{row.seconds:.0f}",
                row.figure,
            ]
        )
    return cells


def format_markdown(table: Table, rows: list[Row]) -> str:
    """The report as a markdown table."""
    return str(markdown_table(header(table), report_cells(rows)))


def format_csv(table: Table, rows: list[Row]) -> str:
    """The report as csv (RFC 4180)."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([header(table), *report_cells(rows)])
    return buffer.getvalue()
