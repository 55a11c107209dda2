"""Named configurations, declared in a file: those whose card stands in `model_cards/`, and those to be published."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from hf_layerfusion.errors import UserError, nearest
from reproduction.run_table import RunTable, TableRun


@dataclass(frozen=True)
class Release:
    """A configuration by name.

    Attributes:
        name: of the model, its card and its repository.
        recipe: whose defaults the settings differ from: a name of `recipes.RECIPES`.
        settings: arguments, what the card says of the data among them; of several tasks as in a table.
        title: of the data, where they have no name on the Hub.
        labels: names of the classes in the order of their numbers, by task; of one task by the empty name.
        runs: what its card's figures are of.
    """

    name: str
    recipe: str
    settings: dict[str, Any]
    title: str = ""
    labels: Mapping[str, list[str]] | None = None
    runs: tuple[TableRun, ...] = ()


def measured_releases() -> dict[str, Release]:
    """The configurations whose figures stand in the run files of a table, by name."""
    content = _content()
    releases = {}
    for name, entry in content["measured"].items():
        table = RunTable.load(entry["table"])
        runs = tuple(run for run in table.runs() if run.variant == entry["variant"])
        about = dict(content["data"][entry["data"]])
        title, labels = about.pop("title"), about.pop("labels")
        settings = {key: value for key, value in runs[0].settings.items() if key != "seed"} | about
        by_task = labels if isinstance(labels, dict) else {"": labels}
        releases[name] = Release(name, table.recipe, settings, title, by_task, runs)
    return releases


def public_releases(encoders: Mapping[str, str] | None = None) -> dict[str, Release]:
    """The configurations to be trained on public data and published, each on every encoder, by name.

    Args:
        encoders: Hub ids or folders, by what they are called in the releases' names; by default those of the file.
    """
    content = _content()
    releases = {}
    for model, entry in content["public"].items():
        for encoder, path in (encoders or content["encoders"]).items():
            name = f"{model}-{encoder}"
            settings = {**content["data"][entry["data"]], **entry["settings"], "model_name_or_path": path}
            releases[name] = Release(name, entry["recipe"], settings)
    return releases


def choose_releases(releases: Mapping[str, Release], names: list[str] | None) -> list[Release]:
    """The releases of these names, or all.

    Raises:
        UserError: a name that is none.
    """
    for name in names or ():
        if name not in releases:
            raise UserError(
                f"--releases must be of {', '.join(releases)}, found {name!r}; {nearest(name, releases)}"
            )
    return [releases[name] for name in names or releases]


def _content() -> dict[str, Any]:
    file = resources.files(__package__) / "releases.json"
    content: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return content
