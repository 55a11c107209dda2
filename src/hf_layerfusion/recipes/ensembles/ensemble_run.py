"""The ensemble script: members predict, combiners are compared, the ensemble with the chosen one is saved."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

from hf_layerfusion.data.fingerprints import RowHash, file_fingerprint
from hf_layerfusion.ensembling.ensemble import Ensemble
from hf_layerfusion.ensembling.registry import make_combiner
from hf_layerfusion.errors import UserError
from hf_layerfusion.recipes.data_record import DATA, DataRecord, check_record
from hf_layerfusion.recipes.ensembles.combiner_comparison import open_ensemble, try_combiners
from hf_layerfusion.recipes.ensembles.ensemble_arguments import EnsembleArguments, EnsembleDataArguments
from hf_layerfusion.recipes.ensembles.ensemble_data import SplitTexts, read_texts
from hf_layerfusion.recipes.ensembles.ensemble_report import write_comparison
from hf_layerfusion.recipes.publishing import open_hub, planned_push, push_outputs
from hf_layerfusion.recipes.run_folder import read_results, write_settings
from hf_layerfusion.run_layout import SETTINGS_FILE, find
from hf_layerfusion.storage import check_new, new_folder, read_object

logger = logging.getLogger(__name__)


def make_ensemble(arguments: EnsembleArguments, data_arguments: EnsembleDataArguments) -> dict[str, Any]:
    """Run the script: predict with each member, compare combiners, and save the ensemble with the chosen one.

    `--output_dir` appears once everything has been measured and written.

    Returns:
        The content of `all_results.json`; with `--dry_run` the files that would be `pushed`.

    Raises:
        UserError: An argument or the data are invalid.
    """
    if not arguments.output_dir:
        raise UserError("--output_dir must name the folder of the ensemble, found none; name one.")
    folder = Path(arguments.output_dir)
    settings = ensemble_settings(arguments, data_arguments)
    if arguments.dry_run:
        if not (arguments.push_to_hub and is_finished_ensemble(folder, settings)):
            raise UserError(
                "--dry_run lists what --push_to_hub pushes of a finished ensemble, found none of these settings in "
                f"{folder}; run it first."
            )
        return planned_push(arguments)
    if arguments.push_to_hub and is_finished_ensemble(folder, settings):
        cache = Path(arguments.prediction_cache or folder.parent / "prediction_cache")
        ensemble = open_ensemble(arguments, data_arguments, cache)
        record, files = ensemble_record(arguments, ensemble, read_texts(data_arguments, ensemble.tasks))
        check_record(folder, record, {**vars(data_arguments), **files})
        logger.info("%s: finished before", folder)
        open_hub(arguments)
        push_outputs(folder, arguments)
        return read_results(folder)
    check_new(folder, "--output_dir")
    for name in [*(arguments.combiners or ()), *([arguments.combiner] if arguments.combiner else ())]:
        make_combiner(name)  # before members are loaded
    cache = Path(arguments.prediction_cache or folder.parent / "prediction_cache")
    with new_folder(folder, "--output_dir") as partial:
        ensemble = open_ensemble(arguments, data_arguments, cache)
        check_can_be_pushed(arguments, ensemble)
        open_hub(arguments)
        texts = read_texts(data_arguments, ensemble.tasks)
        record, _ = ensemble_record(arguments, ensemble, texts)
        comparison = try_combiners(ensemble, texts, arguments, partial)
        results = write_comparison(partial, folder, comparison, arguments, data_arguments)
        write_settings(partial, settings | {DATA: record})
    push_outputs(folder, arguments)
    return results


def ensemble_settings(arguments: EnsembleArguments, data_arguments: EnsembleDataArguments) -> dict[str, Any]:
    """Return the settings that the ensemble depends on, as JSON, without Hub options and output folders."""
    settings = {**dataclasses.asdict(arguments), **dataclasses.asdict(data_arguments)}
    left_out = ("push_to_hub", "dry_run", "output_dir", "prediction_cache")
    return {
        name: value
        for name, value in settings.items()
        if name not in left_out and not name.startswith("hub_")
    }


def ensemble_record(
    arguments: EnsembleArguments, ensemble: Ensemble, texts: dict[str, dict[str, SplitTexts]]
) -> tuple[DataRecord, dict[str, str]]:
    """Return the fingerprints of members, texts and prediction files, and the names of those that are files or
    folders."""
    record: DataRecord = {}
    files: dict[str, str] = {}
    for number, member in enumerate(ensemble.members, start=1):
        record[f"member {number}"] = {"rows": 1, "sha256": member.predictor.sha256}
        files[f"member {number}"] = member.predictor.name
    for number, path in enumerate(arguments.out_of_fold or (), start=1):
        record[f"out_of_fold {number}"] = file_fingerprint(path)
        files[f"out_of_fold {number}"] = path
    for task, splits in texts.items():
        for split, found in splits.items():
            rows = RowHash()
            labels = [None] * len(found.ids) if found.labels is None else found.labels.tolist()
            for row in zip(found.ids, *found.columns.values(), labels, strict=True):
                rows.add(row)
            record[split if len(texts) == 1 else f"{task} {split}"] = rows.fingerprint()
    return record, files


def is_finished_ensemble(folder: Path, settings: dict[str, Any]) -> bool:
    """Return whether the folder holds an ensemble with these settings; `check_record` checks its data."""
    path = find(folder, SETTINGS_FILE)
    if not path.is_file():
        return False
    stored = read_object(path, "name another --output_dir")
    return {name: stored[name] for name in stored if name != DATA} == settings


def check_can_be_pushed(arguments: EnsembleArguments, ensemble: Ensemble) -> None:
    """Refuse to push an ensemble that the Hub could not load.

    Raises:
        UserError: A member in a local folder is not carried along.
    """
    if not arguments.push_to_hub or arguments.carry_members:
        return
    for member in ensemble.members:
        if member.hub_id is None:
            raise UserError(
                f"--push_to_hub needs members that are on the Hub or carried along, found the folder of "
                f"{member.predictor.name}; set --carry_members True."
            )
