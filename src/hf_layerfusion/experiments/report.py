"""What a run measured, as the facts of its model card."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedConfig

from hf_layerfusion.data.statistics import corpus_statistics, format_statistics
from hf_layerfusion.experiments.arguments import (
    DataArguments,
    EncoderArguments,
    ModelArguments,
    RunTrainingArguments,
)
from hf_layerfusion.experiments.models import resolve_path
from hf_layerfusion.experiments.prepare import PreparedData
from hf_layerfusion.hub.card_facts import CardFacts
from hf_layerfusion.hub.citations import METHODS
from hf_layerfusion.hub.encoder import encoder_hub_id, encoder_license, encoder_name
from hf_layerfusion.hub.environment import hardware_name, library_environment
from hf_layerfusion.hub.markdown import escape_markdown

# Settings of every run that its card shows.
RECIPE = ("learning_rate", "fusion_learning_rate", "num_train_epochs", "weight_decay", "bf16", "fp16")


@dataclass
class RunResult:
    """What a run measured.

    Attributes:
        metrics: by split, then by name.
        logits: of the split that predictions were made for, `[N, C]`.
        labels: its labels, `[N]` or `[N, C]`, `None` where it has none.
        history: the Trainer's log.
        training_seconds: time that training took.
        parameters: number of the model's parameters.
    """

    metrics: dict[str, dict[str, float]]
    logits: np.ndarray
    labels: np.ndarray | None
    history: list[dict[str, Any]]
    training_seconds: float
    parameters: int


def texts_and_labels(dataset: Dataset, column: str) -> tuple[list[str], list[Any]]:
    """The texts and the raw labels of a split, class labels by name."""
    feature = dataset.features["label"]
    labels = list(dataset["label"])
    return list(dataset[column]), feature.int2str(labels) if hasattr(feature, "int2str") else labels


def architecture_lines(config: PreTrainedConfig) -> list[str]:
    """What a model of this configuration is made of, a line a part."""
    if config.model_type == "gru_fusion":
        return [
            f"Fuser: {config.variant.removeprefix('grubert-')}, {config.fusion_hidden_size} units a direction"
            + (", kept at random weights as a control" if config.freeze_fusion else ""),
            f"Downstream bi-GRU: {config.downstream_hidden_size or 'none'}",
            f"Dense layer: {config.dense_size or 'none'}; dropout {config.classifier_dropout}; "
            f"{config.token_reduction} over the tokens' logits",
        ]
    if config.model_type == "layer_pooling":
        tokens = "the first token" if config.token_pooling == "cls" else "the mean over tokens"
        return [
            f"Pooling over layers: {config.pooling}, of {tokens} at each layer",
            f"Dense layer: {config.dense_size or 'none'}; dropout {config.classifier_dropout}",
        ]
    return ["transformers' own classifier: the last layer alone"]


def optimizer_name(arguments: RunTrainingArguments) -> str:
    """The optimizer, and what it makes of `weight_decay`."""
    if not arguments.decoupled_weight_decay:
        return "Adam, weight_decay as L2 in the gradient"
    return str(getattr(arguments.optim, "value", arguments.optim))


def encoder_facts(arguments: EncoderArguments) -> dict[str, Any]:
    """The fields of a card that say what the encoder is."""
    path = resolve_path(arguments.model_name_or_path)
    return {
        "encoder": encoder_name(path),
        "base_model": encoder_hub_id(path),
        "base_model_license": encoder_license(path),
    }


def training_facts(
    history: list[dict[str, Any]], seconds: float, arguments: RunTrainingArguments, recipe: dict[str, Any]
) -> dict[str, Any]:
    """The fields of a card that say how a model was trained; `recipe` are its settings beside those of every run."""
    settings = {name: getattr(arguments, name) for name in RECIPE} | recipe
    settings |= {
        "batch": arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size,
        "optimizer": optimizer_name(arguments),
    }
    return {
        "recipe": {name: value for name, value in settings.items() if value is not None},
        "seeds": [arguments.seed],
        "epochs": epoch_rows(history),
        "training_seconds": seconds,
        "hardware": hardware_name(arguments.device, arguments.world_size),
        "environment": library_environment(),
    }


def epoch_rows(history: list[dict[str, Any]]) -> list[dict[str, float]]:
    """One row an epoch from the Trainer's log: training loss and every validation metric."""
    rows: dict[float, dict[str, float]] = {}
    for entry in history:
        epoch = entry.get("epoch")
        if epoch is None or "train_runtime" in entry:
            continue
        row = rows.setdefault(epoch, {"epoch": epoch})
        if "loss" in entry:
            row["training loss"] = entry["loss"]
        for name, value in entry.items():
            if name.startswith("eval_") and not name.endswith(
                ("_runtime", "_per_second", "_preparation_time")
            ):
                row[f"validation {name.removeprefix('eval_')}"] = value
    return [rows[epoch] for epoch in sorted(rows)]


def card_facts(
    folder: Path,
    data: PreparedData,
    result: RunResult,
    model: Any,
    model_arguments: ModelArguments,
    data_arguments: DataArguments,
    training_arguments: RunTrainingArguments,
    figures: list[tuple[str, str]],
) -> CardFacts:
    """Collects the facts of a run for its model card; every figure was measured by that run."""
    variant = getattr(model.config, "variant", "plain")
    single_label = data.schema.problem_type == "single_label_classification"
    limits = [
        "The texts of one source taught the model; others may differ in language, length, topics and labels.",
        "Whether the fusion of layers helped is not shown by one run: compare with the plain classifier over seeds.",
    ]
    if (
        "test" not in result.metrics
        and "validation" in result.metrics
        and training_arguments.load_best_model_at_end
    ):
        limits.insert(
            0,
            "The checkpoint was chosen on the validation split, whose figures above are therefore optimistic.",
        )
    notes = "\n".join(f"- {escape_markdown(note)}" for note in data.notes)
    sections = [("What happened to the texts", notes)]
    if single_label:
        raw = corpus_statistics(*texts_and_labels(data.raw_train, data.text_columns[0]))
        train = data.splits["train"]
        cleaned = [data.schema.names[label] for label in train["label"]]
        after = corpus_statistics(list(train[data.text_columns[0]]), cleaned)
        sections.append(("Words a text, before and after cleaning", format_statistics(raw, after)))
    recipe = {"epoch_decay": training_arguments.epoch_decay, "tokens": data_arguments.max_seq_length}
    source = data_arguments.dataset_name or data_arguments.train_file or data_arguments.train_pos_file
    return CardFacts(
        model_name=f"{variant}-{folder.resolve().name}",
        model_path=str(folder),
        **encoder_facts(model_arguments),
        warning=data_arguments.dataset_warning,
        architecture=architecture_lines(model.config),
        methods=METHODS.get(model.config.model_type, []),
        parameters=result.parameters,
        needs_package=model.config.model_type in METHODS,
        language=[data_arguments.language],
        dataset_name=data_arguments.dataset_name or Path(str(source)).name,
        dataset_id=data_arguments.dataset_name,
        dataset_description=data_arguments.dataset_description,
        num_examples={name: len(split) for name, split in data.splits.items()},
        text_pair=len(data.text_columns) == 2,
        preparation=list(data.steps),
        metrics=result.metrics,
        **training_facts(result.history, result.training_seconds, training_arguments, recipe),
        figures=figures,
        limits=limits,
        sections=sections,
    )
