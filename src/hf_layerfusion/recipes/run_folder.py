"""The folder of a run: what it may contain, and one run for each seed, each performed once."""

import dataclasses
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Protocol

from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME

from hf_layerfusion.errors import UserError
from hf_layerfusion.evaluation.significance import mean_sd
from hf_layerfusion.hub.publish import PushError
from hf_layerfusion.recipes.publishing import push_outputs
from hf_layerfusion.recipes.recipe_arguments import CheckpointArguments, RunTrainingArguments
from hf_layerfusion.run_layout import CONFIG_FILE, RESULTS_FILE, RUN, SETTINGS_FILE, find, records
from hf_layerfusion.storage import (
    LOCK_FILE,
    PARTIAL,
    finite_or_none,
    is_empty,
    locked,
    move_into,
    no_empty_parents,
    read_object,
    remove,
    remove_leftovers,
    writable,
    write_json,
)
from hf_layerfusion.training.checkpoints import newest_valid_checkpoint, verify_resumable
from hf_layerfusion.training.global_batch import ARGUMENTS_NAME, global_batch, loss_depends_on_device_batch
from hf_layerfusion.training.trainer import LayerFusionTrainer
from hf_layerfusion.training.training_arguments import LayerFusionTrainingArguments

logger = logging.getLogger(__name__)


class Experiment(Protocol):
    """Interface of what a script trains, independent of seed and folder: prepared data and settings.

    Attributes:
        settings: what results depend on, as `run_settings` returns it.
    """

    settings: dict[str, Any]

    @property
    def outputs(self) -> Sequence[str]:
        """Names of files that a finished run's folder contains besides `all_results.json`."""

    def make_trainer(self, arguments: Any) -> LayerFusionTrainer:
        """Return a Trainer with a model initialized from `arguments.seed`, without writing anything."""

    def train(self, trainer: Any) -> Any:
        """Train by the Trainer of `make_trainer`, and return what was measured."""

    def write(self, trainer: Any, result: Any, folder: Path) -> None:
        """Write the outputs, `all_results.json` included, into a temporary folder; they are then moved into the
        Trainer's."""


def check_output_dir(arguments: LayerFusionTrainingArguments, settings: dict[str, Any]) -> None:
    """Refuse a folder that contains anything but this run. A finished run may be pushed again.

    Raises:
        UserError: `--output_dir` is missing, is a file, or contains another run or other files; or a single
            checkpoint is named for several runs to resume from.
    """
    if not arguments.output_dir:
        raise UserError("--output_dir must name the folder of the run, found none; name one.")
    several = "folds" if settings.get("folds") else "seeds" if len(settings.get("seeds") or ()) > 1 else None
    if several is not None and named_checkpoint(arguments) is not None:
        raise UserError(
            f"--resume_from_checkpoint must be True with --{several}, so that each run resumes from its own "
            f"checkpoint, found {arguments.resume_from_checkpoint}, which is one run's; set it to True."
        )
    folder = Path(arguments.output_dir)
    with writable(f"--output_dir {folder}"):
        if folder.is_file():
            raise UserError(f"--output_dir {folder}: must be a folder, found a file; name another.")
        if not folder.exists() or is_empty(folder):
            return
        stored = find(folder, SETTINGS_FILE)
        pushes_again = arguments.push_to_hub and find(folder, RESULTS_FILE).exists()
        if not (asks_to_resume(arguments) or pushes_again) or not stored.exists():
            trains = not arguments.do_predict or arguments.do_train
            resume = ", or resume that run with --resume_from_checkpoint True" if trains else ""
            raise UserError(
                f"--output_dir {folder}: must be empty, found another run's files; name another folder{resume}."
            )
    earlier = read_object(stored, "name another folder")
    changed = sorted(name for name in settings if earlier.get(name) != settings[name])
    if changed:
        was, now = earlier.get("global_batch"), settings.get("global_batch")
        # No option has this name.
        batch = f"; global_batch, the rows of an optimizer step, was {was} and is {now}" if was != now else ""
        raise UserError(
            f"--output_dir {folder}: holds a run with other settings ({', '.join(changed)}){batch}; name another "
            "folder or restore those settings."
        )


def run_settings(
    model_arguments: CheckpointArguments,
    data_arguments: Any,
    training_arguments: LayerFusionTrainingArguments,
) -> dict[str, Any]:
    """Return the settings that a run's results depend on, as JSON, without Hub options and output folders.

    A script's data arguments are included. The batch counts by `global_batch`, the rows of an optimizer step, however
    they are distributed.
    """
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
    return dict(finite_or_none(kept))  # as stored in the file that a resumed run compares them with


