"""Tokenizer and model of a run, from arguments."""

import dataclasses
import functools
import importlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)
from transformers.tokenization_utils_base import LARGE_INTEGER
from transformers.utils import hub

from hf_layerfusion import (
    BertForGRUFusionClassification,
    BertWithPoolingModule,
    max_tokens,
    refuse_other_inputs,
    refuse_unfit,
    relabel,
)
from hf_layerfusion.data.labels import LabelSchema
from hf_layerfusion.data.text_preparation import plain_tokenizer
from hf_layerfusion.errors import LOADING_ERRORS, UserError, nearest, one_line
from hf_layerfusion.recipes.adapter_setup import adapter_config, with_adapters
from hf_layerfusion.recipes.recipe_arguments import (
    AdaptedEncoderArguments,
    CheckpointArguments,
    EncoderArguments,
    ModelArguments,
)
from hf_layerfusion.training.tokenizers import check_tokenizer, limit_length

ARCHITECTURES: dict[str, Any] = {
    "gru_fusion": BertForGRUFusionClassification,
    "layer_pooling": BertWithPoolingModule,
    "plain": AutoModelForSequenceClassification,
}
# Names of the dropouts in configurations: BERT and similar, ModernBERT, Funnel, DistilBERT and XLNet, GPT.
DROPOUT_FIELDS: dict[str, tuple[tuple[str, ...], ...]] = {
    "hidden_dropout": (
        ("hidden_dropout_prob",),
        ("embedding_dropout", "mlp_dropout"),
        ("hidden_dropout",),
        ("dropout",),
        ("resid_pdrop", "embd_pdrop"),
    ),
    "attention_dropout": (("attention_probs_dropout_prob",), ("attention_dropout",), ("attn_pdrop",)),
}
# Settings that transformers' own classifiers have as well.
PLAIN_SETTINGS = {"classifier_dropout"}
MODEL_FILES = ("config.json", "adapter_config.json")
"""Files of which the folder of a model has one."""


