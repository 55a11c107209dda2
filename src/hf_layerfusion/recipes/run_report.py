"""Results of a run as the facts of its model card."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hf_layerfusion.data.arrow_tables import column_values, select_rows
from hf_layerfusion.data.label_names import raw_labels
from hf_layerfusion.data.statistics import corpus_statistics, statistics_table
from hf_layerfusion.hub.card_facts import CardFacts
from hf_layerfusion.hub.environment import hardware_name, library_environment
from hf_layerfusion.hub.markdown import escape_markdown, markdown_table
from hf_layerfusion.recipes.adapter_setup import adapter_fields, adapter_lines
from hf_layerfusion.recipes.card_fields import classifier_fields
from hf_layerfusion.recipes.data_preparation import PreparedData
from hf_layerfusion.recipes.recipe_arguments import (
    DataArguments,
    ModelArguments,
    RunTrainingArguments,
)
from hf_layerfusion.training.trainer_card import NO_METRIC

FEW_TEXTS = 100
"""Below this number of texts a figure says that differences may be chance."""


@dataclass
class RunResult:
    """Results of a run.

    Attributes:
        metrics: metrics by split and name.
        logits: logits of the predicted split, `[N, C]`.
        labels: its labels, `[N]` or `[N, C]`; None without labels.
        history: the Trainer's log.
        training_seconds: training time.
        parameters: number of the model's parameters.
    """

    metrics: dict[str, dict[str, float]]
    logits: np.ndarray
    labels: np.ndarray | None
    history: list[dict[str, Any]]
    training_seconds: float
    parameters: int


def training_texts(data: PreparedData) -> tuple[tuple[list[str], list[str]], tuple[list[str], list[str]]]:
    """Return the first text of each training row with the name of its class, as read and as trained on.

    Rows that were split off for validation or as a fold are left out of both.
    """
    column, schema = data.text_columns[0], data.schema
    keys = zip(column_values(data.raw_train, "row"), column_values(data.raw_train, "id"), strict=True)
    kept = select_rows(data.raw_train, [place for place, key in enumerate(keys) if key not in data.held_out])
    named = dict(zip(schema.values, schema.names, strict=True))
    raw = [f"{label:g}" if isinstance(label, float) else str(label) for label in raw_labels(kept)]
    train = data.splits["train"]
    trained = [schema.names[label] for label in column_values(train, "label")]
    return (column_values(kept, column), [named.get(label, label) for label in raw]), (
        column_values(train, column),
        trained,
    )


def measured_fields(
    history: list[dict[str, Any]], seconds: float, arguments: RunTrainingArguments
) -> dict[str, Any]:
    """Return the card's fields on training: seed, epochs, time, hardware and library versions."""
    return {
        "seeds": [arguments.seed],
        "epochs": epoch_rows(history),
        "training_seconds": seconds,
        "hardware": hardware_name(arguments.device, arguments.world_size),
        "environment": library_environment(),
    }


def split_metrics(output: Any, split: str) -> dict[str, float]:
    """Return the metrics of a prediction without the split's prefix and without timings."""
    return {
        name.removeprefix(f"{split}_"): value
        for name, value in (output.metrics or {}).items()
        if not name.endswith(NO_METRIC)
    }


def epoch_rows(history: list[dict[str, Any]]) -> list[dict[str, float]]:
    """Return a row for each epoch of the Trainer's log: training loss, validation loss and the other metrics by name.

    Metrics are sorted because a resumed run reads its log from a file, which keeps no order of names.
    """
    rows: dict[float, dict[str, float]] = {}
    for entry in history:
        epoch = entry.get("epoch")
        if epoch is None or "train_runtime" in entry:
            continue
        row = rows.setdefault(epoch, {"epoch": epoch})
        if "loss" in entry:
            row["training loss"] = entry["loss"]
        for name, value in sorted(entry.items(), key=lambda item: (item[0] != "eval_loss", item[0])):
            if name.startswith("eval_") and not name.endswith(NO_METRIC):
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
    """Return the facts of a run for its model card. Every figure was measured by that run."""
    variant = getattr(model.config, "paper_name", "plain")
    single_label = data.schema.problem_type == "single_label_classification"
    fields = classifier_fields(model.config, model_arguments, data_arguments, training_arguments)
    fields |= adapter_fields(model, folder, len(data.text_columns))
    fields["architecture"] += adapter_lines(model)
    if (
        "test" not in result.metrics
        and "validation" in result.metrics
        and training_arguments.load_best_model_at_end
    ):
        fields["limits"].insert(
            0,
            "The checkpoint was selected on the validation split, whose figures above are therefore optimistic.",
        )
    notes = "\n".join(f"- {escape_markdown(note)}" for note in data.notes)
    about_data = [("Notes on the texts", notes)]
    if single_label:
        before, after = (corpus_statistics(*part) for part in training_texts(data))
        table = str(markdown_table(*statistics_table(before, after)))
        about_data.append((words_caption(data, before != after), table))
    return CardFacts(
        model_name=card_name(variant, folder),
        model_path=str(folder),
        **fields,
        **measured_fields(result.history, result.training_seconds, training_arguments),
        parameters=result.parameters,
        num_examples={name: len(split) for name, split in data.splits.items()},
        problem_type=data.schema.problem_type,
        labels=[] if data.schema.problem_type == "regression" else list(data.schema.names),
        metrics=result.metrics,
        figures=figures,
        data_sections=about_data,
    )


def words_caption(data: PreparedData, cleaned: bool) -> str:
    """Return what the statistics of words are about: which texts, and whether before and after cleaning."""
    what = (
        "Words per training text"
        if len(data.text_columns) == 1
        else "Words in the first text of a training pair"
    )
    return f"{what}, before and after cleaning" if cleaned else what


def curves_caption(history: list[dict[str, Any]], metric: str, num_texts: int) -> str:
    """Return the caption of the training curves, which says if they show one epoch or were measured on few texts."""
    epochs = {entry["epoch"] for entry in history if "eval_loss" in entry and "epoch" in entry}
    when = "by epoch" if len(epochs) > 1 else "after the only epoch"
    return f"Loss and {metric} {when}, on {few_texts(num_texts, 'validation')}."


def few_texts(number: int, split: str) -> str:
    """Return the number of texts of a split, with a remark if they are few."""
    remark = ", so few that differences may be chance" if number < FEW_TEXTS else ""
    return f"{number:,} {split} {'text' if number == 1 else 'texts'}{remark}"


def card_name(variant: str, folder: Path) -> str:
    """Return the name of a run's model: the folder's name, prefixed with the variant unless it starts with it."""
    name = folder.resolve().name
    return name if name.startswith(variant) else f"{variant}-{name}"
