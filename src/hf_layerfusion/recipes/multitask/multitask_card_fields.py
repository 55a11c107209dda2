"""Fields of a multitask model's card that are known before the run."""

from collections.abc import Mapping
from typing import Any

from hf_layerfusion.hub.citations import METHODS
from hf_layerfusion.hub.encoder import hub_id
from hf_layerfusion.recipes.card_fields import (
    data_fields,
    encoder_fields,
    preparation_fields,
    recipe_settings,
)
from hf_layerfusion.recipes.data_preparation import text_columns
from hf_layerfusion.recipes.multitask.multitask_arguments import (
    MultitaskDataArguments,
    MultitaskModelArguments,
    MultitaskTrainingArguments,
)
from hf_layerfusion.recipes.multitask.task_preparation import TaskSpec

# Settings shown on a card besides those of every run.
TASK_CARD_SETTINGS = (
    "task_mixing", "task_loss", "task_weights", "regularizers", "gradient_surgery", "layer_decay", "class_balance",
    "balance_bins",
)  # fmt: skip


def tasks_fields(
    tasks: Mapping[str, TaskSpec],
    model_arguments: MultitaskModelArguments,
    data_arguments: MultitaskDataArguments,
    training_arguments: MultitaskTrainingArguments,
) -> dict[str, Any]:
    """Return the card's fields for a model of several tasks."""
    more = {name: getattr(training_arguments, name) for name in TASK_CARD_SETTINGS}
    more |= {"tokens": data_arguments.max_seq_length, "pair_order": data_arguments.pair_order}
    texts = {name: len(text_columns(task.data)) for name, task in tasks.items()}
    ids = {name: hub_id(task.data.dataset_name or "") for name, task in tasks.items()}
    return {
        **encoder_fields(model_arguments),
        **data_fields(data_arguments),
        **preparation_fields({name: task.data for name, task in tasks.items()}),
        "pipeline_prepares": True,
        "architecture": [
            f"Encoders side by side: {', '.join(model_arguments.encoders)}; {model_arguments.num_task_layers} top "
            "layers of the shared one for each task",
            *(task_line(name, task.settings_in(model_arguments)) for name, task in tasks.items()),
        ],
        "methods": METHODS["cerbertus"],
        "dataset_name": ", ".join(tasks),
        "task_dataset_ids": {name: found for name, found in ids.items() if found is not None},
        "text_pair": next(iter(texts.values())) == 2,
        "tasks": texts,
        "separate_pairs": [
            name for name, task in tasks.items() if task.settings.get("pair_encoding") == "siamese"
        ],
        "recipe": recipe_settings(training_arguments, more),
        "limits": [
            "The model was trained on texts of a few sources: others may differ in language, length, topics and labels."
        ],
    }


def task_line(name: str, settings: Mapping[str, Any]) -> str:
    """Return one line that describes a task: its problem type and settings."""
    kind = settings["problem_type"].replace("_", " ") + (" of pairs" if settings["pair"] else "")
    if settings.get("labels") and settings["problem_type"] != "regression":
        kind += f" ({', '.join(map(str, settings['labels']))})"
    named = ("labels", "metric", "problem_type", "pair")
    shown = [f"{key} {value}" for key, value in settings.items() if key not in named]
    return f"Task {name}: {kind}" + (f"; {', '.join(shown)}" if shown else "")
