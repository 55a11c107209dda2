"""A Trainer whose `hyperparameter_search` judges each trial by the model that it would keep."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer
from transformers.trainer_utils import TrainOutput
from transformers.utils import logging

from hf_layerfusion.errors import StorageError, UserError, one_line
from hf_layerfusion.training.own_folders import make_own, new_name, remove_own
from hf_layerfusion.training.training_arguments import LayerFusionTrainingArguments

logger = logging.get_logger(__name__)

FOLDER = "folder"
"""The attribute of an Optuna trial that names its folder."""


class SearchStopped(Exception):  # noqa: N818
    """A search that cannot go on, for a reason that lies in none of its trials, such as a full disk."""


class SearchingTrainer(Trainer):
    """The stock Trainer, which in a search

    - has a trial's arguments set before its model is made (stock: after it, so that frozen layers are those of the
      trial before);
    - takes as a trial's objective, where `load_best_model_at_end` is set, that of the checkpoint which is loaded then
      (stock: of the last evaluation);
    - reports to the pruner by the number of the evaluation (stock: by the step, which trials of other batch sizes never
      reach);
    - keeps, with Optuna in one process, only the best trial's checkpoints. Each trial then has a new folder below
      `output_dir`: that of `hp_name` or `run-<number>`, with a number behind it where the name is taken or none, so
      that no trial's checkpoints end up among another's. The trial's attribute `folder` names it, and only such folders
      are deleted.
    """

    args: LayerFusionTrainingArguments

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """Train, as `Trainer.train` does. A trial that ends in a `UserError` or for want of memory, or whose objective
        is not a number, says so in its attribute `error`.

        Raises:
            SearchStopped: the disk refused a trial's checkpoint.
            UserError: a trial's values that do not go with each other, or as the stock method's subclasses.
        """
        if trial is None or self.hp_search_backend is None:
            return super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)
        self._objectives: dict[int, float] = {}
        kept = False
        self._make_folder(trial)
        try:
            self._set_arguments(trial)
            output = super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)
            best_step = self.state.best_global_step
            if self.args.load_best_model_at_end and best_step in self._objectives:
                self.objective = self._objectives[best_step]
            kept = self._is_best(trial)
            if self.objective is not None and math.isnan(self.objective):
                self._tell_failure(trial, "the objective is not a number")  # by which Optuna fails the trial
            else:
                logger.info(f"{self._name_of(trial)}: objective {self.objective}")
            return output
        except StorageError as error:
            # Not a fault of the trial's values. A search goes on after a `UserError`; this one must end.
            raise SearchStopped(str(error)) from error
        except (UserError, torch.OutOfMemoryError) as error:
            self._tell_failure(trial, one_line(error))
            raise
        finally:
            if not kept:
                self._remove_folder(trial)

    def _tell_failure(self, trial: Any, why: str) -> None:
        logger.warning(f"{self._name_of(trial)} failed: {why}")
        if hasattr(trial, "set_user_attr"):
            trial.set_user_attr("error", why)

    def _name_of(self, trial: Any) -> str:
        values = trial if isinstance(trial, dict) else trial.params
        return f"trial {getattr(trial, 'number', '')} {values}"

    def _set_arguments(self, trial: Any) -> None:
        # Ray and W&B hand over the values themselves.
        values = trial if isinstance(trial, dict) else self.hp_space(trial)
        values = {name: value for name, value in values.items() if hasattr(self.args, name)}
        for name, value in values.items():
            setattr(self.args, name, value)
        self.args.check()

    def _is_best(self, trial: Any) -> bool:
        """Whether a trial that has ended beats all before it; the checkpoints of the one that was best go then."""
        study = getattr(trial, "study", None)
        if study is None or self.objective is None or math.isnan(self.objective):
            return False
        try:
            best = study.best_trial
        except ValueError:  # none has ended before
            return True
        sign = 1 if study.direction.name == "MAXIMIZE" else -1
        if sign * self.objective <= sign * best.value:
            return False
        self._remove_folder(best)
        return True

    def _make_folder(self, trial: Any) -> None:
        """Gives an Optuna trial a folder of its own."""
        if not hasattr(trial, "study") or self.args.world_size > 1:
            return
        top = Path(str(self.args.output_dir))
        asked = Path(os.path.normpath(super()._get_output_dir(trial)))
        if top.resolve() not in asked.resolve().parents:
            asked = top / f"run-{trial.number}"
        made = make_own(new_name(asked))
        trial.set_user_attr(FOLDER, os.path.relpath(made, top))

    def _remove_folder(self, trial: Any) -> None:
        name = getattr(trial, "user_attrs", {}).get(FOLDER)
        if name is not None:
            remove_own(Path(str(self.args.output_dir)) / name)

    def _get_output_dir(self, trial: Any) -> str:
        name = getattr(trial, "user_attrs", {}).get(FOLDER)
        return super()._get_output_dir(trial) if name is None else str(Path(str(self.args.output_dir)) / name)

    def _report_to_hp_search(self, trial: Any, step: int, metrics: dict[str, float]) -> None:
        if self.hp_search_backend is None or trial is None:
            return
        # Before the report, which may end the trial.
        self._objectives[step] = self.compute_objective(metrics.copy())
        super()._report_to_hp_search(trial, len(self._objectives), metrics)
