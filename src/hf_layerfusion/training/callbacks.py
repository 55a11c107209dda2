"""Callbacks of the Trainer."""

from __future__ import annotations

from typing import Any, cast

from transformers import EarlyStoppingCallback, TrainerControl, TrainerState, TrainingArguments

from hf_layerfusion.training.arguments import LayerFusionTrainingArguments


class EarlyStopping(EarlyStoppingCallback):
    """Stops after `early_stopping_patience` evaluations in a row that did not better `metric_for_best_model`.

    Resumed from a checkpoint where patience had run out, a run stops at once, unless it has been given more.
    """

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take patience from the arguments, so that it may be changed on resuming."""
        super().on_train_begin(args, state, control, **kwargs)
        self.early_stopping_patience = cast(
            int, cast(LayerFusionTrainingArguments, args).early_stopping_patience
        )
        if self.early_stopping_patience_counter >= self.early_stopping_patience:
            control.should_training_stop = True
