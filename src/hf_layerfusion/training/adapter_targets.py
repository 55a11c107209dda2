"""The modules of a model that an adapter changes, and those that are trained and saved beside it."""

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
from hf_layerfusion.regularizers.encoder_layers import get_encoders, get_layers

ALL_LINEAR = "all-linear"


def task_names(model: nn.Module) -> list[str]:
    """Return the tasks that a model declares by name; none for a model of one task."""
    return list(getattr(getattr(model, "config", None), "tasks", None) or ())


def completed(peft_config: PeftConfig, model: PreTrainedModel, task: str | None = None) -> PeftConfig:
    """Return a copy of `peft_config` with the modules that it changes and saves in `model`.

    The layers that it asks for are part of their names, as peft knows neither our encoders' lists of layers nor which
    layers are of a task.

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
    inner = inner_layers(encoders)
    names = {name for name, module in inner.items() if isinstance(module, kind)}
    if config.peft_type == PeftType.IA3 and config.feedforward_modules is None:
        if model_type not in TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING:
            raise UserError(
                f"peft_config: peft knows no feedforward_modules of '{model_type}' for IA3, found none given; name "
                "target_modules and feedforward_modules"
            )
        table = TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING
        config.feedforward_modules = inside(encoders, table[model_type], task)
    layers = chosen_layers(config, encoders)
    if not isinstance(config.target_modules, str) or config.target_modules == ALL_LINEAR:
        if config.target_modules is not None and not config.target_modules:
            raise UserError("target_modules must name a module, found an empty list; leave it out")
        asked = config.target_modules or default_targets(config, model_type)
        if asked == ALL_LINEAR:
            asked = {name.rpartition(".")[2] for name in names}
        unknown = [name for name in sorted(asked) if not any(_is_called(each, name) for each in inner)]
        if unknown:
            raise UserError(
                f"target_modules must be of the layers of '{model_type}', "
                f"{', '.join(sorted({name.rpartition('.')[2] for name in names}))}, found {unknown[0]!r}; correct it, "
                f"or write {ALL_LINEAR}"
            )
        config.target_modules = inside(encoders, asked, task, layers)
    else:
        outside = [
            name
            for name, _ in model.named_modules()
            if name not in inner and _matches(config.target_modules, name, "target_modules")
        ]
        if outside:
            raise UserError(
                f"target_modules={config.target_modules!r} must match modules in the encoder's layers alone, found "
                f"{outside[0]}; all else is trained in full"
            )
        config.target_modules = f"{_of_no_other(task)}(?:{config.target_modules})"
    if hasattr(config, "layers_to_transform"):
        # They are in the names now; peft refuses them beside an expression.
        config.layers_to_transform = config.layers_pattern = None
    targets = [name for name in inner if _matches(config.target_modules, name, "target_modules")]
    check_patterns(config, targets)
    check_token_indices(config, model)
    given = [name for asked in config.modules_to_save or () for name in named(model, asked, task, targets)]
    config.modules_to_save = sorted({*given, *modules_beside(model, task)})
    return config


def chosen_layers(config: Any, encoders: dict[str, Any]) -> list[str] | None:
    """Return the names of the layers that `layers_to_transform` asks for; None if it asks for none.

    Raises:
        UserError: a number that is no layer's, an encoder whose layers do not stand in one list, or a `layers_pattern`
            that is not the list's name.
    """
    asked = getattr(config, "layers_to_transform", None)
    if asked is None:
        if getattr(config, "layers_pattern", None):
            raise UserError("layers_pattern must come with layers_to_transform, found none; leave it out")
        return None
    numbers = [asked] if isinstance(asked, int) else list(asked)
    pattern = config.layers_pattern
    patterns = [pattern] if isinstance(pattern, str) else list(pattern or ())
    found = []
    for prefix, encoder in encoders.items():
        layers = get_layers(encoder)
        if layers is None:
            raise UserError(
                f"layers_to_transform must be left out for '{encoder.config.model_type}', whose layers do not stand in "
                f"one list, found {asked}; leave it out"
            )
        place = next(name for name, module in encoder.named_modules() if module is layers)
        wrong = [number for number in numbers if not 0 <= number < len(layers)]
        if wrong or not numbers:
            raise UserError(
                f"layers_to_transform must hold numbers of layers from 0 to {len(layers) - 1}, found "
                f"{wrong[0] if wrong else 'none'}; correct it"
            )
        if patterns and place.rpartition(".")[2] not in patterns:
            raise UserError(
                f"layers_pattern must be {place.rpartition('.')[2]!r}, the encoder's list of layers, found "
                f"{pattern!r}; leave it out"
            )
        found += [f"{prefix}.{place}.{number}" for number in numbers]
    return found


def check_patterns(config: Any, targets: Collection[str]) -> None:
    """Check that every pattern of modules fits one of `targets`; it would be ignored otherwise.

    Raises:
        UserError: Names the pattern.
    """
    excluded = getattr(config, "exclude_modules", None) or ()
    if isinstance(excluded, str):
        unused = (
            [excluded] if not any(_matches(excluded, name, "exclude_modules") for name in targets) else []
        )
    else:
        unused = [name for name in sorted(excluded) if not any(_is_called(each, name) for each in targets)]
    asked = {"exclude_modules": unused}
    for option in ("rank_pattern", "alpha_pattern"):
        patterns = getattr(config, option, None) or {}
        asked[option] = [
            key for key in patterns if not any(_matches(rf"(.*\.)?({key})", name, option) for name in targets)
        ]
    for option, keys in asked.items():
        if keys:
            raise UserError(
                f"{option} must fit modules that are adapted, such as {next(iter(targets), 'none')}, found "
                f"{keys[0]!r}; correct it or leave it out"
            )


def check_token_indices(config: Any, model: PreTrainedModel) -> None:
    """Check that `trainable_token_indices` are in the vocabulary.

    Raises:
        UserError: Names the first that is not.
    """
    indices = getattr(config, "trainable_token_indices", None) or ()
    embeddings: Any = model.get_input_embeddings()
    size = embeddings.weight.shape[0]
    for each in indices.values() if isinstance(indices, dict) else [indices]:
        wrong = [index for index in each if not 0 <= index < size]
        if wrong:
            raise UserError(
                f"trainable_token_indices must lie in the vocabulary of {size}, found {wrong[0]}; correct it"
            )


def named(model: PreTrainedModel, asked: str, task: str | None, targets: Collection[str]) -> list[str]:
    """Return the full names of the modules that an entry of `modules_to_save` names, except those of other tasks.

    Raises:
        UserError: there is none, or it holds modules that are adapted.
    """
    found = [name for name, _ in model.named_modules() if _is_called(name, asked)]
    if not found:
        raise UserError(f"modules_to_save must name modules of the model, found {asked!r}; correct it")
    others = {name for name in task_names(model) if task not in (None, name)}
    others |= {f"own_{name}" for name in others}
    found = [name for name in found if others.isdisjoint(name.split("."))]
    holding = [
        name for name in found if any(target.startswith(f"{name}.") or target == name for target in targets)
    ]
    if holding:
        raise UserError(
            f"modules_to_save must not hold modules that are adapted, found {asked!r}, which holds some; leave it out, "
            "or name other target_modules"
        )
    return found


def _is_called(name: str, asked: str) -> bool:
    """Return whether a module's full name ends with `asked`, in whole parts between dots."""
    return f".{name}".endswith(f".{asked}")


