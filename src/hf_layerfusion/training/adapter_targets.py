"""What of a model an adapter changes, and what is trained and saved beside it: found from the model."""

from __future__ import annotations

import copy
import re
from collections.abc import Collection
from typing import Any, cast

from peft import PeftConfig
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.utils import (
    TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING,
    TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING,
    PeftType,
)
from torch import nn
from transformers import PreTrainedModel

from hf_layerfusion.errors import UserError
from hf_layerfusion.losses.layers import encoders_of

ALL_LINEAR = "all-linear"


def task_names(model: nn.Module) -> list[str]:
    """The tasks that a model declares by name; none for a model of one task."""
    return list(getattr(getattr(model, "config", None), "tasks", None) or ())


def completed(peft_config: PeftConfig, model: PreTrainedModel, task: str | None = None) -> PeftConfig:
    """A copy of `peft_config` with the modules that it changes and saves in `model`.

    Args:
        peft_config: see `add_adapters`.
        model: the model.
        task: whose layers and head alone are meant; None: all.

    Raises:
        UserError: as `add_adapters`.
    """
    config = cast(Any, copy.deepcopy(peft_config))
    encoders = adaptable_encoders(model, task)
    model_type = next(iter(encoders.values())).config.model_type
    kind = nn.LayerNorm if config.peft_type == PeftType.LN_TUNING else nn.Linear
    names = {name for name, module in inner_layers(encoders).items() if isinstance(module, kind)}
    if config.peft_type == PeftType.IA3 and config.feedforward_modules is None:
        if model_type not in TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING:
            raise UserError(
                f"peft_config: peft knows no feedforward_modules of '{model_type}' for IA3, found none given; name "
                "target_modules and feedforward_modules"
            )
        table = TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING
        config.feedforward_modules = inside(encoders, table[model_type], task)
    if not isinstance(config.target_modules, str) or config.target_modules == ALL_LINEAR:
        asked = config.target_modules or default_targets(config, model_type)
        if asked == ALL_LINEAR:
            asked = {name.rpartition(".")[2] for name in names}
        known = [f".{name}" for name in inner_layers(encoders)]
        unknown = [name for name in sorted(asked) if not any(each.endswith(f".{name}") for each in known)]
        if unknown:
            raise UserError(
                f"target_modules must be of the layers of '{model_type}', "
                f"{', '.join(sorted({name.rpartition('.')[2] for name in names}))}, found {unknown[0]!r}; correct it, "
                f"or write {ALL_LINEAR}"
            )
        config.target_modules = inside(encoders, asked, task)
    config.modules_to_save = sorted({*(config.modules_to_save or ()), *modules_beside(model, task)})
    return config


def default_targets(config: Any, model_type: str) -> Collection[str] | str:
    """The modules that peft has for a method and an architecture, `"all-linear"` where it has none."""
    if config.peft_type == PeftType.IA3:
        table = TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING
    else:
        table = getattr(PEFT_TYPE_TO_TUNER_MAPPING[config.peft_type], "target_module_mapping", None) or {}
    return table.get(model_type, ALL_LINEAR)


def adaptable_encoders(model: PreTrainedModel, task: str | None) -> dict[str, Any]:
    """The encoders of a model by their names in it, but for those that are frozen or of another task than `task`.

    Raises:
        UserError: there is none.
    """
    own = {f"own_{name}" for name in task_names(model) if task not in (None, name)}
    encoders = {
        name: module
        for name, module in model.named_modules()
        if any(module is encoder for encoder in encoders_of(model))
        and name.rpartition(".")[2] not in {"frozen", *own}
    }
    if not encoders or "" in encoders:
        raise UserError(
            f"model must hold an encoder that adapters can be put into, found none in {type(model).__name__}; use a "
            "classifier with an encoder that is not frozen"
        )
    return encoders


def inner_layers(encoders: dict[str, Any]) -> dict[str, nn.Module]:
    """What stands in the layers of encoders, by name: below a number, as the members of a list do."""
    return {
        f"{prefix}.{name}": module
        for prefix, encoder in encoders.items()
        for name, module in encoder.named_modules()
        if re.search(r"(^|\.)\d+\.", name)
    }


def inside(encoders: dict[str, Any], names: Collection[str], task: str | None) -> str:
    """An expression that matches the modules called so in the encoders' layers and nowhere else, of layers that tasks
    have copies of only those of `task`."""
    others = "" if task is None else rf"(?!.*\.copies\.(?!{re.escape(task)}\.))"
    prefixes, suffixes = ("|".join(map(re.escape, sorted(each))) for each in (encoders, names))
    return rf"{others}({prefixes})\.(.*\.)?\d+\.(.*\.)?({suffixes})"


def modules_beside(model: PreTrainedModel, task: str | None) -> list[str]:
    """The names of the largest modules that belong to no encoder, and of the encoders' poolers: what a plain encoder's
    checkpoint may lack. Of the heads of several tasks only that of `task`."""
    encoders = {id(encoder) for encoder in encoders_of(model)}
    others = {name for name in task_names(model) if task not in (None, name)}
    found: list[str] = []

    def walk(module: nn.Module, prefix: str) -> None:
        for name, child in module.named_children():
            path = f"{prefix}{name}"
            if id(child) in encoders:
                found.extend(f"{path}.{each}" for each, _ in child.named_children() if each == "pooler")
            elif isinstance(child, nn.ModuleDict) or any(id(inner) in encoders for inner in child.modules()):
                walk(child, f"{path}.")
            elif prefix != "heads." or name not in others:
                found.append(path)

    walk(model, "")
    return [name for name in found if any(True for _ in model.get_submodule(name).parameters())]
