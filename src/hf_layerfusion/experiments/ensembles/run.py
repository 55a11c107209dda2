"""The whole of the script for ensembles."""

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

from hf_layerfusion.ensembling.ensemble import Ensemble
from hf_layerfusion.errors import UserError
from hf_layerfusion.experiments.ensembles.arguments import EnsembleArguments, EnsembleDataArguments
from hf_layerfusion.experiments.ensembles.data import read_texts
from hf_layerfusion.experiments.ensembles.report import write_trial
from hf_layerfusion.experiments.ensembles.trial import open_ensemble, try_combiners
from hf_layerfusion.experiments.pushing import open_hub, push_outputs
from hf_layerfusion.experiments.run_folder import RESULTS_FILE, SETTINGS_FILE, write_json

logger = logging.getLogger(__name__)


def make_ensemble(arguments: EnsembleArguments, data_arguments: EnsembleDataArguments) -> dict[str, Any]:
    """Predicts with each member, tries combiners, and writes the ensemble with the chosen one. Nothing is written into
    `--output_dir` before all is measured.

    Returns:
        The contents of `all_results.json`.

    Raises:
        UserError: for whatever the user can mend.
    """
    if not arguments.output_dir:
        raise UserError("--output_dir must name the folder of the ensemble, found none; name one.")
    folder = Path(arguments.output_dir)
    settings = ensemble_settings(arguments, data_arguments)
    if arguments.push_to_hub and is_finished(folder, settings):
        logger.info("%s: finished before", folder)
        open_hub(arguments)
        push_outputs(folder, arguments)
        results: dict[str, Any] = json.loads((folder / RESULTS_FILE).read_text(encoding="utf-8"))
        return results
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(
            f"--output_dir {folder}: must be a new or empty folder, found files there; name another."
        )
    cache = Path(arguments.prediction_cache or folder.parent / "prediction_cache")
    ensemble = open_ensemble(arguments, cache)
    check_members(arguments, ensemble)
    open_hub(arguments)
    texts = read_texts(data_arguments, ensemble.tasks)
    trial = try_combiners(ensemble, texts, arguments, cache)
    results = write_trial(folder, trial, arguments, data_arguments)
    write_json(folder / SETTINGS_FILE, settings)
    push_outputs(folder, arguments)
    return results


def ensemble_settings(arguments: EnsembleArguments, data_arguments: EnsembleDataArguments) -> dict[str, Any]:
    """The settings that the ensemble depends on, as JSON; nothing of the Hub, no folder of outputs."""
    settings = {**dataclasses.asdict(arguments), **dataclasses.asdict(data_arguments)}
    left_out = ("push_to_hub", "output_dir", "prediction_cache")
    return {
        name: value
        for name, value in settings.items()
        if name not in left_out and not name.startswith("hub_")
    }


def is_finished(folder: Path, settings: dict[str, Any]) -> bool:
    """Whether the folder holds the ensemble of these very settings."""
    stored = folder / SETTINGS_FILE
    return stored.is_file() and bool(json.loads(stored.read_text(encoding="utf-8")) == settings)


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