def resolve_path(name_or_path: str) -> str:
    """Return the folder for `package:NAME`, the `MODEL_DIR` of the Python package NAME; any other name unchanged.

    Raises:
        UserError: There is no such package, or it has no `MODEL_DIR`.
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
    """Return the settings of the architecture that the user gave.

    Raises:
        UserError: The architecture is unknown, or has no such setting.
    """
    if arguments.architecture not in ARCHITECTURES:
        raise UserError(
            f"--architecture must be one of {', '.join(ARCHITECTURES)}, found {arguments.architecture!r}; "
            f"{nearest(arguments.architecture, ARCHITECTURES)}"
        )
    model_class = ARCHITECTURES[arguments.architecture]
    if arguments.architecture == "plain":
        known = PLAIN_SETTINGS
    else:
        known = {entry.name for entry in dataclasses.fields(model_class.config_class)}
    others = {"architecture", *(entry.name for entry in dataclasses.fields(AdaptedEncoderArguments))}
    names = [entry.name for entry in dataclasses.fields(arguments) if entry.name not in others]
    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    for name in given:
        if name not in known:
            raise UserError(
                f"--{name} is not a setting of --architecture {arguments.architecture}; leave it out."
            )
    return given


def settings_of_new_model(arguments: ModelArguments) -> dict[str, Any]:
    """Return what a new model has for the settings that the user left out; nothing for a trained one, which keeps its
    own."""
    left_out = {
        name: value
        for name, value in arguments.NEW_MODEL.get(arguments.architecture, {}).items()
        if getattr(arguments, name) is None
    }
    path = resolve_path(arguments.model_name_or_path)
    if not left_out or is_trained(path, arguments.architecture, loading_options(arguments)):
        return {}
    return left_out


def loading_options(arguments: CheckpointArguments) -> dict[str, Any]:
    """Return the keywords of every `from_pretrained` of the run.

    The revision is the commit that the branch or tag pointed to when the process first asked, so that all files of
    the encoder come from one commit, in each trial and for each seed.
    """
    path = resolve_path(arguments.model_name_or_path)
    return {
        "cache_dir": arguments.cache_dir,
        "revision": _resolved(path, arguments.model_revision, arguments.cache_dir, arguments.token),
        "token": arguments.token,
        "trust_remote_code": arguments.trust_remote_code,
    }


@functools.lru_cache
def _resolved(path: str, revision: str, cache_dir: str | None, token: str | None) -> str:
    """Return the commit that a revision points to now; the revision itself for a folder, or if the Hub does not say."""
    # `modeling/revisions.py` has the same for use without this package; only models may import it.
    resolve = getattr(hub, "resolve_revision", None)  # since transformers 5.23
    if resolve is None:
        return revision
    return resolve(path, revision, cache_dir=cache_dir, token=token) or revision


def encoder_dropout(arguments: EncoderArguments) -> dict[str, float]:
    """Return the fields of the encoder's configuration that `--hidden_dropout` and `--attention_dropout` set.

    Raises:
        UserError: A rate is out of range, or the encoder has no such dropout.
    """
    given = {name: rate for name in DROPOUT_FIELDS if (rate := getattr(arguments, name)) is not None}
    for name, rate in given.items():
        if not 0 <= rate < 1:
            raise UserError(f"--{name} must lie in [0, 1), found {rate}; 0 switches it off.")
    if not given:
        return {}
    path = resolve_path(arguments.model_name_or_path)
    try:
        config = AutoConfig.from_pretrained(path, **loading_options(arguments)).get_text_config()
    except LOADING_ERRORS as error:
        raise UserError(f"--model_name_or_path {arguments.model_name_or_path}: {one_line(error)}") from error
    found: dict[str, float] = {}
    for name, rate in given.items():
        fields = next((all_of for all_of in DROPOUT_FIELDS[name] if hasattr(config, all_of[0])), None)
        if fields is None:
            raise UserError(
                f"--{name}: needs an encoder whose configuration has such a dropout, found none for "
                f"'{config.model_type}'; leave it out."
            )
        found |= dict.fromkeys(fields, rate)
    return found


def load_tokenizer(
    arguments: CheckpointArguments, *, keep_preparation: bool = False
) -> PreTrainedTokenizerBase:
    """Return the encoder's tokenizer, or the one named, with `model_max_length` limited to the encoder's maximum.

    `truncation=True` then never exceeds what the encoder takes. There is no limit with `window_size`.

    Args:
        arguments: The checkpoint.
        keep_preparation: Keep the preparation of texts that a trained model's tokenizer has, and its limit. By default
            it is left out, because the recipes clean texts themselves.

    Raises:
        UserError: It cannot be loaded, or is not one of the encoder.
    """
    options = loading_options(arguments)
    model = resolve_path(arguments.model_name_or_path)
    name = resolve_path(arguments.tokenizer_name) if arguments.tokenizer_name else model
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **options)
    except LOADING_ERRORS as error:
        option = "tokenizer_name" if arguments.tokenizer_name else "model_name_or_path"
        raise UserError(f"--{option} {name}: its tokenizer cannot be loaded: {one_line(error)}") from error
    try:
        config = AutoConfig.from_pretrained(model, **options)
    except LOADING_ERRORS as error:
        raise UserError(f"--model_name_or_path {arguments.model_name_or_path}: {one_line(error)}") from error
    if arguments.tokenizer_name:
        own = None
        with suppress(*LOADING_ERRORS):  # an encoder without a tokenizer
            own = AutoTokenizer.from_pretrained(model, **options).get_vocab()
        check_tokenizer(tokenizer, config, f"--tokenizer_name {arguments.tokenizer_name}", own)
    if not keep_preparation:
        tokenizer = plain_tokenizer(tokenizer)
    if getattr(arguments, "window_size", None) is not None:
        tokenizer.model_max_length = LARGE_INTEGER  # texts of any length are read in windows
        return tokenizer
    limit_length(tokenizer, max_tokens(config))
    return tokenizer


def window_affixes(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the number of special tokens that a tokenizer puts before and after a text."""
    # Not by the mask of special tokens, which tokenizers without the tokenizers library may leave at zero.
    whole = tokenizer("a")["input_ids"]
    text = tokenizer("a", add_special_tokens=False)["input_ids"]
    added = len(whole) - len(text)
    before = next((start for start in range(added + 1) if whole[start : start + len(text)] == text), 0)
    return [before, added - before]


