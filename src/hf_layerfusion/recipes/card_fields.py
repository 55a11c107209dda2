"""Fields of a model card that are known before the run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig

from hf_layerfusion.data.tweets import SPELLING
from hf_layerfusion.hub.citations import METHODS
from hf_layerfusion.hub.encoder import encoder_hub_id, encoder_license, encoder_name, hub_id
from hf_layerfusion.hub.portable import without_folders
from hf_layerfusion.hub.usage import code_string
from hf_layerfusion.recipes.data_preparation import cleaning_steps, text_columns
from hf_layerfusion.recipes.model_setup import loading_options, resolve_path
from hf_layerfusion.recipes.recipe_arguments import (
    CheckpointArguments,
    DataArguments,
    DataCardArguments,
    RunTrainingArguments,
)

# Settings shown on a card.
CELL_NAMES = {"gru": "GRU", "lstm": "LSTM", "mingru": "minGRU", "minlstm": "minLSTM"}
CARD_SETTINGS = (
    "learning_rate", "fusion_learning_rate", "num_train_epochs", "weight_decay", "freeze_encoder", "init_from_probe",
    "head_first_epochs", "ema_decay", "average_last", "weight_interpolation", "bf16", "fp16",
)  # fmt: skip


def classifier_fields(
    config: PreTrainedConfig,
    model_arguments: CheckpointArguments,
    data_arguments: DataArguments,
    training_arguments: RunTrainingArguments,
) -> dict[str, Any]:
    """Return the card's fields for a model of one task; `config` is the model's configuration."""
    more = {"epoch_decay": training_arguments.epoch_decay, "tokens": data_arguments.max_seq_length}
    source = data_arguments.dataset_name or data_arguments.train_file or data_arguments.train_pos_file
    return {
        **encoder_fields(model_arguments),
        **data_fields(data_arguments),
        "architecture": architecture_lines(config),
        "methods": METHODS.get(config.model_type, []),
        "needs_package": config.model_type in METHODS,
        "dataset_name": without_folders(str(source)) or str(source),
        "dataset_id": hub_id(data_arguments.dataset_name or ""),
        "text_pair": len(text_columns(data_arguments)) == 2,
        **preparation_fields({"": data_arguments}),
        "pipeline_prepares": True,
        "recipe": recipe_settings(training_arguments, more),
        "limits": [
            "The model was trained on texts of one source: others may differ in language, length, topics and labels.",
            "A single run does not show whether fusing layers helps: compare with a plain model over several seeds.",
        ],
    }


def preparation_fields(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the card's fields on text cleaning: the steps, and code that applies them, because no pipeline does.

    Args:
        arguments: data arguments by task; those of a single task under the empty name.
    """
    steps = {name: found for name, data in arguments.items() if (found := cleaning_steps(data))}
    if not steps:
        return {}
    cleaners = {name: _cleaner_code(arguments[name], found) for name, found in steps.items()}
    code = ["from hf_layerfusion.data.tweets import TweetPreprocessor"]
    if any("SpellingCorrector(" in cleaner for cleaner in cleaners.values()):
        code.insert(0, "from hf_layerfusion.data.spelling import SpellingCorrector")
    text = '"@someone what a lovely morning! https://example.org"'
    if "" in steps:
        code += ["", f"prepare = {cleaners['']}", f"text = prepare({text})"]
        return {"preparation": list(steps[""]), "preparation_code": "\n".join(code)}
    code += [
        "",
        "prepare = {",
        *(f"    {code_string(name)}: {each}," for name, each in cleaners.items()),
        "}",
    ]
    code.append(f"text = prepare[{code_string(next(iter(steps)))}]({text})")
    lines = [f"{name}: {', '.join(found)}" for name, found in steps.items()]
    return {"preparation": lines, "preparation_code": "\n".join(code)}


def _cleaner_code(arguments: Any, steps: Sequence[str]) -> str:
    """Return the expression that builds the cleaner of `make_cleaner`, with the file name alone of a spelling
    dictionary."""
    given = [f"[{', '.join(map(code_string, steps))}]"]
    language, dictionary = arguments.spelling_language, arguments.spelling_dictionary
    if SPELLING in steps and (language, dictionary) != ("en", None):
        names = [language] if dictionary is None else [language, Path(dictionary).name]
        given.append(f"SpellingCorrector({', '.join(map(code_string, names))})")
    return f"TweetPreprocessor({', '.join(given)}).clean"


def encoder_fields(arguments: CheckpointArguments) -> dict[str, Any]:
    """Return the card's fields on the encoder."""
    path = resolve_path(arguments.model_name_or_path)
    return {
        "encoder": encoder_name(path),
        "base_model": encoder_hub_id(path),
        "base_model_license": encoder_license(path, loading_options(arguments)["revision"], arguments.token),
    }


def data_fields(arguments: DataCardArguments) -> dict[str, Any]:
    """Return the card's fields that the user gave about the data."""
    return {
        "warning": arguments.dataset_warning,
        "language": [arguments.language],
        "dataset_description": arguments.dataset_description,
        "dataset_defects": arguments.dataset_defects,
    }


def architecture_lines(config: PreTrainedConfig) -> list[str]:
    """Return a line for each part of a model with this configuration."""
    if config.model_type == "gru_fusion":
        return [
            f"Fuser: {config.paper_name.removeprefix('grubert-')}, {config.fusion_hidden_size} units a direction"
            + (", kept at random weights as a control" if config.freeze_fusion else ""),
            f"Downstream bi-{CELL_NAMES[config.downstream_cell]}: {config.downstream_hidden_size or 'none'}",
            f"Dense layer: {config.dense_size or 'none'}; dropout {config.classifier_dropout}; "
            f"{config.token_reduction} over the tokens' logits",
        ]
    if config.model_type == "layer_pooling":
        tokens = {
            "cls": "the first token",
            "mean": "the mean over tokens",
            "cls_mean": "the first token and the mean over tokens",
            "last_mean": "the last token and the mean over tokens",
            "last": "the last token",
        }[config.token_pooling]
        return [
            f"Pooling over layers: {config.pooling}, of {tokens} at each layer",
            f"Dense layer: {config.dense_size or 'none'}; dropout {config.classifier_dropout}",
        ]
    return ["transformers' own classifier: the last layer alone"]


def optimizer_name(arguments: RunTrainingArguments) -> str:
    """Return the name of the optimizer and, for Adam, how it applies `weight_decay`."""
    if not arguments.decoupled_weight_decay:
        return "Adam, weight_decay as L2 in the gradient"
    return str(getattr(arguments.optim, "value", arguments.optim))


def recipe_settings(arguments: RunTrainingArguments, more: Mapping[str, Any]) -> dict[str, Any]:
    """Return the training settings that a card shows, extended by `more`, without those that are unset or off."""
    settings = {name: getattr(arguments, name) for name in CARD_SETTINGS} | dict(more)
    settings |= {
        "batch": arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size,
        "optimizer": optimizer_name(arguments),
    }
    return {name: value for name, value in settings.items() if value is not None and value is not False}
