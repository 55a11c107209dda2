"""Epochs that train fuser and head alone, before the encoder is trained with them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from transformers import Trainer
from transformers.trainer_utils import SchedulerType
from transformers.utils import logging

from hf_layerfusion.training.own_folders import make_own, remove_own
from hf_layerfusion.training.training_arguments import LayerFusionTrainingArguments

logger = logging.get_logger(__name__)

# Options of the main training that this one does without, or that need a trained encoder or its inputs.
_LEFT_OUT: dict[str, Any] = {
    "head_first_epochs": None,
    "ema_decay": None,
    "average_last": None,
    "weight_interpolation": None,
    "regularizers": None,
    "gradient_surgery": None,
    "frozen_layers": 0,
    "layer_decay": 1.0,
    "embedding_learning_rate": None,
    "early_stopping_patience": None,
    "neftune_noise_alpha": None,
    "include_for_metrics": [],
    "include_num_input_tokens_seen": "no",
    "eval_strategy": "no",
    "eval_on_start": False,
    "save_strategy": "no",
    "logging_strategy": "no",
    "load_best_model_at_end": False,
    "best_of_each_task": False,
    "metric_for_best_model": None,
    "push_to_hub": False,
    "report_to": "none",
    "max_steps": -1,
    "auto_find_batch_size": False,
}

# Schedules that follow evaluations, of which there are none yet.
_OF_EVALUATIONS = (SchedulerType.REDUCE_ON_PLATEAU, SchedulerType.GREEDY)


def train_head_first(trainer: Trainer, make: Callable[..., Trainer]) -> None:
    """Train the fuser and head of a Trainer's model for `head_first_epochs`, on the states of the encoder as it is.

    The encoder reads each text once, without dropout. Rates, schedule and batches are those of the main training, with
    a constant rate in place of a schedule that follows evaluations, such as `reduce_lr_on_plateau`. With
    `init_from_probe` the head starts from a linear probe. With a head that fits the encoder, the first steps do not
    distort its features (Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features", section 3.4).

    Args:
        trainer: the `LayerFusionTrainer` of the main training, which has not begun.
        make: makes a Trainer of the same class, with other arguments of `LayerFusionTrainer`.

    Raises:
        UserError: as `check_cacheable`: a model that takes no states in place of texts.
    """
    model: Any = trainer.model
    given = cast(LayerFusionTrainingArguments, trainer.args)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    logger.info(f"head_first_epochs={given.head_first_epochs}: fuser and head are trained first")
    folder = Path(str(given.output_dir)) / "head-first-states"
    changes = _LEFT_OUT | {
        "freeze_encoder": True,
        "cache_frozen_states": str(folder),
        "num_train_epochs": given.head_first_epochs,
    }
    if given.lr_scheduler_type in _OF_EVALUATIONS:
        changes |= {"lr_scheduler_type": "constant", "lr_scheduler_kwargs": None}
    args = dataclasses.replace(given, **changes)
    is_main = trainer.is_world_process_zero()
    if is_main:
        remove_own(folder)  # of a run that was interrupted
        make_own(folder)
    trainer.accelerator.wait_for_everyone()
    tasks = getattr(trainer, "tasks", None)
    one = {"train_dataset": trainer.train_dataset, "data_collator": trainer.data_collator}
    try:
        make(
            model=model,
            args=args,
            processing_class=trainer.processing_class,
            compute_loss_func=trainer.compute_loss_func,
            optimizer_cls_and_kwargs=trainer.optimizer_cls_and_kwargs,
            **(one if tasks is None else tasks.as_given()),
        ).train()
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
        trainer.accelerator.wait_for_everyone()
        if is_main:
            remove_own(folder)
