"""A run's folder: what it may hold, and one run in it for each seed, each once."""

import dataclasses
import json
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from transformers.trainer import TRAINER_STATE_NAME

from hf_layerfusion.errors import UserError
from hf_layerfusion.evaluation.significance import mean_sd
from hf_layerfusion.recipes.publishing import push_outputs
from hf_layerfusion.recipes.recipe_arguments import CheckpointArguments, RunTrainingArguments
from hf_layerfusion.storage import (
    LOCK_FILE,
    PARTIAL,
    finite_or_none,
    is_empty,
    locked,
    move_into,
    read_object,
    remove,
    remove_leftovers,
    writable,
    write_json,
)
from hf_layerfusion.training.checkpoints import newest_valid_checkpoint
from hf_layerfusion.training.global_batch import global_batch, loss_depends_on_device_batch
from hf_layerfusion.training.trainer import LayerFusionTrainer
from hf_layerfusion.training.training_arguments import LayerFusionTrainingArguments

logger = logging.getLogger(__name__)

SETTINGS_FILE = "run.json"
RESULTS_FILE = "all_results.json"


class Experiment(Protocol):
    """What a script trains, whatever the seed and the folder: prepared data and settings.

    Attributes:
        settings: what its results depend on, as `run_settings`.
    """

    settings: dict[str, Any]

    @property
    def outputs(self) -> Sequence[str]:
        """Names of files that its folder holds when it has finished, beside `all_results.json`."""

    def make_trainer(self, arguments: Any) -> LayerFusionTrainer:
        """The model, its new weights drawn by `arguments.seed`, in its Trainer. Writes nothing."""

    def train(self, trainer: LayerFusionTrainer) -> Any:
        """Trains, and says what was measured."""

    def write(self, trainer: LayerFusionTrainer, result: Any, folder: Path) -> None:
        """Writes what was measured into `folder`, `all_results.json` among it. `folder` is a temporary one, whose
        files are moved into the Trainer's."""