def load_model(arguments: ModelArguments, schema: LabelSchema) -> Any:
    """Return the run's model with the adapters asked for: new around an encoder, or a trained checkpoint to train
    further.

    Raises:
        UserError: The checkpoint is missing, corrupt, stored as pickle, or does not fit the settings; or as
            `with_adapters`.
    """
    settings = model_settings(arguments)
    if arguments.window_size is not None:
        settings["window_affixes"] = window_affixes(load_tokenizer(arguments))
    dropout: dict[str, Any] = encoder_dropout(arguments)
    if dropout and arguments.architecture != "plain":
        dropout = {"encoder_config": dropout}
    path, options = resolve_path(arguments.model_name_or_path), loading_options(arguments)
    labels: dict[str, Any] = {
        "num_labels": schema.num_labels,
        "id2label": schema.id2label,
        "label2id": schema.label2id,
        "problem_type": schema.problem_type,
    }
    try:
        goes_on = is_trained(path, arguments.architecture, options)
        settings = settings_of_new_model(arguments) | settings
        model = ARCHITECTURES[arguments.architecture].from_pretrained(
            path,
            use_safetensors=None if arguments.allow_pickle else True,
            **options,
            **({} if goes_on else labels),
            **settings,
            **dropout,
        )
        if goes_on:
            relabel(model, schema.names, schema.problem_type, schema.values)
    except LOADING_ERRORS as error:
        raise UserError(f"--model_name_or_path {arguments.model_name_or_path}: {one_line(error)}") from error
    store_label_values(model.config, schema)
    return with_adapters(model, arguments)


def check_encoder(arguments: CheckpointArguments, auto_class: Any = None) -> None:
    """Check by its configuration that a checkpoint reads texts, before data are read.

    A checkpoint that cannot be opened is reported when it is loaded.

    Args:
        arguments: The checkpoint.
        auto_class: Auto class that loads the model by itself; None inside of a model of the package.

    Raises:
        UserError: It reads images or speech, returns what no model of the package can use, or holds word embeddings or
            an architecture of which `auto_class` knows no model.
    """
    path, options = resolve_path(arguments.model_name_or_path), loading_options(arguments)
    try:
        config = AutoConfig.from_pretrained(path, **options)
    except LOADING_ERRORS:
        return
    try:
        (refuse_unfit if auto_class is None else refuse_other_inputs)(config)
    except ValueError as error:
        raise UserError(f"--model_name_or_path {arguments.model_name_or_path}: {one_line(error)}") from error
    if auto_class is None:
        return
    is_words = getattr(config, "word_level", False)
    remote = getattr(config, "auto_map", None) or {}
    # Private, as transformers has no public way to ask an Auto class for what it knows before it loads weights.
    if is_words or not (type(config) in auto_class._model_mapping or auto_class.__name__ in remote):
        raise UserError(
            f"--model_name_or_path {arguments.model_name_or_path}: must be a model that {auto_class.__name__} knows, "
            f"found {'word embeddings' if is_words else 'an encoder'} ('{config.model_type}'); train a classifier "
            "around it (hf-layerfusion train --architecture gru_fusion or layer_pooling), or name another."
        )


