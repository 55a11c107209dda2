"""Tables of ensembles, declared in files: their members are runs that tables of runs have made."""

import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from hf_layerfusion.errors import UserError, nearest
from reproduction.run_table import RunTable, table_names

BEST_OF_EACH_TASK = "of_each_task"


@dataclass(frozen=True)
class Combination:
    """A row of a table of ensembles.

    Attributes:
        combiner: a name of `ensembling.table.COMBINERS`.
        members: runs, as `VARIANT/seed-N`, and other rows of the table, by name.
        best: which of them take part, by the validation data: so many with the best mean over tasks, or those that are
            the best of some task (`of_each_task`); `None` for all.
        figure: what the source prints.
    """

    combiner: str
    members: tuple[str, ...]
    best: int | str | None = None
    figure: str = ""


@dataclass(frozen=True)
class EnsembleTable:
    """A declarative table of ensembles. It trains nothing: a member is what a run file holds.

    Attributes:
        name: its name on the command line.
        title: what it shows, with its source.
        group: folder of the members' run files.
        rows: the ensembles by name, in an order in which members that are ensembles come first.
        declared: the runs that tables of runs declare in this group, `VARIANT/seed-N`, each with those tables.
    """

    name: str
    title: str
    group: str
    rows: dict[str, Combination]
    declared: dict[str, list[str]]

    @classmethod
    def load(cls, name: str) -> "EnsembleTable":
        """Reads a table that ships with the package.

        In its file the `members` of a row are other rows, single runs `VARIANT/seed-N`, or variants, which stand for
        every run of theirs that a table declares with one of `seeds` (by default any); a row that names none has the
        `members` of the table.

        Raises:
            UserError: if there is none of that name.
        """
        if name not in ensemble_table_names():
            raise UserError(
                f"--table must be one of {', '.join(ensemble_table_names())}, found {name!r}; "
                f"{nearest(name, ensemble_table_names())}"
            )
        content: dict[str, Any] = json.loads((_folder() / f"{name}.json").read_text("utf-8"))
        declared = _declared(content["group"], content.get("seeds"))
        rows: dict[str, Combination] = {}
        for row, entry in content["ensembles"].items():
            runs: list[str] = []
            for member in entry.pop("members", content.get("members", [])):
                single = member in rows or "/" in member
                runs += [member] if single else [run for run in declared if run.startswith(f"{member}/")]
            rows[row] = Combination(members=tuple(runs), **entry)
        return cls(name, content["title"], content["group"], rows, declared)

    def runs(self) -> list[str]:
        """The runs that any row has as members, `VARIANT/seed-N`."""
        members = [member for row in self.rows.values() for member in row.members]
        return [member for member in dict.fromkeys(members) if member not in self.rows]

    def file(self, results: Path, run: str) -> Path:
        """The result file of a run `VARIANT/seed-N`."""
        return results / self.group / f"{run}.json"


def ensemble_table_names() -> list[str]:
    """Names of the tables of ensembles that ship with the package."""
    return sorted(file.name.removesuffix(".json") for file in _folder().iterdir())


def _declared(group: str, seeds: list[int] | None) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in table_names():
        table = RunTable.load(name)
        if table.group == group:
            for run in table.runs():
                if seeds is None or run.seed in seeds:
                    found.setdefault(f"{run.variant}/{run.name}", []).append(name)
    return found


def _folder() -> Any:
    return resources.files(__package__) / "ensemble_tables"
