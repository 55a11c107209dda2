"""Search spaces: a JSON file of ranges and choices, and sampling from them."""

import copy
import dataclasses
import json
import math
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

from hf_layerfusion.errors import UserError, one_line
from hf_layerfusion.recipes.recipe_arguments import (
    AdaptedEncoderArguments,
    CheckpointArguments,
    RunTrainingArguments,
)

# Training arguments that the Trainer reads again for each trial.
TRAINING_SETTINGS = (
    "learning_rate", "fusion_learning_rate", "head_learning_rate", "embedding_learning_rate", "layer_decay",
    "epoch_decay", "frozen_layers", "weight_decay", "lr_scheduler_type", "warmup_steps", "max_grad_norm",
    "num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps",
)  # fmt: skip
# Options on where a model comes from, which cannot be searched.
LOADING_SETTINGS = tuple(field.name for field in dataclasses.fields(CheckpointArguments))
LEAST = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 1}


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; integers if both bounds are.

    Attributes:
        low: lower bound.
        high: upper bound.
        log: whether to sample uniformly in the logarithm; such values are never integers.
    """

    low: float
    high: float
    log: bool = False

    @property
    def is_whole(self) -> bool:
        """True if only integers are sampled."""
        return isinstance(self.low, int) and isinstance(self.high, int) and not self.log

    @property
    def edges(self) -> list[Any]:
        """Values that are checked before the search."""
        bounds = [self.low, self.high]
        return bounds if self.is_whole else [float(bound) for bound in bounds]


@dataclass(frozen=True)
class Choice:
    """One of several values: numbers, strings, true, false or null."""

    edges: list[Any]


SearchSpace: TypeAlias = dict[str, Range | Choice]


def read_space(path: str | None) -> SearchSpace:
    """Read a space such as `{"learning_rate": {"low": 1e-6, "high": 1e-4, "log": true}, "num_groups": [2, 3]}`.

    Raises:
        UserError: No file is named, it cannot be read, or it is not such an object.
    """
    if path is None:
        raise UserError(
            "--hp_space must name a .json file with the search space, found none; name one, such as "
            "examples/search_extrabert.json."
        )
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--hp_space {path}: cannot be read ({error.strerror}); check the path.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"--hp_space {path}: is not valid JSON ({one_line(error)}); correct it.") from error
    if not isinstance(content, dict) or not content:
        raise UserError(
            f'--hp_space {path}: must be an object by setting, {{"learning_rate": {{"low": 1e-6, "high": 1e-4, "log": '
            "true}}, found something else; see docs/hyperparameter-search.md."
        )
    return {name: _entry(f"--hp_space {path}: {name}", entry) for name, entry in content.items()}


def _entry(where: str, entry: Any) -> Range | Choice:
    if isinstance(entry, list):
        kinds = [value for value in entry if value is None or isinstance(value, str | bool | int | float)]
        if not entry or len(kinds) < len(entry) or len(set(map(str, entry))) < len(entry):
            raise UserError(
                f"{where}: a list must hold different numbers, strings, true, false or null, found {entry}; correct it."
            )
        return Choice(entry)
    if not isinstance(entry, dict) or not {"low", "high"} <= entry.keys() <= {"low", "high", "log"}:
        raise UserError(
            f'{where}: must be a list of values, or {{"low": …, "high": …}} with or without "log": true, found '
            f"{entry!r}; correct it."
        )
    bounds = [entry["low"], entry["high"]]
    numbers = all(_is_number(bound) and math.isfinite(bound) for bound in bounds)
    log = entry.get("log", False)
    if not isinstance(log, bool) or not numbers or bounds[0] >= bounds[1] or (log and bounds[0] <= 0):
        rule = "low must be a number below high, and above 0 where log is true"
        raise UserError(f"{where}: {rule}, found {entry}; correct it.")
    return Range(entry["low"], entry["high"], log)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_space(
    space: SearchSpace,
    model_arguments: AdaptedEncoderArguments,
    training_arguments: RunTrainingArguments,
    load: Callable[[Any], Any],
) -> None:
    """Check bounds and choices of each setting separately; those of the model by building it.

    Args:
        space: the search space.
        model_arguments: the run's model arguments.
        training_arguments: the run's training arguments.
        load: function from model arguments to a model.

    Raises:
        UserError: A setting does not exist or cannot be searched, or a value has the wrong type or is out of range.
    """
    of_model = [
        field.name for field in dataclasses.fields(model_arguments) if field.name not in LOADING_SETTINGS
    ]
    for name, entry in space.items():
        if name not in (*TRAINING_SETTINGS, *of_model):
            raise UserError(
                f"--hp_space: {name}: cannot be searched; use for training "
                f"{', '.join(TRAINING_SETTINGS)}; for the model {', '.join(of_model)}."
            )
        arguments = training_arguments if name in TRAINING_SETTINGS else model_arguments
        hint = typing.get_type_hints(type(arguments))[name]
        for value in entry.edges:
            least = LEAST.get(name, 0)
            if not _fits(hint, value) or (_is_number(value) and not value >= least):
                wanted = getattr(hint, "__name__", str(hint)) if isinstance(hint, type) else str(hint)
                raise UserError(
                    f"--hp_space: {name}: must be {wanted}, numbers {least} or more, found {value!r}; correct it."
                )
            try:
                changed = copy.copy(arguments)
                setattr(changed, name, value)
                if isinstance(changed, RunTrainingArguments):
                    changed.check()
                else:
                    load(changed)
            except ValueError as error:
                raise UserError(f"--hp_space: {name}: {value!r}: {one_line(error)}") from error


def _fits(hint: Any, value: Any) -> bool:
    """Return whether a value has an option's type; integers count as floats."""
    if typing.get_origin(hint) is typing.Literal:
        return value in typing.get_args(hint)
    if typing.get_args(hint) and typing.get_origin(hint) is not list:
        return any(_fits(part, value) for part in typing.get_args(hint))
    if hint is float:
        return _is_number(value)
    return type(value) is hint


