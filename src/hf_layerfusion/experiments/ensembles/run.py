"""The whole of the script for ensembles."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

from hf_layerfusion.ensembling.ensemble import Ensemble
from hf_layerfusion.errors import UserError
from hf_layerfusion.experiments.ensembles.arguments import EnsembleArguments, EnsembleDataArguments
from hf_layerfusion.experiments.ensembles.data import read_texts
from hf_layerfusion.experiments.ensembles.report import write_trial
from hf_layerfusion.experiments.ensembles.trial import open_ensemble, try_combiners
from hf_layerfusion.experiments.pushing import open_hub, planned_push, push_outputs
from hf_layerfusion.experiments.run_folder import SETTINGS_FILE, read_results
from hf_layerfusion.storage import check_new, new_folder, read_json, write_json

logger = logging.getLogger(__name__)


def make_ensemble(arguments: EnsembleArguments, data_arguments: EnsembleDataArguments) -> dict[str, Any]:
    """Predicts with each member, tries combiners, and writes the ensemble with the chosen one. `--output_dir` is there
    when all has been measured and written, or not at all.

    Returns:
        The contents of `all_results.json`; with `--dry_run` the files that would be `pushed`.

    Raises:
        UserError: for whatever the user can mend.
    """
    if not arguments.output_dir:
        raise UserError("--output_dir must name the folder of the ensemble, found none; name one.")
    folder = Path(arguments.output_dir)
    settings = ensemble_settings(arguments, data_arguments)
    if arguments.dry_run:
        if not (arguments.push_to_hub and is_finished(folder, settings)):
            raise UserError(
                "--dry_run lists what --push_to_hub pushes of a finished ensemble, found none of these settings in "
                f"{folder}; run it first."
            )
        return planned_push(arguments)
    if arguments.push_to_hub and is_finished(folder, settings):
        logger.info("%s: finished before", folder)
        open_hub(arguments)
        push_outputs(folder, arguments)
        return read_results(folder)
    check_new(folder, "--output_dir")
    cache = Path(arguments.prediction_cache or folder.parent / "prediction_cache")
    with new_folder(folder, "--output_dir") as partial:
        ensemble = open_ensemble(arguments, cache)
        check_members(arguments, ensemble)
        open_hub(arguments)
        texts = read_texts(data_arguments, ensemble.tasks)
        trial = try_combiners(ensemble, texts, arguments, partial)
        results = write_trial(partial, folder, trial, arguments, data_arguments)
        write_json(partial / SETTINGS_FILE, settings)
    push_outputs(folder, arguments)
    return results


def ensemble_settings(arguments: EnsembleArguments, data_arguments: EnsembleDataArguments) -> dict[str, Any]:
    """The settings that the ensemble depends on, as JSON; nothing of the Hub, no folder of outputs."""
    settings = {**dataclasses.asdict(arguments), **dataclasses.asdict(data_arguments)}
    left_out = ("push_to_hub", "dry_run", "output_dir", "prediction_cache")
    return {
        name: value
        for name, value in settings.items()
        if name not in left_out and not name.startswith("hub_")
    }


def is_finished(folder: Path, settings: dict[str, Any]) -> bool:
    """Whether the folder holds the ensemble of these very settings."""
    stored = folder / SETTINGS_FILE
    return stored.is_file() and bool(read_json(stored, "name another --output_dir") == settings)


def check_members(arguments: EnsembleArguments, ensemble: Ensemble) -> None:
    """Refuses to push what the Hub could not open.

    Raises:
        UserError: a member in a folder that is not carried.
    """
    if not arguments.push_to_hub or arguments.carry_members:
        return
    for seat in ensemble.seats:
        if seat.hub_id is None:
            raise UserError(
                f"--push_to_hub needs members that are on the Hub or carried along, found the folder of "
                f"{seat.member.name}; set --carry_members True."
            )
