"""A trial of `hyperparameter_search`, judged by the model that it would keep."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from hf_layerfusion.errors import StorageError, UserError, one_line
from hf_layerfusion.training.own_folders import make_own, new_name, remove_own
from hf_layerfusion.training.training_arguments import LayerFusionTrainingArguments

logger = logging.get_logger(__name__)

FOLDER = "folder"
"""The attribute of an Optuna trial that names its folder."""


READ_ONCE = frozenset(
    ("regularizers", "gradient_surgery", "class_balance", "distillation_weight", "distillation_temperature",
     "cache_frozen_states", "init_from_probe", "best_of_each_task")
)  # fmt: skip
"""Options that the Trainer reads when it is made, before the first trial."""

SET_BEFORE = ("early_stopping_patience", "unfreeze_per_epoch")
"""Options of which the Trainer reads before the first trial whether they are set."""


class SearchStopped(Exception):  # noqa: N818
    """A search that cannot go on, for a reason that lies in none of its trials, such as a full disk."""


class SearchTrial:
    """One trial: its folder, its objectives, and what becomes of both.

    With Optuna in one process only the best trial's checkpoints are kept. Each trial then has a new folder below
    `output_dir`: that of `hp_name` or `run-<number>`, with a number appended where the name is taken, so that no
    trial's checkpoints end up among another's. The trial's attribute `folder` names it; only such folders are deleted.

    Args:
        trial: The backend's trial: of Optuna, or a dictionary of values.
        args: The run's options, which the trial's values are set in.
    """

    def __init__(self, trial: Any, args: LayerFusionTrainingArguments) -> None:
        self.trial, self.args = trial, args
        self.top = Path(str(args.output_dir))
        self.objectives: dict[int, float] = {}
        """The objective of each evaluation, by step."""

    def __str__(self) -> str:
        values = self.trial if isinstance(self.trial, dict) else self.trial.params
        return f"trial {getattr(self.trial, 'number', '')} {values}"

    def set_arguments(self, values: dict[str, Any]) -> None:
        """Set the trial's values in the options, before its model is made.

        Raises:
            UserError: Values out of their range, or that contradict each other.
        """
        for name, value in values.items():
            if name in READ_ONCE:
                raise UserError(
                    f"{name} cannot be searched, as the Trainer reads it before the trials; run one search for each "
                    "of its values"
                )
            if name in SET_BEFORE and (value is None) != (getattr(self.args, name) is None):
                raise UserError(
                    f"{name} can be searched among numbers alone, and needs one in the arguments, found "
                    f"{getattr(self.args, name)} there and {value} in a trial; set it in both or in none"
                )
            if hasattr(self.args, name):
                setattr(self.args, name, value)
        self.args.check()

    def make_folder(self, asked: str) -> None:
        """Give an Optuna trial a folder of its own.

        Args:
            asked: The folder that the stock Trainer would take.
        """
        if not hasattr(self.trial, "study") or self.args.world_size > 1:
            return
        path = Path(os.path.normpath(asked))
        if self.top.resolve() not in path.resolve().parents:
            path = self.top / f"run-{self.trial.number}"
        made = make_own(new_name(path))
        self.trial.set_user_attr(FOLDER, os.path.relpath(made, self.top))

    @property
    def folder(self) -> str | None:
        """The trial's own folder, relative to `output_dir`; None if it has none."""
        return _folder_of(self.trial)

    def remove_folder(self) -> None:
        """Delete the trial's folder if it is its own."""
        self._remove_folder_of(self.trial)

    def _remove_folder_of(self, trial: Any) -> None:
        if (name := _folder_of(trial)) is not None:
            remove_own(self.top / name)

    @contextmanager
    def reporting(self) -> Iterator[None]:
        """In the block, report to the pruner by the number of the evaluation.

        The stock Trainer reports by the step, and trials of other batch sizes never reach the same steps.
        """
        report = getattr(self.trial, "report", None)
        if report is not None:
            self.trial.report = lambda value, step: report(value, len(self.objectives))
        try:
            yield
        finally:
            if report is not None:
                del self.trial.report

    def recorded(
        self, compute_objective: Callable[[dict[str, float]], float], step: Callable[[], int]
    ) -> Callable[[dict[str, float]], float]:
        """Return a function that computes an evaluation's objective and remembers it by its step."""

        def compute(metrics: dict[str, float]) -> float:
            objective = compute_objective(metrics)
            self.objectives[step()] = objective
            return objective

        return compute

    def is_kept(self, objective: float | None) -> bool:
        """Return whether the trial beats all before it; the checkpoints of the one that was best are deleted then."""
        study = getattr(self.trial, "study", None)
        if study is None or objective is None or math.isnan(objective):
            return False
        try:
            best = study.best_trial
        except ValueError:  # none has ended before
            return True
        sign = 1 if study.direction.name == "MAXIMIZE" else -1
        if sign * objective <= sign * best.value:
            return False
        self._remove_folder_of(best)
        return True

    def end(self, objective: float | None) -> None:
        """Log the objective of a trial that was trained."""
        if objective is not None and math.isnan(objective):
            self.fail("the objective is not a number")  # for which Optuna fails the trial
        else:
            logger.info(f"{self}: objective {objective}")

    def fail(self, reason: str) -> None:
        """Warn of a trial that failed, and write the reason into its attribute `error`."""
        logger.warning(f"{self} failed: {reason}")
        if hasattr(self.trial, "set_user_attr"):
            self.trial.set_user_attr("error", reason)

    @contextmanager
    def failures(self) -> Iterator[None]:
        """In the block, note why a trial failed.

        Raises:
            SearchStopped: The disk refused a checkpoint. That is not a fault of the trial's values: a search goes on
                after a `UserError`, and must end here.
        """
        try:
            yield
        except StorageError as error:
            raise SearchStopped(str(error)) from error
        except (UserError, torch.OutOfMemoryError) as error:
            self.fail(one_line(error))
            raise


def _folder_of(trial: Any) -> str | None:
    return getattr(trial, "user_attrs", {}).get(FOLDER)