def check_output_dir(arguments: LayerFusionTrainingArguments, settings: dict[str, Any]) -> None:
    """Refuses a folder that holds anything but this very run; one that has finished may be pushed again.

    Raises:
        UserError: if `--output_dir` is missing, is a file, or holds another run or foreign files; one checkpoint for
            several runs to go on from.
    """
    if not arguments.output_dir:
        raise UserError("--output_dir must name the folder of the run, found none; name one.")
    several = "folds" if settings.get("folds") else "seeds" if len(settings.get("seeds") or ()) > 1 else None
    if several is not None and named_checkpoint(arguments) is not None:
        raise UserError(
            f"--resume_from_checkpoint must be True with --{several}, so that each run goes on from its own "
            f"checkpoint, found {arguments.resume_from_checkpoint}, which is one run's; set it to True."
        )
    folder = Path(arguments.output_dir)
    with writable(f"--output_dir {folder}"):
        if folder.is_file():
            raise UserError(f"--output_dir {folder}: must be a folder, found a file; name another.")
        if not folder.exists() or is_empty(folder):
            return
        stored = folder / SETTINGS_FILE
        pushes_again = arguments.push_to_hub and (folder / RESULTS_FILE).exists()
        if not (asks_to_resume(arguments) or pushes_again) or not stored.exists():
            raise UserError(
                f"--output_dir {folder}: must be empty, found another run's files; name another folder, or go on with "
                "that run by --resume_from_checkpoint True."
            )
    earlier = read_object(stored, "name another folder")
    changed = sorted(name for name in settings if earlier.get(name) != settings[name])
    if changed:
        was, now = earlier.get("global_batch"), settings.get("global_batch")
        # No option has this name.
        batch = f"; global_batch, the rows of an optimizer step, was {was} and is {now}" if was != now else ""
        raise UserError(
            f"--output_dir {folder}: holds a run with other settings ({', '.join(changed)}){batch}; name another "
            "folder or take those settings back."
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
    for name in (
        "token",
        "push_to_hub",
        "output_dir",
        "resume_from_checkpoint",
        "logging_dir",
        "run_name",
        "recipe",
    ):
        settings.pop(name, None)
    settings["global_batch"] = global_batch(training_arguments).size
    if not loss_depends_on_device_batch(training_arguments):
        settings.pop("per_device_train_batch_size")
    for name in ("gradient_accumulation_steps", "per_device_eval_batch_size"):
        settings.pop(name)
    if settings.get("max_seq_length", 0) is None:  # known once the data are, which are recorded too
        settings.pop("max_seq_length")
    kept = {name: value for name, value in settings.items() if not name.startswith("hub_")}
    return dict(finite_or_none(kept))  # as the file has them, with which a resumed run compares them


def asks_to_resume(arguments: LayerFusionTrainingArguments) -> bool:
    """Return whether `--resume_from_checkpoint` is True or names a checkpoint."""
    return (arguments.resume_from_checkpoint or "false").lower() not in ("false", "no")


def named_checkpoint(arguments: LayerFusionTrainingArguments) -> str | None:
    """Return the checkpoint that `--resume_from_checkpoint` names; `None` if it is True or False."""
    asked = arguments.resume_from_checkpoint
    return None if asked is None or asked.lower() in ("true", "yes", "false", "no") else asked


def resume_point(arguments: LayerFusionTrainingArguments) -> str | None:
    """The checkpoint to go on from: the one named, or with `--resume_from_checkpoint True` the newest intact one of
    the run; `None` where the run was cut off before its first."""
    named = named_checkpoint(arguments)
    if named is not None or not asks_to_resume(arguments):
        return named
    folder = Path(str(arguments.output_dir))
    newest = newest_valid_checkpoint(folder) if folder.exists() else None
    if newest is None:
        logger.info("%s: no checkpoint to go on from, so the run starts anew", arguments.output_dir)
    return None if newest is None else str(newest)


@contextmanager
def open_run(arguments: LayerFusionTrainingArguments, settings: dict[str, Any]) -> Iterator[None]:
    """Checks `--output_dir` by `check_output_dir`, and keeps it for this run alone while the block runs. What killed
    runs left half-written is removed. With `--dry_run`, which writes nothing, nothing is checked.

    Raises:
        UserError: as `check_output_dir`; another process is writing into the folder, or it cannot be written to.
    """
    if getattr(arguments, "dry_run", False):
        yield
        return
    check_output_dir(arguments, settings)
    if arguments.process_index != 0:  # the main process alone writes
        yield
        return
    with output_folder(Path(str(arguments.output_dir))):
        check_output_dir(arguments, settings)  # another run may have ended meanwhile
        yield


@contextmanager
def output_folder(folder: Path, option: str = "--output_dir") -> Iterator[None]:
    """Makes a folder and holds its lock while the block runs. If the block leaves nothing in a folder that was not
    there before, the folder goes again. `option` names it in messages.

    Raises:
        UserError: another process holds the lock, or the folder cannot be made or written to.
    """
    was_there = folder.exists()
    with locked(folder / LOCK_FILE, f"{option} {folder}"):
        try:
            remove_leftovers(folder)
            yield
        finally:
            if not was_there and folder.is_dir() and is_empty(folder):
                remove(folder)


@contextmanager
def staged_outputs(folder: Path) -> Iterator[Path]:
    """Yields a temporary folder in `folder`, whose files take their places there when the block ends: all of them
    whole, and `all_results.json`, by which a run is known to have finished, after the others.

    Raises:
        UserError: the disk refuses.
    """
    staging = folder / f".outputs{PARTIAL}"
    with writable(f"--output_dir {folder}"):
        remove(staging)
        staging.mkdir(parents=True)
        try:
            yield staging
            move_into(staging, folder, last=RESULTS_FILE)
        finally:
            remove(staging)


def save_trained(trainer: LayerFusionTrainer, folder: Path) -> None:
    """Writes the model, its tokenizer and the Trainer's state into a folder. Nothing is pushed, as it would be by a
    user's call."""
    trainer.save_model(str(folder), _internal_call=True)
    trainer.state.save_to_json(str(folder / TRAINER_STATE_NAME))


def read_results(folder: Path) -> dict[str, Any]:
    """Reads `all_results.json`.

    Raises:
        UserError: if it is damaged.
    """
    way_out = "delete it and go on by --resume_from_checkpoint True, which writes it anew"
    return read_object(folder / RESULTS_FILE, way_out)


def is_finished(folder: Path, experiment: Experiment) -> bool:
    """Return whether a run has written all of its outputs; a run that has lost some writes them again.

    Raises:
        UserError: as `read_results`.
    """
    if not (folder / RESULTS_FILE).exists():
        return False
    read_results(folder)
    missing = [name for name in experiment.outputs if not (folder / name).exists()]
    if missing:
        logger.info("%s: has lost %s; its outputs are written again", folder, ", ".join(missing))
    return not missing


def run_once(experiment: Experiment, arguments: LayerFusionTrainingArguments, top: Path) -> dict[str, Any]:
    """Trains in `--output_dir`, which is `top` or lies in it, and writes outputs, unless that was done before. The
    settings are written into `top` once the model stands; what is finished is pushed where `--push_to_hub` is set.

    Returns:
        The contents of the folder's `all_results.json`.

    Raises:
        UserError: as `Experiment.make_trainer`, `LayerFusionTrainer.train` and `push_outputs`.
    """
    folder = Path(str(arguments.output_dir))
    if is_finished(folder, experiment):
        logger.info("%s: finished before", folder)
    else:
        trainer = experiment.make_trainer(arguments)
        main_process = arguments.process_index == 0
        if main_process:
            with writable(f"--output_dir {folder}"):
                folder.mkdir(parents=True, exist_ok=True)
                write_json(top / SETTINGS_FILE, experiment.settings)
        result = experiment.train(trainer)
        if main_process:
            with staged_outputs(folder) as staging:
                experiment.write(trainer, result, staging)
        trainer.accelerator.wait_for_everyone()
    if arguments.process_index == 0:
        push_outputs(folder, arguments)
    return read_results(folder)


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
    """Write mean and standard deviation of each result over several runs, and return them.

    Both are None where a result is undefined in one of the runs, as a correlation of constant answers.

    Args:
        top: The folder above those of the runs.
        parts: What the runs are of, such as their seeds, for the head of the file.
        runs: The results of each run.
        arguments: Of the run; its main process alone writes.
    """
    summary = dict(parts)
    for name in runs[0]:
        # null, an undefined metric in one run, makes mean and deviation undefined too.
        mean, sd = mean_sd([math.nan if run[name] is None else run[name] for run in runs])
        summary[name] = {"mean": mean, "sd": sd}
    if arguments.process_index == 0:
        with writable(f"--output_dir {top}"):
            write_json(top / RESULTS_FILE, summary)
    return dict(finite_or_none(summary))
