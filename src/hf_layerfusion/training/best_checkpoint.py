"""The best evaluation of a run, and the best model of each task."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import IntervalStrategy, SaveStrategy
from transformers.utils import logging

from hf_layerfusion.errors import UserError
from hf_layerfusion.evaluation.metrics import ComputeMetrics
from hf_layerfusion.metric_registry import EVAL_PREFIX
from hf_layerfusion.storage import PARTIAL, remove, sync_folder, sync_tree, writable, write_json
from hf_layerfusion.training.trainer_card import NO_METRIC

logger = logging.get_logger(__name__)

BEST_OF_TASK = "best"
"""The folder of a task's best model is named this, a hyphen and the task."""

BEST_FILE = "best.json"
"""The file of that folder with metric, value, step and epoch."""


def metric_names(compute_metrics: Any) -> tuple[str, ...] | None:
    """Return the metrics of an evaluation of one task, or None where only the evaluation can tell."""
    return ("loss", *compute_metrics.names) if isinstance(compute_metrics, ComputeMetrics) else None


def check_metric(args: TrainingArguments, names: tuple[str, ...] | None, eval_dataset: Any) -> None:
    """Check that the evaluation of one task will have `metric_for_best_model`.

    Args:
        args: The run's options.
        names: The metrics of an evaluation; None where only the evaluation can tell.
        eval_dataset: The evaluation data; those of several data sets are a dictionary.

    Raises:
        UserError: Names the metrics that there will be.
    """
    chosen = args.metric_for_best_model
    if chosen is None or names is None or args.eval_strategy == IntervalStrategy.NO:
        return
    if isinstance(eval_dataset, Mapping):
        names = tuple(f"{part}_{name}" for part in eval_dataset for name in names)
    if chosen.removeprefix(EVAL_PREFIX) not in names:
        raise _unknown_metric(chosen, names)


def is_candidate(args: TrainingArguments, control: TrainerControl) -> bool:
    """Return whether an evaluation may be the best one: its weights are saved, so that they can be loaded."""
    by_interval = args.save_strategy in (SaveStrategy.STEPS, SaveStrategy.EPOCH)
    return control.should_save or not by_interval


def check_computed(args: TrainingArguments, metrics: Mapping[str, float]) -> None:
    """Check that an evaluation in training has `metric_for_best_model`.

    Raises:
        UserError: Names the metrics that it has.
    """
    chosen = args.metric_for_best_model
    if chosen is not None and EVAL_PREFIX + chosen.removeprefix(EVAL_PREFIX) not in metrics:
        named = (name.removeprefix(EVAL_PREFIX) for name in metrics if name.startswith(EVAL_PREFIX))
        raise _unknown_metric(chosen, [name for name in named if not f"_{name}".endswith(NO_METRIC)])


class NoBestModelWarning(TrainerCallback):
    """Warns of a run that ends without a best model to load."""

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Warn if the best model was asked for and there is none."""
        if args.load_best_model_at_end and state.best_model_checkpoint is None:
            logger.warning(
                f"load_best_model_at_end: no checkpoint had a {args.metric_for_best_model} that is a number; the "
                "last weights are kept"
            )


class BestOfEachTask(TrainerCallback):
    """Saves the model to `best-TASK` whenever an evaluation in training is the best of a task so far.

    Args:
        main_metrics: Returns the full name of the metric that each task is chosen by.
        save_model: Saves the model to a folder; called on every process.
        wait: Returns when all processes have called it.
        run_dir: Returns the folder of the run.
        is_in_train: Returns whether training is under way.
    """

    def __init__(
        self,
        main_metrics: Callable[[], Mapping[str, str]],
        save_model: Callable[[str], None],
        wait: Callable[[], None],
        run_dir: Callable[[], Path],
        is_in_train: Callable[[], bool],
    ) -> None:
        self.main_metrics, self.save_model, self.wait = main_metrics, save_model, wait
        self.run_dir, self.is_in_train = run_dir, is_in_train

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Save the model for each task that is better than ever before."""
        if not self.is_in_train():
            return
        for task, name in self.main_metrics().items():
            *earlier, value = [entry[name] for entry in state.log_history if name in entry]
            if not math.isnan(value) and not any(value <= other for other in earlier):
                facts = {"metric": name, "value": value, "step": state.global_step, "epoch": state.epoch}
                self._save_best(self.run_dir() / f"{BEST_OF_TASK}-{task}", facts, args.should_save)

    def _save_best(self, folder: Path, facts: dict[str, Any], is_writer: bool) -> None:
        partial = folder.with_name(f".{folder.name}{PARTIAL}")
        if is_writer:
            remove(partial)
        self.save_model(str(partial))
        if is_writer:
            with writable(folder):
                write_json(partial / BEST_FILE, facts)
                sync_tree(partial)
                remove(folder)
                partial.rename(folder)
                sync_folder(folder.parent)
        self.wait()


def check_folders(output_dir: str | Path, tasks: Iterable[str]) -> None:
    """Check that no folder of a task's best model is something else, which would be deleted.

    Raises:
        UserError: Names the folder.
    """
    for folder in (Path(output_dir) / f"{BEST_OF_TASK}-{task}" for task in tasks):
        if folder.exists() and not (folder / BEST_FILE).is_file():
            raise UserError(
                f"best_of_each_task: {folder} must be new or a task's best model, found something else; name "
                "another output_dir or move it away"
            )


def _unknown_metric(chosen: str, names: Iterable[str]) -> UserError:
    return UserError(
        f"metric_for_best_model must be a metric of the evaluation ({', '.join(names)}), found {chosen!r}; name one of "
        "them"
    )
