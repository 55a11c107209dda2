"""Tables of ensembles, declared in files. Their members are runs of other tables."""

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
    """Declaration of an ensemble: a row of a table.

    Attributes:
        combiner: a key of `hf_layerfusion.ensembling.registry.COMBINERS`.
        members: runs, as `VARIANT/seed-N`, and names of earlier rows.
        best: number of members with the best mean over tasks on the validation data that are used, or `of_each_task`
            for those that are best on some task; None uses all.
        figure: the figure that the source reports.
    """

    combiner: str
    members: tuple[str, ...]
    best: int | str | None = None
    figure: str = ""


@dataclass(frozen=True)
class EnsembleTable:
    """Declaration of a table of ensembles, which combines run files and trains nothing.

    Attributes:
        name: name on the command line.
        title: title, with the source.
        group: folder of the members' run files.
        rows: declarations by name, ensembles that are members first.
        declared: names of the tables that declare each run `VARIANT/seed-N` of this group.
    """

    name: str
    title: str
    group: str
    rows: dict[str, Combination]
    declared: dict[str, list[str]]

    @classmethod
    def load(cls, name: str) -> "EnsembleTable":
        """Load a table that ships with the package.

        In its file, the `members` of a row are other rows, single runs `VARIANT/seed-N`, or variants. A variant
        stands for all of its runs that a table declares with one of `seeds` (by default any). A row without `members`
        has those of the table.

        Raises:
            UserError: There is no table with this name.
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
        """Return the runs that are members of any row, as `VARIANT/seed-N`."""
        members = [member for row in self.rows.values() for member in row.members]
        return [member for member in dict.fromkeys(members) if member not in self.rows]

    def file(self, results: Path, run: str) -> Path:
        """Return the result file of a run `VARIANT/seed-N`."""
        return results / self.group / f"{run}.json"


def ensemble_table_names() -> list[str]:
    """Return the names of the tables of ensembles that ship with the package."""
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
