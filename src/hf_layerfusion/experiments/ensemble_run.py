"""The whole of the script for ensembles."""

from pathlib import Path
from typing import Any

from hf_layerfusion.errors import UserError
from hf_layerfusion.experiments.ensemble_arguments import EnsembleArguments, EnsembleDataArguments
from hf_layerfusion.experiments.ensemble_data import read_texts
from hf_layerfusion.experiments.ensemble_report import write_trial
from hf_layerfusion.experiments.ensembles import open_ensemble, try_combiners


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
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(
            f"--output_dir {folder}: must be a new or empty folder, found files there; name another."
        )
    cache = Path(arguments.prediction_cache or folder.parent / "prediction_cache")
    ensemble = open_ensemble(arguments, cache)
    texts = read_texts(data_arguments, ensemble.tasks)
    return write_trial(folder, try_combiners(ensemble, texts, arguments, cache), arguments, data_arguments)