def _matches(pattern: str, name: str, option: str) -> bool:
    try:
        return re.fullmatch(pattern, name) is not None
    except re.error as error:
        raise UserError(f"{option} must be a regular expression, found {pattern!r}: {error}") from error


def _of_no_other(task: str | None) -> str:
    """Return an expression that, put before another one, excludes layers copied for other tasks than `task`."""
    return "" if task is None else rf"(?!.*\.copies\.(?!{re.escape(task)}\.))"


def default_targets(config: Any, model_type: str) -> Collection[str] | str:
    """Return peft's default modules for a method and an architecture, or `"all-linear"` if it has none."""
    if config.peft_type == PeftType.IA3:
        table = TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING
    else:
        table = getattr(PEFT_TYPE_TO_TUNER_MAPPING[config.peft_type], "target_module_mapping", None) or {}
    return table.get(model_type, ALL_LINEAR)


def adaptable_encoders(model: PreTrainedModel, task: str | None) -> dict[str, Any]:
    """Return the encoders of a model by name, except those that are frozen or of another task than `task`.

    Raises:
        UserError: there is none.
    """
    own = {f"own_{name}" for name in task_names(model) if task not in (None, name)}
    encoders = {
        name: module
        for name, module in model.named_modules()
        if any(module is encoder for encoder in get_encoders(model))
        and name.rpartition(".")[2] not in {"frozen", *own}
    }
    if not encoders or "" in encoders:
        raise UserError(
            f"model must hold an encoder that adapters can be put into, found none in {type(model).__name__}; use a "
            "classifier with an encoder that is not frozen"
        )
    # All modules, as an encoder of words may hold another one.
    configs: list[Any] = [getattr(module, "config", None) for module in model.modules()]
    for config in configs:
        if getattr(config, "word_level", False):
            raise UserError(
                "model must hold an encoder whose layers adapters can change, found word embeddings "
                f"('{config.model_type}'); train them whole, with train_embeddings, or not at all"
            )
    return encoders


def inner_layers(encoders: dict[str, Any]) -> dict[str, nn.Module]:
    """Return the modules inside the layers of encoders, by name: those below a number, as members of a list are."""
    return {
        f"{prefix}.{name}": module
        for prefix, encoder in encoders.items()
        for name, module in encoder.named_modules()
        if re.search(r"(^|\.)\d+\.", name)
    }


def inside(
    encoders: dict[str, Any], names: Collection[str], task: str | None, layers: Collection[str] | None = None
) -> str:
    """Return an expression that matches modules in the layers of encoders and nowhere else.

    Args:
        encoders: The encoders by name.
        names: The last parts of the modules' names.
        task: Of layers that tasks have copies of, only this task's are matched.
        layers: The layers by name; None for all.
    """
    # A copy of a layer is called as its task, which may be called as a module.
    suffixes = rf"(?<!\.copies\.)({'|'.join(map(re.escape, sorted(names)))})"
    places = "|".join(map(re.escape, sorted(encoders if layers is None else layers)))
    below = rf"(.*\.)?\d+\.(.*\.)?{suffixes}" if layers is None else rf"(.*\.)?{suffixes}"
    return rf"{_of_no_other(task)}({places})\.{below}"


def modules_beside(model: PreTrainedModel, task: str | None) -> list[str]:
    """Return the names of the modules that a plain encoder's checkpoint may lack.

    These are the largest modules that belong to no encoder, and the encoders' poolers. Of the heads of several tasks
    only that of `task` is named.
    """
    encoders = {id(encoder) for encoder in get_encoders(model)}
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
