"""A Trainer that adds to the loss what regularizers make of further passes over the batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_layerfusion.errors import UserError
from hf_layerfusion.regularizers import task_outputs as by_task
from hf_layerfusion.regularizers.registry import make_regularizers
from hf_layerfusion.regularizers.regularizer import Regularizer, regularized_pass
from hf_layerfusion.training.multitask_training import MultitaskTraining
from hf_layerfusion.training.training_arguments import LayerFusionTrainingArguments


class RegularizedTraining(MultitaskTraining):
    """Adds the `regularizers` of the arguments to each task's loss, logs them, and saves what they need to go on."""

    def __init__(
        self,
        model: PreTrainedModel | nn.Module | None = None,
        args: LayerFusionTrainingArguments | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(model, args, **kwargs)
        self._regularizers = make_regularizers(self.args.named_regularizers)
        self._terms: dict[str, list[Tensor]] = {}
        if self._regularizers:
            if self.compute_loss_func is not None:
                raise UserError(
                    "regularizers must be added to the model's own loss, found another (compute_loss_func); leave one "
                    "of them out"
                )
            self.add_callback(_AfterStep(self._regularizers))

    def task_losses(self, model: nn.Module, inputs: dict[str, Any]) -> tuple[dict[str, Tensor], Any]:
        """As `MultitaskTraining.task_losses`, and in training the regularizers' terms."""
        if not (self._regularizers and model.training):
            return super().task_losses(model, inputs)

        def losses(batch: Any, outputs: Any) -> dict[str, Tensor]:
            return self.balanced(batch, outputs, by_task.task_losses(batch, outputs))

        found = regularized_pass(
            model,
            inputs,
            list(self._regularizers.values()),
            self.state.global_step,
            losses,
            self.args.low_memory,
        )
        for name, value in found.logs.items():
            self._terms.setdefault(name, []).append(value.detach())
        return found.losses, found.outputs

    def keep_losses(self) -> Callable[[], None]:
        """As `MultitaskTraining.keep_losses`, and of what the regularizers tell."""
        take_back_losses = super().keep_losses()
        known = {name: len(values) for name, values in self._terms.items()}

        def rollback() -> None:
            take_back_losses()
            self._terms = {name: self._terms[name][:count] for name, count in known.items()}

        return rollback

    def log_state(self) -> dict[str, Any]:
        """Return `MultitaskTraining.log_state` with the values that the regularizers log."""
        terms = {name: torch.stack(values).tolist() for name, values in sorted(self._terms.items()) if values}
        return super().log_state() | {"terms": terms}

    def load_log_state(self, state: dict[str, Any]) -> None:
        """Take up what `log_state` returned."""
        super().load_log_state(state)
        terms = state["terms"].items()
        self._terms = {name: list(torch.tensor(values, device=self.args.device)) for name, values in terms}

    def reset(self) -> None:
        """As `MultitaskTraining.reset`; what regularizers remember of the model's weights goes too."""
        super().reset()
        self._terms.clear()
        for regularizer in self._regularizers.values():
            regularizer.load_state_dict({})

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As the stock method; adds the mean of what the regularizers tell, since the last entry."""
        if "learning_rate" in logs:
            logs |= {name: torch.stack(values).mean().item() for name, values in sorted(self._terms.items())}
            self._terms.clear()
        super().log(logs, start_time)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.args.should_save:
            for name, regularizer in self._regularizers.items():
                if state := regularizer.state_dict():
                    save_file(
                        {key: value.contiguous() for key, value in state.items()}, _file(output_dir, name)
                    )

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        for name, regularizer in self._regularizers.items():
            if checkpoint is not None and _file(checkpoint, name).exists():
                regularizer.load_state_dict(load_file(_file(checkpoint, name)))


def _file(folder: str, name: str) -> Path:
    return Path(folder) / f"regularizer_{name}.safetensors"


class _AfterStep(TrainerCallback):
    """Tells the regularizers that the weights have changed."""

    def __init__(self, regularizers: dict[str, Regularizer]) -> None:
        self.regularizers = regularizers

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if kwargs["optimizer"].step_was_skipped:
            return
        for regularizer in self.regularizers.values():
            regularizer.after_step(kwargs["model"])
