"""Releases: named configurations declared in a file, with a card in `model_cards/` or to be published."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from hf_layerfusion.errors import UserError, nearest
from reproduction.run_table import RunTable, TableRun


@dataclass(frozen=True)
class Release:
    """A named configuration.

    Attributes:
        name: name of the model, its card and its repository.
        recipe: a key of `run_recipes.RUN_RECIPES`, whose defaults apply where `settings` sets nothing.
        settings: arguments, including the card's facts on the data; for several tasks as in a table.
        title: name of the data, if they are not on the Hub.
        labels: names of the classes in numeric order, by task; for one task under the empty name.
        runs: runs that the card's figures come from.
    """

    name: str
    recipe: str
    settings: dict[str, Any]
    title: str = ""
    labels: Mapping[str, list[str]] | None = None
    runs: tuple[TableRun, ...] = ()


def measured_releases() -> dict[str, Release]:
    """Return the configurations whose figures are in the run files of a table, by name."""
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
    """Return the configurations to be trained on public data and published, each on every encoder, by name.

    Args:
        encoders: Hub ids or folders by the names that they have in releases; by default those of the file.
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
    """Return the releases with these names, or all.

    Raises:
        UserError: A name is unknown.
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
