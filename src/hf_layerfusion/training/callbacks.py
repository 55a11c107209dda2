"""Callbacks that change rates, what is trained and when training ends."""

from __future__ import annotations

import math
from typing import Any, cast

from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import (
    EarlyStoppingCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from hf_layerfusion.training.parameter_parts import EMBEDDINGS, TOP, ParameterPart, depth_of, parameter_parts
from hf_layerfusion.training.training_arguments import LayerFusionTrainingArguments


class EarlyStopping(EarlyStoppingCallback):
    """Stops after `early_stopping_patience` evaluations in a row that did not better `metric_for_best_model`.

    Resumed from a checkpoint where patience had run out, a run stops at once, unless it has been given more.
    """

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take patience from the arguments, so that it may be changed on resuming."""
        super().on_train_begin(args, state, control, **kwargs)
        if state.global_step == 0:  # a search trains one model after another
            self.early_stopping_patience_counter = 0
        self.early_stopping_patience = cast(
            int, cast(LayerFusionTrainingArguments, args).early_stopping_patience
        )
        if self.early_stopping_patience_counter >= self.early_stopping_patience:
            control.should_training_stop = True

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float],
        **kwargs: Any,
    ) -> None:
        """Count as the stock callback does, with the patience of the arguments: a resumed run may evaluate before it
        begins to train."""
        self.early_stopping_patience = cast(
            int, cast(LayerFusionTrainingArguments, args).early_stopping_patience
        )
        super().on_evaluate(args, state, control, metrics, **kwargs)


class EpochDecay(TrainerCallback):
    """Multiplies every rate by `epoch_decay` after each epoch (GRUBERT, section 2.3).

    It takes the place of the constant schedule, whose state a checkpoint keeps.
    """

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Set the factor of each step."""
        decay = cast(LayerFusionTrainingArguments, args).epoch_decay
        if decay == 1:
            return
        steps_per_epoch = math.ceil(len(kwargs["train_dataloader"]) / args.gradient_accumulation_steps)
        schedule = cast(LambdaLR, kwargs["lr_scheduler"])
        schedule.lr_lambdas = [lambda step: decay ** (step // steps_per_epoch)] * len(schedule.lr_lambdas)


class GradualUnfreezing(TrainerCallback):
    """In epoch e, from 0, trains the top e times `unfreeze_per_epoch` layers of the encoder, and with all of them its
    embeddings (Howard and Ruder 2018, section 3.3).

    Gradients are switched off when training has begun, not before: of several processes, each must have met every
    parameter that will be trained.
    """

    def __init__(self) -> None:
        self.trained: list[tuple[ParameterPart, nn.Parameter]] = []

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Remember which parameters are to be trained at all."""
        model = kwargs["model"]
        self.depth = depth_of(model)
        places = parameter_parts(model)
        self.trained = [
            (places[id(parameter)], parameter) for parameter in model.parameters() if parameter.requires_grad
        ]

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Set which of them have gradients in this epoch."""
        per_epoch = cast(int, cast(LayerFusionTrainingArguments, args).unfreeze_per_epoch)
        lowest = self.depth - int(state.epoch or 0) * per_epoch
        for place, parameter in self.trained:
            parameter.requires_grad_(self._is_trained(place, lowest))

    def _is_trained(self, place: ParameterPart, lowest: int) -> bool:
        if place.part == EMBEDDINGS:
            return lowest <= 0
        if place.part == TOP:
            return lowest < self.depth  # with the first layers
        return place.layer is None or place.layer >= lowest

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave them as they were."""
        self.unfreeze()

    def unfreeze(self) -> None:
        """Give all of them gradients again, when training has ended or was interrupted."""
        for _, parameter in self.trained:
            parameter.requires_grad_(True)
        self.trained = []
