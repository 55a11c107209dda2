"""Makes the table of the commands' options: `python -m hf_layerfusion.cli.write_option_table`.

To be called after a change of the options or of the pinned transformers; a test compares the table with the classes.
"""

import dataclasses
import json
import pkgutil
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from functools import cache
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

from accelerate.commands.launch import launch_command_parser
from transformers import HfArgumentParser

import hf_layerfusion.cli
from hf_layerfusion import SENTENCE_FUSERS, TOKEN_FUSERS
from hf_layerfusion.cli.options import RECIPES, TABLE, Option
from hf_layerfusion.data.labels import ProblemType
from hf_layerfusion.data.tweets import PRESETS, SPELLING, STEPS
from hf_layerfusion.ensembling.registry import COMBINERS
from hf_layerfusion.recipes.data_preparation import DUPLICATES_IN, UNTRUNCATED_TEXT
from hf_layerfusion.recipes.model_setup import ARCHITECTURES

KNOWN: Mapping[str, Iterable[str]] = {
    "architecture": ARCHITECTURES,
    "fusion": TOKEN_FUSERS,
    "pooling": SENTENCE_FUSERS,
    "token_pooling": ("cls", "mean", "cls_mean", "last", "last_mean"),
    "preprocessing": PRESETS,
    "preprocessing_steps": (*STEPS, SPELLING),
    "truncation": UNTRUNCATED_TEXT,
    "duplicates_in": DUPLICATES_IN,
    "problem_type": get_args(ProblemType),
    "combiner": COMBINERS,
    "combiners": COMBINERS,
    "recipe": RECIPES,
}
"""Names that options of text may have, beside those that their types list."""

FIRST = frozenset(
    """
    train_file validation_file test_file dataset_name dataset_config_name text_column text_pair_column label_column
    id_column problem_type max_seq_length validation_fraction preprocessing folds tasks_file data_dir text_columns
    model_name_or_path tokenizer_name use_lora members combiner combiners task quantize
    architecture fusion num_groups pooling token_pooling residual_head num_task_layers encoders
    teacher unlabelled_file
    recipe num_train_epochs learning_rate fusion_learning_rate layer_decay per_device_train_batch_size
    gradient_accumulation_steps warmup_steps early_stopping_patience metric_for_best_model freeze_encoder
    class_balance regularizers seed seeds bf16 use_cpu objective head_steps output_dir prediction_format
    resume_from_checkpoint dry_run push_to_hub hub_model_id soup carry_members metric
    """.split()
)
"""Options that `--help` shows; the others are in `--help all`."""

FIRST_OF = {
    "tasks_file": ("gradient_surgery", "task_mixing"),
}
"""Options that `--help` shows too where a command needs the one that they stand by."""

GROUPS = {
    "CheckpointArguments": "model",
    "EncoderArguments": "model",
    "AdaptedEncoderArguments": "model",
    "ModelArguments": "fusion",
    "PoolingModelArguments": "fusion",
    "TextModelArguments": "fusion",
    "MultitaskModelArguments": "fusion",
    "ExportArguments": "model",
    "EnsembleArguments": "ensemble",
}
"""The heading of a dataclass's own options; those whose names end in DataArguments are data, all others training."""

OUTPUTS = (
    "output_dir", "prediction_format", "dry_run", "plot_layers", "plot_layers_beside", "resume_from_checkpoint",
    "report_to", "run_name", "push_to_hub", "disable_tqdm", "prediction_cache", "carry_members",
    "dataset_description", "dataset_defects", "dataset_warning", "language",
)  # fmt: skip
OUTPUT_PREFIXES = ("hub_", "logging_", "log_", "save_", "project", "trackio_")
ORDER = ("data", "model", "ensemble", "fusion", "training", "outputs")


@cache
def _first_home(name: str, classes: Sequence[type]) -> str:
    for each in classes:
        for base in reversed(each.__mro__):
            if name in vars(base).get("__annotations__", {}):
                return base.__name__
    raise KeyError(name)


def _group(name: str, classes: Sequence[type]) -> str:
    if name in OUTPUTS or name.startswith(OUTPUT_PREFIXES):
        return "outputs"
    home = _first_home(name, tuple(classes))
    return GROUPS.get(home, "data" if home.endswith(("DataArguments", "DataCardArguments")) else "training")


def options_of(classes: Sequence[Any]) -> list[Option]:
    """Return the options of dataclasses, as `HfArgumentParser` reads them, by group."""
    hints = {name: hint for each in classes for name, hint in get_type_hints(each).items()}
    secrets = {field.name for each in classes for field in dataclasses.fields(each) if not field.repr}
    secrets |= {"token", "hub_token"} & hints.keys()
    first = FIRST.union(*(names for need, names in FIRST_OF.items() if need in hints))
    options: dict[str, Option] = {}
    for action in HfArgumentParser(list(classes))._actions:
        name = action.dest
        if name in options or name not in hints:  # --no_NAME, --help
            continue
        hint = hints[name]
        parts = get_args(hint) if NoneType in get_args(hint) else (hint, *get_args(hint))
        kind: Any = action.type
        if any(getattr(part, "__origin__", part) is dict for part in parts):
            kind = "json"
        elif kind in (int, float, str):
            kind = kind.__name__
        else:
            kind = "bool" if getattr(kind, "__name__", "") == "string_to_bool" else "str"
        known = action.choices if action.choices is not None else KNOWN.get(name)
        options[name] = Option(
            name=name,
            kind=kind,
            many=action.nargs == "+",
            default=action.default.value if isinstance(action.default, Enum) else action.default,
            optional=NoneType in get_args(hint),
            help=" ".join((action.help or "").split()),
            group=_group(name, classes),
            known=None if known is None else [str(value) for value in known],
            first=name in first,
            secret=name in secrets,
        )
    return sorted(options.values(), key=lambda option: ORDER.index(option.group))


def recipe_commands() -> dict[str, Any]:
    """Return each `RECIPE` of a module of this folder by its command's name."""
    modules = [import_module(f"{hf_layerfusion.cli.__name__}.{each.name}") for each in pkgutil.iter_modules(
        hf_layerfusion.cli.__path__
    ) if each.name.endswith("_command")]  # fmt: skip
    recipes = [module.RECIPE for module in modules if hasattr(module, "RECIPE")]
    return {recipe.name: recipe for recipe in recipes}


def made_table() -> dict[str, Any]:
    """Return the table as the dataclasses and the installed libraries have it."""
    options: list[dict[str, Any]] = []
    commands: dict[str, list[int]] = {}
    for name, recipe in recipe_commands().items():
        for option in options_of(recipe.dataclasses()):
            row = option._asdict()
            if row not in options:
                options.append(row)
            commands.setdefault(name, []).append(options.index(row))
    launch = {
        action.option_strings[0].removeprefix("--"): action.nargs != 0
        for action in launch_command_parser()._actions
        if action.option_strings
        and action.option_strings[0].startswith("--")
        and not action.dest.startswith("aws_")
    }
    for name in ("no_python", "module"):
        launch.pop(name, None)
    return {
        "transformers": version("transformers"),
        "launch": launch,
        "commands": commands,
        "options": options,
    }


if __name__ == "__main__":
    path = Path(__file__).with_name(TABLE)
    path.write_text(json.dumps(made_table(), indent=0, ensure_ascii=False) + "\n", encoding="utf-8")
    print(path)
