"""Further pretraining of the encoder that runs of a table start from, performed once for all that share it."""

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
    """Return the arguments of `examples/run_mlm.py` for a run's `further_pretraining`, None without it.

    Files are relative to the data folder. Encoder and seed are those of the run.
    """
    if SETTING not in settings:
        return None
    return {name: settings[name] for name in ("model_name_or_path", "seed")} | settings[SETTING]


def missing_texts(settings: dict[str, Any], data_dir: Path) -> list[str]:
    """Return the files of texts that a run's further pretraining needs and the data folder lacks."""
    options = settings.get(SETTING, {})
    files = [data_dir / file for name in FILE_SETTINGS for file in options.get(name, [])]
    return [str(file) for file in files if not file.is_file()]


def start_from_pretrained(
    settings: dict[str, Any], data_dir: Path, work: Path
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Pretrain a run's encoder further, or reuse the result that a run with the same settings left in `work`.

    An interrupted pretraining is resumed.

    Returns:
        The run's settings with the new encoder instead of `further_pretraining`, and what pretraining measured, for
        the run's file. Settings without `further_pretraining` are returned unchanged, with nothing measured.

    Raises:
        UserError: As `pretrain`.
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
    # One of several jobs trains, the others wait.
    with locked(folder.with_name(f".{key}{LOCK_FILE}"), f"--work {work}", wait=True):
        measured = pretrain(*HfArgumentParser(PRETRAINING_CLASSES).parse_dict({**options, **files, **place}))
    rest = {name: value for name, value in settings.items() if name != SETTING}
    return {**rest, "model_name_or_path": str(folder)}, {SETTING: measured}
