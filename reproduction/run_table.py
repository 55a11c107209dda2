"""Tables of runs, declared in files."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from hf_layerfusion.errors import UserError, nearest


@dataclass(frozen=True)
class TableRun:
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
class RunTable:
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
        plotted_variant: a row of several tasks whose answers, in its first run, are drawn task by task.
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
    plotted_variant: str | None = None

    @classmethod
    def load(cls, name: str) -> "RunTable":
        """Reads a table that ships with the package.

        Raises:
            UserError: if there is none of that name.
        """
        if name not in table_names():
            raise UserError(
                f"--table must be one of {', '.join(table_names())}, found {name!r}; {nearest(name, table_names())}"
            )
        content = _read(f"{name}.json")
        if "extends" in content:
            content = {**_read(content.pop("extends")), **content}
        if "data_sets" in content:
            content["variants"] = _for_each_data_set(
                content.pop("data_sets"), content["variants"], content["baseline"]
            )
        content["also"] = tuple(content.get("also", ()))
        return cls(name=name, **content)

    def runs(self, overrides: Mapping[str, Any] | None = None) -> list[TableRun]:
        """Every run of the table, the first seed of every row before the second; `overrides` are settings that win
        over the table's."""
        runs = []
        for variant, row in self.variants.items():
            settings = {**self.data, **self.common, **row.get("settings", {}), **(overrides or {})}
            for seed in row.get("seeds", self.seeds):
                for fold in range(1, settings["folds"] + 1) if "folds" in settings else (None,):
                    run_settings = {**settings, "seed": seed}
                    runs.append(TableRun(self.group, variant, seed, run_settings, self.recipe, fold))
        return sorted(runs, key=lambda run: (run.seed, run.fold or 0))


def _read(file: str) -> dict[str, Any]:
    text = (_declared() / file).read_text("utf-8")
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
    return sorted(
        file.name.removesuffix(".json")
        for file in _declared().iterdir()
        if file.name.endswith(".json") and not file.name.startswith("_")
    )


def _declared() -> Any:
    return resources.files(__package__) / "tables"
