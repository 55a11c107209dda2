"""From arguments to tokenizer and model."""

import dataclasses
import importlib
from typing import Any

from safetensors import SafetensorError
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from hf_layerfusion import BertForGRUFusionClassification, BertWithPoolingModule
from hf_layerfusion.data.labels import LabelSchema
from hf_layerfusion.errors import UserError
from hf_layerfusion.experiments.arguments import EncoderArguments, ModelArguments

ARCHITECTURES: dict[str, Any] = {
    "gru_fusion": BertForGRUFusionClassification,
    "layer_pooling": BertWithPoolingModule,
    "plain": AutoModelForSequenceClassification,
}
# Settings of a model that transformers' own classifiers have too.
PLAIN_SETTINGS = {"classifier_dropout"}


def resolve_path(name_or_path: str) -> str:
    """Turns `package:NAME` into the folder that the Python package NAME names as its `MODEL_DIR`; leaves other names.

    Raises:
        UserError: if there is no such package, or it carries no model.
    """
    if not name_or_path.startswith("package:"):
        return name_or_path
    package = name_or_path.removeprefix("package:")
    try:
        return str(importlib.import_module(package).MODEL_DIR)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"--model_name_or_path {name_or_path}: needs an installed Python package with a MODEL_DIR; found "
            f"{type(error).__name__}; install it (pip install {package.replace('_', '-')}) or name a folder."
        ) from error


def model_settings(arguments: ModelArguments) -> dict[str, Any]:
    """The settings of the architecture that the user gave.

    Raises:
        UserError: if the architecture is unknown or has no such setting.
    """
    if arguments.architecture not in ARCHITECTURES:
        raise UserError(
            f"--architecture must be one of {', '.join(ARCHITECTURES)}, found {arguments.architecture!r}."
        )
    model_class = ARCHITECTURES[arguments.architecture]
    if arguments.architecture == "plain":
        known = PLAIN_SETTINGS
    else:
        known = {entry.name for entry in dataclasses.fields(model_class.config_class)}
    others = {"architecture", *(entry.name for entry in dataclasses.fields(EncoderArguments))}
    names = [entry.name for entry in dataclasses.fields(arguments) if entry.name not in others]
    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    for name in given:
        if name not in known:
            raise UserError(
                f"--{name} is no setting of --architecture {arguments.architecture}; leave it out."
            )
    return given


def loading_options(arguments: EncoderArguments) -> dict[str, Any]:
    """Keywords of every `from_pretrained` of the run."""
    return {
        "cache_dir": arguments.cache_dir,
        "revision": arguments.model_revision,
        "token": arguments.token,
        "trust_remote_code": arguments.trust_remote_code,
    }


def load_tokenizer(arguments: EncoderArguments) -> PreTrainedTokenizerBase:
    """The tokenizer of the encoder, or the one named.

    Raises:
        UserError: if it cannot be loaded.
    """
    name = resolve_path(arguments.tokenizer_name or arguments.model_name_or_path)
    try:
        return AutoTokenizer.from_pretrained(name, **loading_options(arguments))
    except (OSError, ValueError) as error:
        raise UserError(f"--tokenizer_name {name}: cannot be loaded: {one_line(error)}") from error


def load_model(arguments: ModelArguments, schema: LabelSchema) -> PreTrainedModel:
    """The model of the run: a new one around an encoder, or a checkpoint of ours to train further.

    Raises:
        UserError: if the checkpoint is missing, corrupt, stored as pickle, or does not fit the settings.
    """
    settings = model_settings(arguments)
    try:
        return ARCHITECTURES[arguments.architecture].from_pretrained(
            resolve_path(arguments.model_name_or_path),
            num_labels=schema.num_labels,
            id2label=schema.id2label,
            label2id=schema.label2id,
            problem_type=schema.problem_type,
            use_safetensors=None if arguments.allow_pickle else True,
            **loading_options(arguments),
            **settings,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"--model_name_or_path {arguments.model_name_or_path}: {one_line(error)}") from error


def one_line(error: BaseException) -> str:
    """An error's message on one line."""
    return " ".join(str(error).split())
