"""Pairs of options that exclude each other, with the reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, NamedTuple

from transformers import TrainingArguments
from transformers.trainer_utils import SchedulerType

from hf_layerfusion.errors import UserError


class Exclusion(NamedTuple):
    """Two options that contradict each other.

    Attributes:
        option: the one.
        other: the other.
        reason: what the one does, so that the other would have no effect or a wrong one.
        way_out: what to do.
        is_given: whether a value of `option` asks for what `reason` says.
        is_against: whether a value of `other` is against it.
    """

    option: str
    other: str
    reason: str
    way_out: str = "drop one of them"
    is_given: Callable[[Any], Any] = bool
    is_against: Callable[[Any], Any] = bool


def _not_one(value: float) -> bool:
    return value != 1


def _below_one(value: float | None) -> bool:
    return value is not None and value < 1


_BETWEEN = "evaluates weights between start and end"
_TRAINED_WEIGHTS = "set weight_interpolation=1, or drop the average"
_DECAY = "set epoch_decay=1 or "
_STATES = "trains from states that the encoder put out once, before"

EXCLUSIONS = (
    Exclusion("ema_decay", "average_last", "is one average of the weights, and the other another"),
    Exclusion("weight_interpolation", "ema_decay", _BETWEEN, _TRAINED_WEIGHTS, is_given=_below_one),
    Exclusion("weight_interpolation", "average_last", _BETWEEN, _TRAINED_WEIGHTS, is_given=_below_one),
    Exclusion("head_first_epochs", "freeze_encoder", "is followed by training of the encoder"),
    Exclusion("head_first_epochs", "unfreeze_per_epoch", "trains the head alone first by itself"),
    Exclusion("head_first_epochs", "cache_frozen_states", "keeps the encoder's states by itself"),
    Exclusion("freeze_encoder", "frozen_layers", "keeps every layer"),
    Exclusion("freeze_encoder", "unfreeze_per_epoch", "keeps every layer in every epoch"),
    Exclusion("freeze_encoder", "layer_decay", "leaves no layer a rate", is_against=_not_one),
    Exclusion("freeze_encoder", "embedding_learning_rate", "leaves the embeddings no rate"),
    Exclusion("frozen_layers", "embedding_learning_rate", "keeps the embeddings below the layers"),
    Exclusion(
        "epoch_decay",
        "lr_scheduler_type",
        "is a schedule of its own",
        f"{_DECAY}lr_scheduler_type=constant",
        is_given=_not_one,
        is_against=lambda value: value != SchedulerType.CONSTANT,
    ),
    Exclusion("epoch_decay", "warmup_steps", "has no warm-up", f"{_DECAY}warmup_steps=0", is_given=_not_one),
    Exclusion("regularizers", "label_smoothing_factor", "add to the loss that the model computes itself"),
    Exclusion(
        "distillation_weight", "label_smoothing_factor", "weighs the loss towards the labels as they are"
    ),
    Exclusion(
        "distillation_weight",
        "class_balance",
        "trains on rows that may have no label",
        is_against=lambda value: value != "none",
    ),
    Exclusion("cache_frozen_states", "regularizers", f"{_STATES} any noise or other dropout"),
    Exclusion("cache_frozen_states", "unfreeze_per_epoch", f"{_STATES} any epoch that trains it"),
    Exclusion("cache_frozen_states", "neftune_noise_alpha", f"{_STATES} any noise"),
    Exclusion(
        "cache_frozen_states",
        "include_for_metrics",
        "evaluates without the inputs",
        is_against=lambda value: "inputs" in value,
    ),
    Exclusion(
        "cache_frozen_states",
        "include_num_input_tokens_seen",
        "trains without the tokens to be counted",
        is_against=lambda value: value not in (False, "no"),
    ),
    Exclusion(
        "class_balance",
        "train_sampling_strategy",
        "draws the rows itself",
        "set random or group_by_length, or class_balance=weights",
        is_given=lambda value: value == "sampling",
        is_against=lambda value: value not in ("random", "group_by_length"),
    ),
    Exclusion(
        "class_balance",
        "label_smoothing_factor",
        "weighs the loss that the model computes itself",
        is_given=lambda value: value == "weights",
    ),
    Exclusion(
        "task_mixing",
        "task_temperature",
        "knows no temperature",
        "leave task_temperature out or set task_mixing=temperature",
        is_given=lambda value: value != "temperature",
        is_against=lambda value: value != 2,
    ),
)


def check_exclusions(args: TrainingArguments) -> None:
    """Check that no two options of `args` exclude each other.

    Raises:
        UserError: the first two that do.
    """
    for rule in EXCLUSIONS:
        value, against = getattr(args, rule.option), getattr(args, rule.other)
        if rule.is_given(value) and rule.is_against(against):
            raise UserError(
                f"{rule.option}={_shown(value)} {rule.reason} and excludes {rule.other}={_shown(against)}; "
                f"{rule.way_out}"
            )


def _shown(value: Any) -> str:
    if isinstance(value, Mapping | list):
        return ",".join(map(str, value))
    return str(value.value if isinstance(value, Enum) else value)
