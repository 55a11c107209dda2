"""The whole of the script for several tasks."""

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

from hf_layerfusion.errors import UserError
from hf_layerfusion.experiments.multitask import (
    MultitaskData,
    architecture_counts,
    load_multitask_model,
    make_multitask_trainer,
    prepare_multitask,
    train_multitask,
)
from hf_layerfusion.experiments.multitask_arguments import (
    MultitaskDataArguments,
    MultitaskModelArguments,
    MultitaskTrainingArguments,
)
from hf_layerfusion.experiments.multitask_report import write_multitask_outputs
from hf_layerfusion.experiments.run import (
    RESULTS_FILE,
    SETTINGS_FILE,
    check_output_dir,
    run_settings,
    summary_of,
    write_json,
)
from hf_layerfusion.experiments.tasks import read_tasks_file
from hf_layerfusion.training.optimizer import group_rows

logger = logging.getLogger(__name__)

PREDICTION_FORMATS = ("standard", "course")


def train_tasks(
    model_arguments: MultitaskModelArguments,
    data_arguments: MultitaskDataArguments,
    training_arguments: MultitaskTrainingArguments,
) -> dict[str, Any]:
    """Prepares the data of all tasks once, then trains, predicts and writes outputs for each seed; several seeds get a
    folder each and a summary above them. With `--dry_run` nothing is trained: the answer is the number of parameters of
    each architecture, in all and by part, and this run's parameter groups.

    Returns:
        The contents of `all_results.json`, or with `--dry_run` what was counted.

    Raises:
        UserError: for whatever the user can mend.
    """
    entries = read_tasks_file(data_arguments.tasks_file)
    if data_arguments.prediction_format not in PREDICTION_FORMATS:
        raise UserError(
            f"--prediction_format must be one of {', '.join(PREDICTION_FORMATS)}, found "
            f"{data_arguments.prediction_format!r}."
        )
    settings = run_settings(model_arguments, data_arguments, training_arguments) | {"tasks": entries}
    if not training_arguments.dry_run:
        check_output_dir(training_arguments, settings)
    folder = Path(data_arguments.data_dir or Path(str(data_arguments.tasks_file)).parent)
    with training_arguments.main_process_first(desc="preparing the texts"):
        data = prepare_multitask(entries, folder, model_arguments, data_arguments)
    if training_arguments.dry_run:
        groups = group_rows(load_multitask_model(model_arguments, data.tasks), training_arguments)
        return {"architectures": architecture_counts(model_arguments, data.tasks), "groups": groups}
    top = Path(str(training_arguments.output_dir))
    seeds = training_arguments.seeds or [training_arguments.seed]
    runs = []
    for seed in seeds:
        run_folder = top if len(seeds) == 1 else top / f"seed-{seed}"
        changes: dict[str, Any] = {"seed": seed, "output_dir": str(run_folder)}
        arguments = dataclasses.replace(training_arguments, **changes)
        runs.append(
            _train_in_folder(run_folder, top, data, settings, model_arguments, data_arguments, arguments)
        )
    if len(seeds) == 1:
        return runs[0]
    summary = {"seeds": seeds, **summary_of(runs)}
    if training_arguments.process_index == 0:
        write_json(top / RESULTS_FILE, summary)
    return summary


def _train_in_folder(
    folder: Path,
    top: Path,
    data: MultitaskData,
    settings: dict[str, Any],
    model_arguments: MultitaskModelArguments,
    data_arguments: MultitaskDataArguments,
    training_arguments: MultitaskTrainingArguments,
) -> dict[str, Any]:
    """One run, unless it has finished before; the settings are written into `top` once the model stands."""
    if (folder / RESULTS_FILE).exists():
        logger.info("%s: finished before", folder)
    else:
        trainer = make_multitask_trainer(data, model_arguments, data_arguments, training_arguments)
        main_process = training_arguments.process_index == 0
        if main_process:
            folder.mkdir(parents=True, exist_ok=True)
            write_json(top / SETTINGS_FILE, settings)
        result = train_multitask(trainer, data)
        if main_process:
            write_multitask_outputs(
                folder, data, result, trainer, model_arguments, data_arguments, training_arguments
            )
        trainer.accelerator.wait_for_everyone()
    results: dict[str, Any] = json.loads((folder / RESULTS_FILE).read_text(encoding="utf-8"))
    return results
