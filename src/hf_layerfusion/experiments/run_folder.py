"""A run's folder: what it may hold, and one run in it for each seed, each once."""

import dataclasses
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from hf_layerfusion.errors import UserError
from hf_layerfusion.evaluation.significance import mean_sd
from hf_layerfusion.experiments.arguments import CheckpointArguments, RunTrainingArguments
from hf_layerfusion.experiments.pushing import push_outputs
from hf_layerfusion.training.arguments import LayerFusionTrainingArguments
from hf_layerfusion.training.checkpoints import newest_valid_checkpoint
from hf_layerfusion.training.global_batch import global_batch, is_of_a_device
from hf_layerfusion.training.trainer import LayerFusionTrainer

logger = logging.getLogger(__name__)

SETTINGS_FILE = "run.json"
RESULTS_FILE = "all_results.json"


class Experiment(Protocol):
    """What a script trains, whatever the seed and the folder: prepared data and settings.

    Attributes:
        settings: what its results depend on, as `run_settings`.
    """

    settings: dict[str, Any]

    def make_trainer(self, arguments: Any) -> LayerFusionTrainer:
        """The model, its new weights drawn by `arguments.seed`, in its Trainer. Writes nothing."""

    def train(self, trainer: LayerFusionTrainer) -> Any:
        """Trains, and says what was measured."""

    def write(self, trainer: LayerFusionTrainer, result: Any) -> None:
        """Writes what was measured into the Trainer's folder, `all_results.json` among it."""


def check_output_dir(arguments: LayerFusionTrainingArguments, settings: dict[str, Any]) -> None:
    """Refuses a folder that holds anything but this very run; one that has finished may be pushed again.

    Raises:
        UserError: if `--output_dir` is missing, is a file, or holds another run or foreign files.
    """
    if not arguments.output_dir:
        raise UserError("--output_dir must name the folder of the run, found none; name one.")
    folder = Path(arguments.output_dir)
    if folder.is_file():
        raise UserError(f"--output_dir {folder}: must be a folder, found a file; name another.")
    if not folder.exists() or not any(folder.iterdir()):
        return
    stored = folder / SETTINGS_FILE
    pushes_again = arguments.push_to_hub and (folder / RESULTS_FILE).exists()
    if not (arguments.resume_from_checkpoint or pushes_again) or not stored.exists():
        raise UserError(
            f"--output_dir {folder}: must be empty, found another run's files; name another folder, or go on with that "
            "run by --resume_from_checkpoint True."
        )
    earlier = json.loads(stored.read_text(encoding="utf-8"))
    changed = sorted(name for name in settings if earlier.get(name) != settings[name])
    if changed:
        raise UserError(
            f"--output_dir {folder}: holds a run with other settings ({', '.join(changed)}); name another folder or "
            "take those settings back."
        )


def run_settings(
    model_arguments: CheckpointArguments,
    data_arguments: Any,
    training_arguments: LayerFusionTrainingArguments,
) -> dict[str, Any]:
    """The settings of a run that its results depend on, as JSON; nothing of the Hub, no folder of outputs. What a
    script is told of its data is a dataclass of its own. Of the batch it is `global_batch`, the rows of an optimizer
    step, that counts, and not how these are shared out."""
    training = json.loads(training_arguments.to_json_string())
    settings = {**dataclasses.asdict(model_arguments), **dataclasses.asdict(data_arguments), **training}
    for name in ("token", "push_to_hub", "output_dir", "resume_from_checkpoint", "logging_dir", "run_name"):
        settings.pop(name, None)
    settings["global_batch"] = global_batch(training_arguments).size
    if not is_of_a_device(training_arguments):
        settings.pop("per_device_train_batch_size")
    for name in ("gradient_accumulation_steps", "per_device_eval_batch_size"):
        settings.pop(name)
    return {name: value for name, value in settings.items() if not name.startswith("hub_")}


def resume_point(arguments: LayerFusionTrainingArguments) -> str | None:
    """The checkpoint to go on from: the one named, or with `--resume_from_checkpoint True` the newest intact one of
    the run; `None` where the run was cut off before its first."""
    asked = arguments.resume_from_checkpoint
    if asked is None or asked.lower() in ("false", "no"):
        return None
    if asked.lower() not in ("true", "yes"):
        return asked
    folder = Path(str(arguments.output_dir))
    newest = newest_valid_checkpoint(folder) if folder.exists() else None
    if newest is None:
        logger.info("%s: no checkpoint to go on from, so the run starts anew", arguments.output_dir)
    return None if newest is None else str(newest)


def write_json(path: Path, content: Any) -> None:
    """Writes JSON whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial, path)


def run_once(experiment: Experiment, arguments: LayerFusionTrainingArguments, top: Path) -> dict[str, Any]:
    """Trains in `--output_dir`, which is `top` or lies in it, and writes outputs, unless that was done before. The
    settings are written into `top` once the model stands; what is finished is pushed where `--push_to_hub` is set.

    Returns:
        The contents of the folder's `all_results.json`.

    Raises:
        UserError: as `Experiment.make_trainer`, `LayerFusionTrainer.train` and `push_outputs`.
    """
    folder = Path(str(arguments.output_dir))
    if (folder / RESULTS_FILE).exists():
        logger.info("%s: finished before", folder)
    else:
        trainer = experiment.make_trainer(arguments)
        main_process = arguments.process_index == 0
        if main_process:
            folder.mkdir(parents=True, exist_ok=True)
            write_json(top / SETTINGS_FILE, experiment.settings)
        result = experiment.train(trainer)
        if main_process:
            experiment.write(trainer, result)
        trainer.accelerator.wait_for_everyone()
    if arguments.process_index == 0:
        push_outputs(folder, arguments)
    results: dict[str, Any] = json.loads((folder / RESULTS_FILE).read_text(encoding="utf-8"))
    return results


def run_seeds(experiment: Experiment, arguments: RunTrainingArguments) -> dict[str, Any]:
    """A run for `--seed`, or one for each of `--seeds` in a folder of its own and a summary above them.

    Returns:
        The contents of `all_results.json`.

    Raises:
        UserError: as `run_once`.
    """
    top = Path(str(arguments.output_dir))
    seeds = arguments.seeds or [arguments.seed]
    runs = []
    for seed in seeds:
        folder = top if len(seeds) == 1 else top / f"seed-{seed}"
        changes: dict[str, Any] = {"seed": seed, "output_dir": str(folder)}
        runs.append(run_once(experiment, dataclasses.replace(arguments, **changes), top))
    return runs[0] if len(seeds) == 1 else write_summary(top, {"seeds": seeds}, runs, arguments)


def write_summary(
    top: Path, parts: dict[str, Any], runs: Sequence[dict[str, Any]], arguments: LayerFusionTrainingArguments
) -> dict[str, Any]:
    """Writes mean and standard deviation of each result over several runs, and returns them; `parts` say what the runs
    are of."""
    summary = dict(parts)
    for name in runs[0]:
        mean, sd = mean_sd([run[name] for run in runs])
        summary[name] = {"mean": mean, "sd": sd}
    if arguments.process_index == 0:
        write_json(top / RESULTS_FILE, summary)
    return summary
