"""Tables of runs, declared in files."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from hf_layerfusion.errors import UserError, nearest
from reproduction.further_pretraining import SETTING as FURTHER_PRETRAINING
from reproduction.imported_embeddings import SETTING as EMBEDDINGS

FILE_SETTINGS = ("train_file", "validation_file", "test_file", "unlabelled_file")
PREPARATIONS = (FURTHER_PRETRAINING, EMBEDDINGS)
"""The settings of steps that run before the script. Members of a teacher cannot have them."""
TEACHER_MEMBERS = "teacher_members"
"""The setting with the models that a run's teacher averages: the settings of each, complete in themselves."""


@dataclass(frozen=True)
class TableRun:
    """One run of a table: a variant with a seed and, in a cross-validation, a fold.

    Attributes:
        group: folder that tables with common runs share.
        variant: name of the row.
        seed: seed of the run.
        settings: every argument that differs from the script's default.
        recipe: a key of `run_recipes.RUN_RECIPES`, which has these defaults.
        fold: number of the test fold, from 1; None without folds.
    """

    group: str
    variant: str
    seed: int
    settings: dict[str, Any]
    recipe: str = "tweets"
    fold: int | None = None

    @property
    def name(self) -> str:
        """Name that is unique within a row: `seed-0`, or `seed-0-fold-1`."""
        return f"seed-{self.seed}" + ("" if self.fold is None else f"-fold-{self.fold}")

    def file(self, results: Path) -> Path:
        """Return the result file below the folder `results`."""
        return results / self.group / self.variant / f"{self.name}.json"


@dataclass(frozen=True)
class RunTable:
    """Declaration of a table: variants × seeds, with common settings.

    Attributes:
        name: name on the command line.
        title: title, with the source.
        group: folder of the run files, common to tables that share rows.
        split: reported split.
        metric: metric by which rows are compared.
        baseline: row that the others are tested against; None for no tests.
        data: data arguments; files are relative to the data folder.
        common: settings of every run; with `folds` each run is a cross-validation.
        seeds: seeds of rows without their own.
        variants: rows in order: `settings`, and optionally `seeds`, a `baseline`, the `figure` that the source
            reports, a `recipe` of the row's own, and a `teacher` that the row learns from: `variants` and `seeds`,
            whose models are trained on the row's data and averaged (`run_teachers`).
        recipe: a key of `run_recipes.RUN_RECIPES`, whose defaults apply where nothing is set.
        also: further metrics to report.
        plotted_variant: a row of several tasks; the predictions of its first run are plotted for each task.
        draws: whether each seed draws its own training rows, or else all seeds train on the same ones.
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
    draws: bool = False

    @classmethod
    def load(cls, name: str) -> "RunTable":
        """Load a table that ships with the package.

        Raises:
            UserError: There is no table with this name.
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
        """Return all runs, ordered by seed and fold; `overrides` are settings that override the table's."""
        runs = []
        for variant, row in self.variants.items():
            settings, recipe = self._settings(variant, overrides), row.get("recipe", self.recipe)
            for seed in row.get("seeds", self.seeds):
                drawn = {"split_seed": seed} if self.draws else {}
                run_settings = {**settings, "seed": seed, **drawn}
                if "teacher" in row:
                    self._check_members(variant, row["teacher"]["variants"], settings)
                    run_settings[TEACHER_MEMBERS] = [
                        {**self._settings(member, overrides), "seed": member_seed, **drawn}
                        for member in row["teacher"]["variants"]
                        for member_seed in row["teacher"]["seeds"]
                    ]
                for fold in range(1, settings["folds"] + 1) if "folds" in settings else (None,):
                    runs.append(TableRun(self.group, variant, seed, run_settings, recipe, fold))
        return sorted(runs, key=lambda run: (run.seed, run.fold or 0))

    def _check_members(self, variant: str, members: list[str], settings: Mapping[str, Any]) -> None:
        """Check that the members of a row's teacher are rows that can be trained as they are declared.

        Raises:
            UserError: Names the member; or the row is a cross-validation, whose members would see the test folds.
        """
        if "folds" in settings:
            raise UserError(
                f"{self.name}: {variant}: a row with a teacher has no folds, found {settings['folds']}"
            )
        for member in members:
            if member not in self.variants:
                raise UserError(
                    f"{self.name}: {variant}: a member must be one of the rows, found {member!r}; "
                    f"{nearest(member, self.variants)}"
                )
            row = self.variants[member]
            own: list[str] = [name for name in ("recipe", "teacher") if name in row]
            own += [name for name in PREPARATIONS if name in self._settings(member, None)]
            if own or self.recipe == "multitask":
                raise UserError(
                    f"{self.name}: {variant}: a member must be a row of one task without {', '.join(own) or 'tasks'}, "
                    f"found {member}; name another"
                )

    def _settings(self, variant: str, overrides: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return the settings of a row's runs without their seed."""
        row = self.variants[variant]
        return {**self.data, **self.common, **row.get("settings", {}), **(overrides or {})}


def in_folder(settings: dict[str, Any], data_dir: Path) -> dict[str, Any]:
    """Return the settings with file names resolved in a folder."""
    files = {name: str(data_dir / settings[name]) for name in FILE_SETTINGS if settings.get(name)}
    return {**settings, **files}


def _read(file: str) -> dict[str, Any]:
    text = (_declared() / file).read_text("utf-8")
    content: dict[str, Any] = json.loads(text)
    return content


def _for_each_data_set(
    data_sets: dict[str, dict[str, Any]], variants: dict[str, dict[str, Any]], baseline: str
) -> dict[str, dict[str, Any]]:
    """Return every variant on every data set, as rows `DATA_SET-VARIANT`, tested against the baseline on the same
    data.

    The variants' `figures` are by data set.
    """
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
    """Return the names of the tables that ship with the package."""
    return sorted(
        file.name.removesuffix(".json")
        for file in _declared().iterdir()
        if file.name.endswith(".json") and not file.name.startswith("_")
    )


def _declared() -> Any:
    return resources.files(__package__) / "tables"
