"""Training of a release into a folder of its own, as its script would, with an optional push to the Hub."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import HfArgumentParser

from hf_layerfusion.errors import UserError, one_line
from hf_layerfusion.recipes.multitask.multitask_run import train_tasks
from hf_layerfusion.recipes.recipe_arguments import option, secret
from hf_layerfusion.recipes.training_run import classify
from reproduction.release import Release, choose_releases, measured_releases, public_releases
from reproduction.run_recipes import RUN_RECIPES, arguments_of, task_entries
from reproduction.run_table import in_folder


@dataclass
class ReleaseArguments:
    """Arguments: the releases to train, their data, and where they are saved and pushed."""

    releases: list[str] | None = option(
        None, "Releases to train, public or measured ones; by default every public one."
    )
    encoders: list[str] | None = option(
        None,
        "Encoders of the public releases, NAME=MODEL, MODEL as for --model_name_or_path; by default "
        "bert-base=google-bert/bert-base-uncased and bertweet=vinai/bertweet-base.",
    )
    data: str | None = option(None, "Folder of the data files, for measured releases.")
    output_dir: str = option("outputs", "Folder of the releases' folders.")
    settings: str | None = option(
        None, 'Arguments of the scripts that override the releases\', as json: \'{"bf16": true, "seed": 1}\'.'
    )
    push_to_hub: bool = option(False, "Push each release to the Hub when it is complete.")
    organization: str | None = option(None, "Owner of the repositories; by default the token's user.")
    private: bool | None = option(None, "Make new repositories private.")
    token: str | None = secret("Token for the Hub; by default the one stored by `hf auth login`.")


def chosen_releases(arguments: ReleaseArguments) -> list[Release]:
    """Return the releases that `--releases` and `--encoders` name.

    Raises:
        UserError: A release is unknown, an encoder has no name, or one would produce the name of a measured release.
    """
    encoders = {}
    for entry in arguments.encoders or ():
        name, _, path = entry.partition("=")
        if not name or not path:
            raise UserError(f"--encoders must be NAME=MODEL, found {entry!r}; give it a name.")
        encoders[name] = path
    public, measured = public_releases(encoders), measured_releases()
    if twice := sorted(public.keys() & measured.keys()):
        raise UserError(
            f"--encoders must not produce the name of a measured release, found {twice[0]}; rename it."
        )
    return choose_releases({**public, **measured}, arguments.releases or list(public))


def train_release(release: Release, arguments: ReleaseArguments) -> Path:
    """Train a release and push it if asked to. Finished releases are not trained again, interrupted ones resume.

    Returns:
        The release's folder.

    Raises:
        UserError: The script has no such setting, or an argument or the data are invalid.
    """
    folder = Path(arguments.output_dir) / release.name
    settings = {**release.settings, **_given(arguments.settings)}
    if arguments.data is None and (missing := training_files(settings)):
        raise UserError(
            f"--data must name the folder of {missing[0]} for {release.name}, found none; name it."
        )
    data_dir = Path(arguments.data or ".")
    owner = f"{arguments.organization}/" if arguments.organization else ""
    options = {
        "output_dir": str(folder),
        "resume_from_checkpoint": "True" if folder.exists() else None,
        "token": arguments.token,
        "push_to_hub": arguments.push_to_hub,
        "hub_model_id": f"{owner}{release.name}",
        "hub_token": arguments.token,
        "hub_private_repo": arguments.private,
    }
    if "tasks" in settings:
        options["data_dir"] = str(data_dir)
    parser = HfArgumentParser(RUN_RECIPES[release.recipe].arguments)
    try:
        model_arguments, data_arguments, training_arguments = parser.parse_dict(
            {**in_folder(arguments_of(settings), data_dir), **options}
        )
    except ValueError as error:
        raise UserError(f"{release.name}: {one_line(error)}") from error
    if "tasks" in settings:
        train_tasks(model_arguments, data_arguments, training_arguments, task_entries(settings))
    else:
        classify(model_arguments, data_arguments, training_arguments)
    return folder


def training_files(settings: Mapping[str, Any]) -> list[str]:
    """Return the training files that settings name, over all tasks."""
    parts = task_entries(dict(settings)).values() if "tasks" in settings else [settings]
    return [part["train_file"] for part in parts if part.get("train_file")]


def _given(settings: str | None) -> dict[str, Any]:
    try:
        given = json.loads(settings or "{}")
    except (ValueError, RecursionError) as error:
        raise UserError(f"--settings must be json, found {settings!r} ({error}); correct it.") from error
    if not isinstance(given, dict):
        raise UserError(f"--settings must be a json object, found {settings!r}; give arguments by name.")
    return given
