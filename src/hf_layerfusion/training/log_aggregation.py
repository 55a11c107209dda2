"""Sums between two entries of the training log, kept in checkpoints, so that an interrupted run logs the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_layerfusion.training.stock_trainer import RunningLoss

LOG_STATE_NAME = "log_state.json"
"""The file of a checkpoint that holds the state of the log."""

Logs = dict[str, float]


class LogSource:
    """Adds values to the entries of the log, and keeps what it sums up for them in checkpoints.

    Subclasses override what they need. The keys of `log_state` must be unique among the sources of a run.
    """

    def add_to(self, logs: Logs, is_step: bool) -> None:
        """Add values to an entry of the log, in place.

        Args:
            logs: The entry.
            is_step: Whether it is one of training steps, rather than of an evaluation or of the whole run. Sums start
                over then.
        """

    def log_state(self) -> dict[str, Any]:
        """Return the sums as JSON. Called on every process, at the same step."""
        return {}

    def load_log_state(self, state: dict[str, Any]) -> None:
        """Continue from `state`, which holds what `log_state` of every source returned."""

    def reset(self) -> None:
        """Start over: a search trains one model after another."""

    def snapshot(self) -> Callable[[], None]:
        """Return a function that takes back everything summed up from now on, for a step that is skipped."""
        return lambda: None


class TrainingLog:
    """All sources of a run's log: adds to its entries, and saves and loads their state.

    Args:
        running_loss: The stock Trainer's sums.
    """

    def __init__(self, running_loss: RunningLoss) -> None:
        self.running_loss = running_loss
        self.sources: list[LogSource] = []

    def add_to(self, logs: Logs) -> None:
        """Add what every source has to an entry of the log, in place."""
        is_step = "learning_rate" in logs
        for source in self.sources:
            source.add_to(logs, is_step)

    def reset(self) -> None:
        """Reset every source."""
        for source in self.sources:
            source.reset()

    def snapshot(self) -> Callable[[], None]:
        """Return a function that takes back what is summed up from now on."""
        loss = self.running_loss.since_log.clone()
        rollbacks = [source.snapshot() for source in self.sources]

        def rollback() -> None:
            self.running_loss.since_log.copy_(loss)
            for each in rollbacks:
                each()

        return rollback

    def state(self) -> dict[str, Any]:
        """Return the state of the log as JSON. Every process must call it, at the same step."""
        state = self.running_loss.state()
        for source in self.sources:
            state |= source.log_state()
        return state

    def load(self, checkpoint: str | Path) -> dict[str, Any] | None:
        """Continue the log of a checkpoint.

        Returns:
            Its state, or None for a checkpoint written before there was one.
        """
        path = Path(checkpoint) / LOG_STATE_NAME
        if not path.exists():
            return None
        state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        self.running_loss.load_state(state)
        for source in self.sources:
            source.load_log_state(state)
        return state


class LastStep(TrainerCallback, LogSource):
    """Remembers the last step's rates and gradient norm, and whether its epoch has ended.

    Logs the rate of each part of the model: `learning_rate` is the encoder's, or that of its top layer; the rates of
    other parts are added where they differ, as `fusion_learning_rate`, `layer_0_learning_rate` and so on.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget the last step."""
        self.rates: dict[str | None, float] = {}
        self.learning_rate: float | None = None
        self.grad_norm: float | None = None
        self.epoch_is_over = False

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Note that an epoch is under way."""
        self.epoch_is_over = False

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Remember the rates that the step was taken with; the scheduler changes them afterwards."""
        groups: Sequence[dict[str, Any]] = kwargs["optimizer"].param_groups
        self.rates = {group.get("name"): float(group["lr"]) for group in groups}
        self.learning_rate = float(groups[0]["lr"])

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Note that the epoch has ended."""
        self.epoch_is_over = True

    def add_to(self, logs: Logs, is_step: bool) -> None:
        """Add the rates of the last step."""
        if not is_step:
            return
        rates = {str(name).removesuffix("_no_decay"): rate for name, rate in self.rates.items() if name}
        in_encoder = [rate for name, rate in rates.items() if name not in ("fusion", "head", "embeddings")]
        if in_encoder:
            logs["learning_rate"] = in_encoder[-1]
        logs |= {
            f"{name}_learning_rate": rate for name, rate in rates.items() if rate != logs["learning_rate"]
        }

    def log_state(self) -> dict[str, Any]:
        """Return what is known of the last step."""
        return {
            "epoch_is_over": self.epoch_is_over,
            "grad_norm": self.grad_norm,
            "learning_rate": self.learning_rate,
            "rates": list(self.rates.items()),
        }

    def load_log_state(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self.epoch_is_over = state["epoch_is_over"]
        self.grad_norm, self.learning_rate = state["grad_norm"], state["learning_rate"]
        self.rates = dict(state["rates"])


class WholeRunLoss(LogSource):
    """Makes `train_loss` of a resumed run the mean over all of its steps; the stock Trainer's is over those since the
    checkpoint.

    Args:
        running_loss: The stock Trainer's sums.
        global_step: Returns the number of steps taken.
    """

    def __init__(self, running_loss: RunningLoss, global_step: Callable[[], int]) -> None:
        self.running_loss, self.global_step = running_loss, global_step
        self.is_resumed = False

    def reset(self) -> None:
        """Forget a resumed run."""
        self.is_resumed = False

    def load_log_state(self, state: dict[str, Any]) -> None:
        """Note that the sums are those of all steps."""
        self.is_resumed = True

    def add_to(self, logs: Logs, is_step: bool) -> None:
        """Set `train_loss`."""
        if self.is_resumed and "train_loss" in logs:
            logs["train_loss"] = self.running_loss.total / max(self.global_step(), 0.001)