_write_configuration: ContextVar[Callable[[Path], None] | None] = ContextVar("configuration", default=None)


@contextmanager
def configuration(write: Callable[[Path], None]) -> Iterator[None]:
    """Within the block, write a run's configuration file with its settings, so that a run that dies can be repeated.

    Args:
        write: Writes the configuration to a path.
    """
    token = _write_configuration.set(write)
    try:
        yield
    finally:
        _write_configuration.reset(token)


def write_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Write the settings of a run, which mark the folder as its own, and its configuration file; see
    `configuration`.
    """
    records(folder).mkdir(parents=True, exist_ok=True)
    write_json(records(folder) / SETTINGS_FILE, settings)
    if (write := _write_configuration.get()) is not None:
        write(records(folder) / CONFIG_FILE)


def asks_to_resume(arguments: LayerFusionTrainingArguments) -> bool:
    """Return whether `--resume_from_checkpoint` is True or names a checkpoint."""
    return (arguments.resume_from_checkpoint or "false").lower() not in ("false", "no")


def named_checkpoint(arguments: LayerFusionTrainingArguments) -> str | None:
    """Return the checkpoint that `--resume_from_checkpoint` names, None if it is True or False."""
    asked = arguments.resume_from_checkpoint
    return None if asked is None or asked.lower() in ("true", "yes", "false", "no") else asked


def resume_point(arguments: LayerFusionTrainingArguments) -> str | None:
    """Return the checkpoint to resume from, None to start from the beginning.

    It is the one named or, with `--resume_from_checkpoint True`, the run's newest intact one.
    """
    named = named_checkpoint(arguments)
    if named is not None or not asks_to_resume(arguments):
        return named
    folder = Path(str(arguments.output_dir))
    newest = newest_valid_checkpoint(folder) if folder.exists() else None
    if newest is None:
        logger.info(
            "%s: no checkpoint to resume from, so the run starts from the beginning", arguments.output_dir
        )
    return None if newest is None else str(newest)


@contextmanager
def open_run(arguments: LayerFusionTrainingArguments, settings: dict[str, Any]) -> Iterator[None]:
    """Check `--output_dir`, and lock it for this run while the block runs.

    Incomplete files of killed runs are removed. With `--dry_run`, which writes nothing, nothing is checked.

    Raises:
        UserError: As `check_output_dir` and, for the checkpoint that `--resume_from_checkpoint` names,
            `verify_resumable`; or another process writes into the folder, or it is not writable.
    """
    if getattr(arguments, "dry_run", False):
        yield
        return
    check_output_dir(arguments, settings)
    named = named_checkpoint(arguments)
    if named is not None and not find(str(arguments.output_dir), RESULTS_FILE).exists():
        verify_resumable(named)  # a finished run needs its checkpoint no more
    if arguments.process_index != 0:  # only the main process writes
        yield
        return
    with output_folder(Path(str(arguments.output_dir))):
        check_output_dir(arguments, settings)  # another run may have finished in the meantime
        yield


@contextmanager
def output_folder(folder: Path, option: str = "--output_dir") -> Iterator[None]:
    """Create a folder and hold its lock while the block runs.

    A folder that is new and stays empty is removed at the end, and so are those above it.

    Args:
        folder: the folder.
        option: option that names it, for messages.

    Raises:
        UserError: Another process holds the lock, or the folder cannot be created or written to.
    """
    was_there = folder.exists()
    with no_empty_parents(folder), locked(folder / LOCK_FILE, f"{option} {folder}"):
        try:
            remove_leftovers(folder)
            yield
        finally:
            if not was_there and folder.is_dir() and is_empty(folder):
                remove(folder)


@contextmanager
def staged_outputs(folder: Path, last: str = f"{RUN}/{RESULTS_FILE}") -> Iterator[Path]:
    """Yield a temporary folder whose files are moved into `folder` when the block ends.

    Files appear complete.

    Args:
        folder: the folder.
        last: the file that is moved last, because it marks a finished run.

    Raises:
        UserError: The disk refuses a file.
    """
    staging = folder / f".outputs{PARTIAL}"
    with writable(f"--output_dir {folder}"):
        remove(staging)
        staging.mkdir(parents=True)
        try:
            yield staging
            move_into(staging, folder, last=last)
        finally:
            remove(staging)


def timed_training(trainer: LayerFusionTrainer) -> float:
    """Train, resuming if the arguments ask for it, and return the seconds that it took.

    A failed push of the Trainer does not end the run, whose complete outputs are pushed later, with the model.
    """
    start = time.perf_counter()
    with suppress(PushError):
        trainer.train(resume_from_checkpoint=resume_point(trainer.args))
    return time.perf_counter() - start


def write_results(
    folder: Path,
    trainer: LayerFusionTrainer,
    metrics: Mapping[str, Mapping[str, float]],
    seconds: float,
    parameters: int,
) -> None:
    """Write `all_results.json`: the metrics as `SPLIT_NAME`, and what the training took.

    Args:
        folder: The folder.
        trainer: The run's Trainer.
        metrics: Metrics by split and name.
        seconds: The training time.
        parameters: The number of the model's parameters.
    """
    results: dict[str, Any] = {
        f"{split}_{name}": value for split, found in metrics.items() for name, value in found.items()
    }
    results |= {"training_seconds": seconds, "parameters": parameters}
    results |= {"skipped_steps": trainer.skipped_steps, "epochs": trainer.state.epoch}
    write_json(records(folder) / RESULTS_FILE, results)


def save_trained(trainer: LayerFusionTrainer, folder: Path) -> None:
    """Save the model and its tokenizer at the top of a folder, the Trainer's state and arguments with the records.

    There is no push, which a user's own call would trigger.
    """
    trainer.save_model(str(folder), _internal_call=True)
    place = records(folder)
    place.mkdir(exist_ok=True)
    trainer.state.save_to_json(str(place / TRAINER_STATE_NAME))
    for name in (TRAINING_ARGS_NAME, ARGUMENTS_NAME):
        (folder / name).replace(place / name)


def read_results(folder: Path) -> dict[str, Any]:
    """Read `all_results.json`.

    Raises:
        UserError: The file is damaged.
    """
    way_out = "delete it and resume with --resume_from_checkpoint True, which writes it again"
    return read_object(find(folder, RESULTS_FILE), way_out)


def is_finished(folder: Path, experiment: Experiment) -> bool:
    """Return whether a run has written all of its outputs. A run that has lost some writes them again.

    Raises:
        UserError: As `read_results`.
    """
    if not find(folder, RESULTS_FILE).exists():
        return False
    read_results(folder)
    missing = [name for name in experiment.outputs if not (folder / name).exists()]
    if missing:
        logger.info("%s: has lost %s; its outputs are written again", folder, ", ".join(missing))
    return not missing


def run_once(experiment: Experiment, arguments: LayerFusionTrainingArguments, top: Path) -> dict[str, Any]:
    """Train in `--output_dir`, which is `top` or below it, and write outputs, unless the run has finished before.

    The settings are written into `top` once the model is built. With `--push_to_hub` a finished run is pushed.

    Returns:
        The content of the folder's `all_results.json`.

    Raises:
        UserError: As `Experiment.make_trainer`, `LayerFusionTrainer.train` and `push_outputs`.
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
                write_settings(top, experiment.settings)
        result = experiment.train(trainer)
        if main_process:
            with staged_outputs(folder) as staging:
                experiment.write(trainer, result, staging)
        trainer.accelerator.wait_for_everyone()
    if arguments.process_index == 0:
        push_outputs(folder, arguments)
    return read_results(folder)


def run_seeds(experiment: Experiment, arguments: RunTrainingArguments) -> dict[str, Any]:
    """Run once for `--seed`, or for each of `--seeds` in a folder of its own with a summary above them.

    Returns:
        The content of `all_results.json`.

    Raises:
        UserError: As `run_once`.
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

    Both are None for a result that is undefined in one of the runs, such as the correlation of constant predictions.

    Args:
        top: The folder above those of the runs.
        parts: Head of the file: what distinguishes the runs, such as their seeds.
        runs: The results of each run.
        arguments: The run's arguments; only the main process writes.
    """
    summary = dict(parts)
    for name in dict.fromkeys(name for run in runs for name in run):
        # A metric that is undefined in one run, stored as null or absent, makes mean and deviation undefined too.
        values = [run.get(name) for run in runs]
        mean, sd = mean_sd([math.nan if value is None else value for value in values])
        summary[name] = {"mean": mean, "sd": sd}
    if arguments.process_index == 0:
        with writable(f"--output_dir {top}"):
            records(top).mkdir(exist_ok=True)
            write_json(records(top) / RESULTS_FILE, summary)
    return dict(finite_or_none(summary))
