"""Terms that regularizers add to the training loss, with what they log and what they need to go on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_layerfusion.regularizers.regularizer import Regularizer, regularized_pass
from hf_layerfusion.training.log_aggregation import Logs, LogSource


class LossTerms(TrainerCallback, LogSource):
    """Adds the terms of regularizers to the loss of each task, and logs their means.

    Args:
        regularizers: The regularizers by name.
        low_memory: See `regularized_pass`.
        device: The device that trains.
    """

    def __init__(
        self,
        regularizers: Mapping[str, Regularizer],
        low_memory: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        self.regularizers, self.low_memory, self.device = dict(regularizers), low_memory, device
        self._logged: dict[str, list[Tensor]] = {}

    def losses(
        self,
        model: nn.Module,
        batch: dict[str, Any],
        step: int,
        own_losses: Callable[[Any, Any], dict[str, Tensor]],
    ) -> tuple[dict[str, Tensor], Any]:
        """Run a batch.

        Args:
            model: The model, wrapped or not.
            batch: Its inputs.
            step: Number of the optimizer step.
            own_losses: Returns the loss of each task, without terms, from inputs and outputs.

        Returns:
            The loss of each task with its terms, and the model's output.
        """
        found = regularized_pass(
            model, batch, list(self.regularizers.values()), step, own_losses, self.low_memory
        )
        for name, value in found.logs.items():
            self._logged.setdefault(name, []).append(value.detach())
        return found.losses, found.outputs

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Tell the regularizers that the weights have changed."""
        if not kwargs["optimizer"].step_was_skipped:
            for regularizer in self.regularizers.values():
                regularizer.after_step(kwargs["model"])

    def reset(self) -> None:
        """Forget what is logged and what the regularizers remember of the model's weights."""
        self._logged.clear()
        for regularizer in self.regularizers.values():
            regularizer.load_state_dict({})

    def add_to(self, logs: Logs, is_step: bool) -> None:
        """Add the mean of each value since the last entry."""
        if is_step:
            logs |= {name: torch.stack(values).mean().item() for name, values in sorted(self._logged.items())}
            self._logged.clear()

    def log_state(self) -> dict[str, Any]:
        """Return the values since the last entry."""
        return {
            "terms": {
                name: torch.stack(values).tolist() for name, values in sorted(self._logged.items()) if values
            }
        }

    def load_log_state(self, state: dict[str, Any]) -> None:
        """Continue from `state`, also that of a run without regularizers."""
        self._logged = {
            name: list(torch.tensor(values, device=self.device))
            for name, values in state.get("terms", {}).items()
        }

    def snapshot(self) -> Callable[[], None]:
        """Return a function that takes back the values added from now on."""
        known = {name: len(values) for name, values in self._logged.items()}

        def rollback() -> None:
            self._logged = {name: self._logged[name][:count] for name, count in known.items()}

        return rollback

    def save(self, checkpoint: Path) -> None:
        """Write what the regularizers need to go on into a checkpoint."""
        for name, regularizer in self.regularizers.items():
            if state := regularizer.state_dict():
                tensors = {key: value.contiguous() for key, value in state.items()}
                save_file(tensors, _file(checkpoint, name))

    def load(self, checkpoint: Path) -> None:
        """Read what `save` wrote."""
        for name, regularizer in self.regularizers.items():
            if _file(checkpoint, name).exists():
                # Copied to memory that torch aligns: products of tensors that lie otherwise may round otherwise.
                state = {key: value.clone() for key, value in load_file(_file(checkpoint, name)).items()}
                regularizer.load_state_dict(state)


def _file(checkpoint: Path, name: str) -> Path:
    return checkpoint / f"regularizer_{name}.safetensors"