def draw(space: SearchSpace, trial: Any) -> dict[str, Any]:
    """Return the values of a trial, sampled by Optuna or taken from Ray or W&B."""
    if isinstance(trial, Mapping):
        return {name: trial[name] for name in space}
    values = {}
    for name, entry in space.items():
        if isinstance(entry, Choice):
            values[name] = trial.suggest_categorical(name, entry.edges)
        elif entry.is_whole:
            values[name] = trial.suggest_int(name, entry.low, entry.high)
        else:
            values[name] = trial.suggest_float(name, entry.low, entry.high, log=entry.log)
    return values


def ray_space(space: SearchSpace) -> dict[str, Any]:
    """Return the space for Ray Tune."""
    tune = import_module("ray.tune")  # optional

    def entry_of(entry: Range | Choice) -> Any:
        if isinstance(entry, Choice):
            return tune.choice(entry.edges)
        if entry.is_whole:
            return tune.randint(entry.low, entry.high + 1)
        return (tune.loguniform if entry.log else tune.uniform)(entry.low, entry.high)

    return {name: entry_of(entry) for name, entry in space.items()}


def wandb_sweep(space: SearchSpace, sampler: str) -> dict[str, Any]:
    """Return the space as a W&B sweep; the Trainer adds the metric."""

    def entry_of(entry: Range | Choice) -> dict[str, Any]:
        if isinstance(entry, Choice):
            return {"values": entry.edges}
        shape = "int_uniform" if entry.is_whole else "log_uniform_values" if entry.log else "uniform"
        return {"distribution": shape, "min": entry.low, "max": entry.high}

    parameters = {name: entry_of(entry) for name, entry in space.items()}
    return {"method": "random" if sampler == "random" else "bayes", "metric": {}, "parameters": parameters}
