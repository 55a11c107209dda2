"""The private members of `transformers.Trainer` that this package uses, all in one place.

Public methods may be overridden freely; the private members below may change with any release. Each is listed with
its signature, the reason it is needed and the public hook that would make it unnecessary. `tests/training/
test_stock_trainer.py` compares the signatures with the installed transformers and names the member that changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import Trainer
from transformers.trainer_pt_utils import nested_gather


class PrivateMember(NamedTuple):
    """A private member of `transformers.Trainer` or of accelerate that this package relies on.

    Attributes:
        parameters: names of its parameters, without `self`; None for an attribute.
        reason: why it is needed.
        missing: the public hook that transformers lacks.
    """

    parameters: tuple[str, ...] | None
    reason: str
    missing: str


OVERRIDDEN = {
    "_save_checkpoint": PrivateMember(
        ("model", "trial"),
        "The manifest must be written after every other file of a checkpoint, and before older checkpoints are "
        "deleted and before the checkpoint is pushed.",
        "A callback between the last file and rotation: `on_save` runs after rotation and push.",
    ),
    "_run_epoch": PrivateMember(
        (
            "model",
            "epoch",
            "train_dataloader",
            "steps_in_epoch",
            "num_update_steps_per_epoch",
            "trial",
            "ignore_keys_for_eval",
            "start_time",
            "resume_from_checkpoint",
            "epochs_trained",
            "steps_trained_in_current_epoch",
        ),
        "A resumed run that was already over (last step taken, patience exhausted) must not take another step.",
        "`should_training_stop` is honoured only after a step; nothing ends a run before its first one.",
    ),
    "_get_grad_norm": PrivateMember(
        ("model", "grad_norm"),
        "The divergence guard reads the gradient's norm before the optimizer's step without computing it twice.",
        "`on_pre_optimizer_step` is not told the norm.",
    ),
    "_determine_best_metric": PrivateMember(
        ("metrics", "trial"),
        "Only an evaluation whose weights are saved can be the best one.",
        "A way to say which evaluations count towards `best_metric`.",
    ),
    "_load_best_model": PrivateMember(
        (),
        "The best checkpoint is verified before it is loaded, and all its adapters are read.",
        "A callback before the best model is loaded.",
    ),
}
"""Private methods that `LayerFusionTrainer` overrides."""

CALLED = {
    "_get_dataloader": PrivateMember(
        ("dataset", "description", "batch_size", "sampler_fn", "is_training", "dataloader_key"),
        "Builds a data loader with a sampler of this package and the columns that the model takes.",
        "A public data loader builder that takes a sampler.",
    ),
    "_get_output_dir": PrivateMember(
        ("trial",),
        "The folder of a hyperparameter search's trial holds its checkpoints.",
        "A public method of the same purpose.",
    ),
    "_maybe_log_save_evaluate": PrivateMember(
        (
            "tr_loss",
            "grad_norm",
            "model",
            "trial",
            "epoch",
            "ignore_keys_for_eval",
            "start_time",
            "learning_rate",
        ),
        "Does what was due at the end of an epoch when its last checkpoint was written before that.",
        "Resuming at the end of an epoch as if it had not been interrupted.",
    ),
    "_set_signature_columns_if_needed": PrivateMember(
        (),
        "Columns that an encoder declares as its inputs are kept, also where no signature names them.",
        "A way to say which columns the model takes.",
    ),
    "_prepare_inputs": PrivateMember(
        ("inputs",),
        "Moves a batch to the device for an objective that computes its loss itself.",
        "A public method of the same purpose.",
    ),
    "_finish_current_push": PrivateMember(
        (),
        "Waits for the push in progress before another one.",
        "A public method of the same purpose.",
    ),
}
"""Private methods that are called."""

ATTRIBUTES = {
    "_tr_loss": "Losses since the last entry of the log, which a resumed run continues.",
    "_total_loss_scalar": "Losses that were logged, which a resumed run continues.",
    "_globalstep_last_logged": "The step of the last entry of the log, which a resumed run continues.",
    "_train_batch_size": "The batch size, which `auto_find_batch_size` may have lowered.",
    "_signature_columns": "The columns that are not removed from a data set.",
    "_trial": "The trial of a hyperparameter search.",
}
"""Private attributes of a Trainer that are read or set."""


class RunningLoss:
    """The sums from which the stock Trainer logs the mean training loss.

    Args:
        trainer: The Trainer; the sums exist once training has begun.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer: Any = trainer

    @property
    def total(self) -> float:
        """The sum of all losses that were logged."""
        return float(self._trainer._total_loss_scalar)

    @property
    def since_log(self) -> Tensor:
        """The sum of this process's losses since the last entry of the log; changed in place."""
        total: Tensor = self._trainer._tr_loss
        return total

    def state(self) -> dict[str, Any]:
        """Return the sums as JSON. Every process must call it."""
        loss = nested_gather(self.since_log, self._trainer.args.parallel_mode)
        return {
            "loss": loss.mean().item(),
            "logged_loss": self.total,
            "last_logged": self._trainer._globalstep_last_logged,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from what `state` returned."""
        trainer = self._trainer
        trainer._tr_loss = torch.full_like(trainer._tr_loss, state["loss"])
        trainer._total_loss_scalar = state["logged_loss"]
        trainer._globalstep_last_logged = state["last_logged"]


def keep_columns(trainer: Trainer, names: Sequence[str]) -> None:
    """Keep columns of data sets that the signature of the model does not name."""
    if names:
        private: Any = trainer
        private._set_signature_columns_if_needed()
        private._signature_columns += [name for name in names if name not in private._signature_columns]


@contextmanager
def column_kept(trainer: Trainer, name: str) -> Iterator[None]:
    """Keep a column of data sets whose loaders are made in the block, which is no input of the model."""
    private: Any = trainer
    private._set_signature_columns_if_needed()
    columns = private._signature_columns
    private._signature_columns = [*columns, name]
    try:
        yield
    finally:
        private._signature_columns = columns


def mark_skipped(optimizer: Any, is_skipped: bool) -> None:
    """Tell accelerate whether the optimizer's last step was skipped, so that the scheduler waits too.

    accelerate knows only of steps that a gradient scaler skips, and not of those of fused optimizers; it has no public
    way to be told of others.

    Args:
        optimizer: accelerate's wrapper of the optimizer.
        is_skipped: Whether its step was skipped.
    """
    optimizer._is_overflow = is_skipped


def forget_preparation(model: Any) -> None:
    """Remove accelerate's mark of a model that it has prepared.

    An evaluation before training marks the bare model. accelerate would then leave it bare in training too, and each of
    several processes would train weights of its own.
    """
    model.__dict__.pop("_is_accelerate_prepared", None)