def check_model(arguments: ModelArguments) -> None:
    """Check settings against the encoder before data are read, by building the model without weights.

    Errors that need the checkpoint's weights or the labels are raised later, by `load_model`.

    Raises:
        UserError: A setting is not one of the architecture or does not fit the encoder, or the adapter settings are
            invalid.
    """
    model_settings(arguments)
    adapter_config(arguments)
    encoder_dropout(arguments)
    model_class = ARCHITECTURES[arguments.architecture]
    path, options = resolve_path(arguments.model_name_or_path), loading_options(arguments)
    if arguments.architecture == "plain":
        check_encoder(arguments, model_class)
        return
    check_encoder(arguments)
    with suppress(
        OSError, RuntimeError, NotImplementedError
    ):  # no such checkpoint, or one that cannot be built this way
        try:
            settings = settings_of_new_model(arguments) | model_settings(arguments)
            if is_trained(path, arguments.architecture, options):
                config = model_class.config_class.from_pretrained(path, **options, **settings)
            else:
                encoder = AutoConfig.from_pretrained(path, **options).get_text_config()
                config = model_class.config_class(encoder_config=encoder.to_dict(), **settings)
            with torch.device("meta"):
                model_class(config)
        except (ValueError, StrictDataclassError) as error:
            raise UserError(
                f"--architecture {arguments.architecture} on {arguments.model_name_or_path}: {one_line(error)}"
            ) from error


def is_trained(path: str, architecture: str, options: dict[str, Any]) -> bool:
    """Return whether a checkpoint is a trained classifier of the architecture rather than an encoder."""
    try:
        stored, _ = PreTrainedConfig.get_config_dict(path, **options)
    except OSError:
        return False  # a folder of adapters, or nothing: the model's class reports it
    if architecture == "plain":
        names = stored.get("architectures") or []
        ours = [known.config_class.model_type for name, known in ARCHITECTURES.items() if name != "plain"]
        return stored.get("model_type") in ours or any(
            str(name).endswith("ForSequenceClassification") for name in names
        )
    return bool(stored.get("model_type") == ARCHITECTURES[architecture].config_class.model_type)


def encodes_pairs_separately(arguments: ModelArguments) -> bool:
    """Return whether the model of a run takes the two texts of a pair as two sequences (`pair_features`)."""
    if arguments.pair_features is not None or arguments.architecture == "plain":
        return bool(arguments.pair_features)
    path, options = resolve_path(arguments.model_name_or_path), loading_options(arguments)
    if not is_trained(path, arguments.architecture, options):
        return False
    stored, _ = PreTrainedConfig.get_config_dict(path, **options)
    return bool(stored.get("pair_features"))


def store_label_values(config: Any, schema: LabelSchema) -> None:
    """Store the raw labels of the classes as `label_values` in the configuration, if they differ from the names.

    The trained model then reads files with such labels.
    """
    if schema.values != schema.names:
        config.label_values = list(schema.values)
    elif getattr(config, "label_values", None) is not None:
        config.label_values = None  # those of the checkpoint that is trained further


def check_trained_folder(where: str, path: Path) -> None:
    """Check that what is at a path here, if anything, is the folder of a model.

    Args:
        where: What names it, for the message.
        path: The folder; a Hub id that is no path here passes.

    Raises:
        UserError: It is a file, or a folder without a model.
    """
    if path.is_file():
        raise UserError(
            f"{where}: must be the folder of a trained model or a Hub id, found a file; name its folder"
        )
    if not path.is_dir() or any((path / name).is_file() for name in MODEL_FILES):
        return
    models = sorted(file.parent.name for file in path.glob("*/config.json"))
    named = f"one of its models: {', '.join(models)}" if models else "another"
    raise UserError(
        f"{where}: must be the folder of a trained model, found neither {' nor '.join(MODEL_FILES)}; name {named}"
    )


def load_trained(arguments: CheckpointArguments) -> Any:
    """Return a trained classifier, of one task or several, as its checkpoint describes it.

    Raises:
        UserError: The checkpoint is missing, corrupt, stored as pickle or lacks weights.
    """
    where = f"--model_name_or_path {arguments.model_name_or_path}"
    check_trained_folder(where, Path(arguments.model_name_or_path))
    try:
        model, info = AutoModelForSequenceClassification.from_pretrained(
            resolve_path(arguments.model_name_or_path),
            use_safetensors=None if arguments.allow_pickle else True,
            output_loading_info=True,
            **loading_options(arguments),
        )
    except LOADING_ERRORS as error:
        raise UserError(f"{where}: {one_line(error)}") from error
    if info["missing_keys"]:
        raise UserError(
            f"{where}: must be a trained classifier, found no weights of {sorted(info['missing_keys'])[0]}; train it "
            "first."
        )
    return model
