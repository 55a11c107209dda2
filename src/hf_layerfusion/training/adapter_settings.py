"""Checks of adapter settings: what cannot be trained, saved and loaded here is refused before memory is taken."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from peft import PeftConfig
from peft.utils import PeftType
from torch import nn
from transformers import PreTrainedModel

from hf_layerfusion.errors import UserError

REFUSED_METHODS = {
    "ADALORA": "takes steps of its own in training",
    "POLY": "is told the task of each text by `task_ids`",
    "SHADOW": "trains a second model beside the encoder",
    "XLORA": "combines adapters that were trained before",
    "ADAPTION_PROMPT": "is made for LLaMA's layers",
    "TRAINABLE_TOKENS": "would leave fuser and heads at random, as LoraConfig(trainable_token_indices=…) does not",
}
"""Methods of peft without virtual tokens that are refused, with the reason."""

REFUSED_SETTINGS = {
    "layer_replication": "would change how many layers there are",
    "target_parameters": "names weights outside of linear layers",
    "alora_invocation_tokens": "is made for texts that are generated",
    "arrow_config": "combines adapters that were trained before",
}
"""Settings of LoRA that are always refused, with the reason."""

OWN_STEPS = ("corda", "eva", "lora_ga", "loftq")
"""Values of `init_lora_weights` that read data or the quantized encoder before training."""

LARGEST_NUMBER = 1_000_000
RANKS = ("r", "init_r", "target_r", "rank_pattern", "vector_length")


def check_settings(peft_config: PeftConfig, tasks: Sequence[str]) -> None:
    """Check the method and the settings of an adapter.

    Args:
        peft_config: The settings.
        tasks: The tasks that are to have an adapter each; empty for one adapter.

    Raises:
        UserError: A method or setting that cannot be used.
    """
    config: Any = peft_config
    kind = PeftType(config.peft_type).value
    if config.is_prompt_learning:
        raise UserError(
            f"peft_config must be of a method that changes layers, such as LoraConfig, found {kind}: virtual tokens "
            "would be fused as if they were text; choose another"
        )
    if kind in REFUSED_METHODS or not {"target_modules", "modules_to_save"} <= vars(config).keys():
        reason = REFUSED_METHODS.get(kind, "chooses no modules")
        raise UserError(
            f"peft_config must be of a method that changes the encoder's layers, found {kind}, which {reason}; choose "
            "another, such as LoraConfig"
        )
    for name, reason in REFUSED_SETTINGS.items():
        if getattr(config, name, None):
            raise UserError(f"peft_config: {name} must be left out, as it {reason}, found it; leave it out")
    start = getattr(config, "init_lora_weights", True)
    if start in OWN_STEPS:
        raise UserError(
            f"peft_config: init_lora_weights must need no steps before training, found {start!r}; leave it out"
        )
    if not tasks:
        return
    if isinstance(start, str) and start not in ("gaussian", "orthogonal"):
        raise UserError(
            f"peft_config: init_lora_weights={start!r} changes the layers that tasks share, found an adapter for each "
            "task; give them one adapter (each_task=False) or leave it out"
        )
    if getattr(config, "bias", "none") != "none":
        raise UserError(
            f"peft_config: bias={config.bias!r} trains biases that tasks share, found an adapter for each task; give "
            "them one adapter (each_task=False) or leave it out"
        )


def check_task_names(model: PreTrainedModel, tasks: Sequence[str]) -> None:
    """Check that no task has the name of a module or weight of the model: peft tells adapters apart by names.

    Raises:
        UserError: Names the task.
    """
    own = {"heads", "copies"}  # what stands below these is called as the tasks
    parts = {"base_layer", "modules_to_save", "original_module"}
    for name, _ in model.named_parameters():
        steps = name.split(".")
        parts |= {part for before, part in zip(["", *steps], steps, strict=False) if before not in own}
    if taken := sorted(parts.intersection(tasks)):
        raise UserError(
            f"task {taken[0]!r}: must not be called as a module or weight of the model where each task has an adapter, "
            "found one called so; rename the task, or give all tasks one adapter (each_task=False)"
        )


def check_numbers(peft_config: PeftConfig, model: nn.Module) -> None:
    """Check that numbers are finite and no larger than anything the model has: such adapters would take all memory.

    Raises:
        UserError: Names the setting.
    """
    widest = max((max(m.weight.shape) for m in model.modules() if isinstance(m, nn.Linear)), default=0)
    for field in dataclasses.fields(peft_config):
        for name, value in _numbers(field.name, getattr(peft_config, field.name)):
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(f"peft_config: {name} must be a finite number, found {value}; correct it")
            largest = widest if field.name in RANKS else LARGEST_NUMBER
            if value > largest and "seed" not in name and "key" not in name:
                raise UserError(f"peft_config: {name} must be {largest} or less, found {value}; lower it")


def _numbers(name: str, value: Any) -> Iterator[tuple[str, int | float]]:
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield name, value
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from _numbers(f"{name}[{key!r}]", each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _numbers(name, each)
