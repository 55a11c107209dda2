"""Options of the stock Trainer as options of this package's."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from transformers import TrainingArguments
from transformers.utils import logging

from hf_layerfusion.errors import UserError
from hf_layerfusion.training.training_arguments import LayerFusionTrainingArguments

logger = logging.get_logger(__name__)

OUTPUT_DIR = "tmp_trainer"
"""The stock Trainer's folder of a run without arguments."""

OTHER_DEFAULTS = ("logging_nan_inf_filter", "restore_callback_states_from_checkpoint")
"""Fields whose default here is not the stock one."""


def own_arguments(args: TrainingArguments | None) -> LayerFusionTrainingArguments:
    """Return the options of a run as `LayerFusionTrainingArguments`.

    Options at their stock default take the default of this package; so does `greater_is_better` where it is what
    transformers concludes from the name of a metric alone.

    Args:
        args: The options: of this package, which are returned as they are, or stock ones; None for stock defaults.

    Raises:
        UserError: Options of another class, whose further fields would have no effect; or values that
            `LayerFusionTrainingArguments` refuses.
    """
    if isinstance(args, LayerFusionTrainingArguments):
        return args
    if args is None:
        logger.info(f"No arguments passed, using `output_dir={OUTPUT_DIR}`.")
        return LayerFusionTrainingArguments(output_dir=OUTPUT_DIR)
    if type(args) is not TrainingArguments:
        raise UserError(
            f"args must be LayerFusionTrainingArguments or TrainingArguments, found {type(args).__name__}; "
            "LayerFusionTrainingArguments takes every field of TrainingArguments"
        )
    defaults = {each.name: each.default for each in fields(TrainingArguments)}
    values: dict[str, Any] = {
        each.name: getattr(args, each.name)
        for each in fields(TrainingArguments)
        if each.init and not (each.name in OTHER_DEFAULTS and getattr(args, each.name) == defaults[each.name])
    }
    metric = args.metric_for_best_model
    if metric is not None and args.greater_is_better == (not metric.endswith("loss")):
        del values["greater_is_better"]
    logger.info(
        "TrainingArguments are used as LayerFusionTrainingArguments, whose further options have their defaults."
    )
    return LayerFusionTrainingArguments(**values)
