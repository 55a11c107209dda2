"""Runs of a table that start from an encoder that was trained further first, once for all that share it."""

import hashlib
import json
from pathlib import Path
from typing import Any

from transformers import HfArgumentParser

from hf_layerfusion.recipes.pretraining.pretraining_arguments import (
    PretrainingArguments,
    PretrainingDataArguments,
)
from hf_layerfusion.recipes.pretraining.pretraining_run import pretrain
from hf_layerfusion.recipes.recipe_arguments import EncoderArguments
from hf_layerfusion.storage import LOCK_FILE, locked

SETTING = "further_pretraining"
PRETRAINING_CLASSES = (EncoderArguments, PretrainingDataArguments, PretrainingArguments)
FILE_SETTINGS = ("train_file", "validation_file")


def pretraining_settings(settings: dict[str, Any]) -> dict[str, Any] | None:
    """The arguments of `examples/run_mlm.py` that a run's `further_pretraining` stands for, its files relative to the
    data's folder; `None` where it has none. Encoder and seed are the run's."""
    if SETTING not in settings:
        return None
    return {name: settings[name] for name in ("model_name_or_path", "seed")} | settings[SETTING]


def start_from_pretrained(
    settings: dict[str, Any], data_dir: Path, work: Path
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Trains the encoder of a run further, or goes on with that, or takes what stands in the folder `work` from a run
    with the same.

    Returns:
        The run's settings with that encoder in place of `further_pretraining`, and what pre-training measured, to go
        into the run's file; the settings as they are and nothing where they ask for none.

    Raises:
        UserError: as `pretrain`.
    """
    options = pretraining_settings(settings)
    if options is None:
        return settings, {}
    key = hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()[:16]
    folder = work / "further-pretraining" / key
    files = {
        name: [str(data_dir / file) for file in options[name]] for name in FILE_SETTINGS if name in options
    }
    place = {"output_dir": str(folder), "resume_from_checkpoint": "True", "disable_tqdm": True}
    # Of several jobs one trains, the others wait.
    with locked(folder.with_name(f".{key}{LOCK_FILE}"), f"--work {work}", wait=True):
        measured = pretrain(*HfArgumentParser(PRETRAINING_CLASSES).parse_dict({**options, **files, **place}))
    rest = {name: value for name, value in settings.items() if name != SETTING}
    return {**rest, "model_name_or_path": str(folder)}, {SETTING: measured}
