"""A Trainer for texts without labels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.trainer_utils import EvalLoopOutput

from hf_layerfusion.errors import UserError
from hf_layerfusion.regularizers.task_outputs import ONE_TASK
from hf_layerfusion.training.objectives import Objective
from hf_layerfusion.training.tasks import TaskLoaders
from hf_layerfusion.training.trainer import LayerFusionTrainer
from hf_layerfusion.training.training_arguments import LayerFusionTrainingArguments


class PretrainingTrainer(LayerFusionTrainer):
    """Trains an encoder, with the head of its objective, on a `TextStream`.

    `eval_loss` is the mean over all held-out labels (masked tokens), or rows where there are none, with the same masks
    at each evaluation; it is not the mean of batches' means.

    Args:
        model: of the objective's `model_class`.
        args: see `LayerFusionTrainingArguments`; what is of labels must be left at its default.
        objective: what is trained.
        processing_class: the tokenizer.
        **kwargs: Every other argument of `Trainer`.

    Raises:
        UserError: options that are of labels, or that a stream has no room for; see also `LayerFusionTrainer`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        args: LayerFusionTrainingArguments,
        objective: Objective,
        processing_class: PreTrainedTokenizerBase,
        **kwargs: Any,
    ) -> None:
        check_arguments(args, objective)
        # `objective` is the stock Trainer's, for searches.
        self._objective = objective
        super().__init__(
            model,
            args,
            processing_class=processing_class,
            data_collator=objective.collator(processing_class),
            **kwargs,
        )

    @property
    def _loss_depends_on_device_batch(self) -> bool:
        return self._objective.least_batch > 1

    def metric_names(self) -> tuple[str, ...]:
        """Return the loss on held-out texts, and the objective's metrics of it."""
        return ("loss", *self._objective.metrics(0.0))

    def task_losses(self, model: nn.Module, inputs: dict[str, Any]) -> tuple[dict[str, Tensor], Any]:
        """Return the objective's loss."""
        return {ONE_TASK: self._objective.loss(model, inputs)}, None

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Any, Any]:
        """Return the objective's loss of a batch, and no predictions."""
        with torch.no_grad():
            inputs = self._prepare_inputs(inputs)
            loss = self.task_losses(model, inputs)[0][ONE_TASK]
        if self._evaluation is not None:
            self._evaluation.add_loss(loss, self._evaluation.count_items(inputs, self.args.device))
        return loss, None, None

    def evaluation_loop(
        self,
        dataloader: DataLoader | TaskLoaders,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Evaluate as `LayerFusionTrainer.evaluation_loop` does, and add the objective's metrics of the loss."""
        devices = [self.args.device] if self.args.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(self.args.seed)  # the same dropout masks each time, where the objective has any
            output = super().evaluation_loop(
                dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
            )
        found = self._objective.metrics(output.metrics[f"{metric_key_prefix}_loss"])
        metrics = output.metrics | {f"{metric_key_prefix}_{name}": value for name, value in found.items()}
        return output._replace(metrics=metrics)


def check_arguments(args: LayerFusionTrainingArguments, objective: Objective) -> None:
    """Check that options suit texts without labels, a stream, and the objective.

    Raises:
        UserError: the first such option, and the value that does.
    """
    if args.per_device_train_batch_size < objective.least_batch:
        raise UserError(
            f"per_device_train_batch_size must be {objective.least_batch} or more for {type(objective).__name__}, "
            f"found {args.per_device_train_batch_size}; with less the loss is 0 and nothing is learned"
        )
    allowed: dict[str, tuple[Any, ...]] = {
        "regularizers": (None, {}),
        "cache_frozen_states": (None,),
        "class_balance": ("none",),
        "distillation_weight": (None,),
        "head_first_epochs": (None,),
        "gradient_surgery": (None,),
        "label_smoothing_factor": (0,),
        "train_sampling_strategy": ("random",),
        "dataloader_num_workers": (0, 1),
    }
    for name, values in allowed.items():
        if (found := getattr(args, name)) not in values:
            raise UserError(
                f"{name}={found} does not go with training on a stream of texts without labels; set {name}={values[0]}"
            )
