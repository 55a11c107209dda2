"""Outputs of a multitask run: files in its folder, and the facts of its model card."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hf_layerfusion import TaskConfig, parameter_counts
from hf_layerfusion.data.text_preparation import copy_dictionary
from hf_layerfusion.evaluation.mistakes import worst_mistakes
from hf_layerfusion.evaluation.plots.run_plots import plot_training_curves
from hf_layerfusion.evaluation.plots.surgery_plots import plot_conflicts
from hf_layerfusion.evaluation.plots.task_plots import plot_task_metrics, plot_task_predictions
from hf_layerfusion.evaluation.predictions import (
    spreadsheet_cell,
    write_course_predictions,
    write_predictions,
)
from hf_layerfusion.hub.card import build_card
from hf_layerfusion.hub.card_facts import CardFacts
from hf_layerfusion.hub.markdown import escape_markdown, markdown_table
from hf_layerfusion.hub.publish import CARD
from hf_layerfusion.metric_registry import inline_name
from hf_layerfusion.recipes.adapter_setup import adapter_fields, adapter_lines
from hf_layerfusion.recipes.data_preparation import as_read
from hf_layerfusion.recipes.ensemble_artifacts import write_seen_texts
from hf_layerfusion.recipes.layer_use_report import LAYERS_TITLE, layers_section
from hf_layerfusion.recipes.multitask.multitask_arguments import (
    MultitaskDataArguments,
    MultitaskModelArguments,
    MultitaskTrainingArguments,
)
from hf_layerfusion.recipes.multitask.multitask_card_fields import tasks_fields
from hf_layerfusion.recipes.multitask.task_preparation import TaskSpec
from hf_layerfusion.recipes.multitask.task_training import MultitaskData, MultitaskResult
from hf_layerfusion.recipes.run_folder import save_trained, write_results
from hf_layerfusion.recipes.run_report import card_name, curves_caption, measured_fields
from hf_layerfusion.run_layout import MISTAKES, PLOTS, PREDICTIONS, figure, records
from hf_layerfusion.training.trainer import LayerFusionTrainer

SHOWN_MISTAKES = 5


def write_multitask_outputs(
    data: MultitaskData,
    result: MultitaskResult,
    trainer: LayerFusionTrainer,
    model_arguments: MultitaskModelArguments,
    data_arguments: MultitaskDataArguments,
    folder: Path,
    further_sections: Sequence[tuple[str, str]] = (),
) -> None:
    """Write the model, tokenizer, results and card, and each task's predictions, worst mistakes and plots, into a
    folder.

    The card names the Trainer's folder, and shows `further_sections` besides its own.
    """
    training_arguments: MultitaskTrainingArguments = trainer.args
    write_seen_texts(folder, list(data.prepared.values()))
    save_trained(trainer, folder)
    for task in data.tasks.values():
        copy_dictionary(trainer.processing_class, task.data.spelling_dictionary, folder, task.name)
    kept = records(folder)
    for name in (PLOTS, PREDICTIONS, MISTAKES):
        (kept / name).mkdir(exist_ok=True)
    figures = []
    if any("eval_loss" in entry for entry in result.history):
        plot_training_curves(result.history, kept / PLOTS / "training_curves.png", metric="mean")
        num_validation = sum(len(rows) for rows in data.split("validation").values())
        keys = {name: f"eval_{name}_{task.settings['metric']}" for name, task in data.tasks.items()}
        plot_task_metrics(result.history, keys, kept / PLOTS / "tasks.png", "Validation by task and epoch")
        figures += [
            (
                curves_caption(result.history, "the mean over the tasks", num_validation),
                figure("training_curves.png"),
            ),
            ("Each task's main metric on its validation texts, by epoch.", figure("tasks.png")),
        ]
    if any(name.startswith("cosine_") for entry in result.history for name in entry):
        plot_conflicts(result.history, kept / PLOTS / "conflicts.png")
        figures.append(
            ("Cosines between the tasks' gradients, and how often they conflict.", figure("conflicts.png"))
        )
    sections = []
    for task in data.tasks.values():
        write_task_predictions(kept / PREDICTIONS, task, data, result, data_arguments.prediction_format)
        figures += plot_task(kept / PLOTS, task, data, result)
        sections += mistakes_section(
            kept / MISTAKES, task, data, result, data_arguments.prediction_format == "spreadsheet"
        )
    write_results(folder, trainer, result.metrics, result.training_seconds, result.parameters)
    place = Path(str(training_arguments.output_dir))
    facts = multitask_card_facts(
        place, data, result, trainer.model, model_arguments, data_arguments, training_arguments
    )
    facts.figures += figures
    facts.sections += [*further_sections, *sections]
    build_card(facts).save(folder / CARD)


def write_task_predictions(
    folder: Path, task: TaskSpec, data: MultitaskData, result: MultitaskResult, prediction_format: str
) -> None:
    """Write a file `TASK-SPLIT.csv` for each predicted split of a task.

    With the course's format, the course's own files are written too, for the tasks it has. Its development set is
    `test` here, its test set `predict`.
    """
    prepared = data.prepared[task.name]
    for split, logits in result.logits[task.name].items():
        rows = prepared.splits[split]
        write_predictions(
            folder / f"{task.name}-{split}.csv",
            ids=rows["id"],
            texts={column: as_read(rows, column) for column in prepared.text_columns},
            logits=logits,
            problem_type=prepared.schema.problem_type,
            label_names=prepared.schema.names,
            format="spreadsheet" if prediction_format == "spreadsheet" else "standard",
            id_name=task.data.id_column or "id",
        )
        if prediction_format == "course" and task.course_name is not None and split in ("test", "predict"):
            write_course_predictions(
                folder / f"{task.course_name}-{'dev' if split == 'test' else 'test'}-output.csv",
                ids=rows["id"],
                logits=logits,
                problem_type=prepared.schema.problem_type,
                course_name=task.course_name,
            )


def scored(task: TaskSpec, result: MultitaskResult) -> tuple[str, np.ndarray, np.ndarray] | None:
    """Return the split that a task is reported on with its logits and labels, None if no split has labels."""
    for split in ("test", "validation"):
        labels = result.labels[task.name].get(split)
        if labels is not None:
            return split, result.logits[task.name][split], labels
    return None


def plot_task(
    folder: Path, task: TaskSpec, data: MultitaskData, result: MultitaskResult
) -> list[tuple[str, str]]:
    """Plot a task's confusion matrix or scatter, and its distributions; return captions with paths."""
    found = scored(task, result)
    schema = data.prepared[task.name].schema
    if found is None or schema.problem_type == "multi_label_classification":
        return []
    split, logits, labels = found
    is_regression = schema.problem_type == "regression"
    first, second = plot_task_predictions(
        labels,
        logits.reshape(-1) if is_regression else logits.argmax(axis=1),
        folder,
        task.name,
        f"{task.name}, {split}: {len(labels):,} texts",
        None if is_regression else schema.names,
    )
    what = "values" if is_regression else "classes"
    shown = "predicted against true values" if is_regression else "confusion matrix"
    return [
        (f"{task.name}: {shown} on the {len(labels):,} {split} texts.", figure(first)),
        (f"{task.name}: distribution of true and predicted {what} on {split}.", figure(second)),
    ]


def mistakes_section(
    folder: Path, task: TaskSpec, data: MultitaskData, result: MultitaskResult, for_spreadsheets: bool = False
) -> list[tuple[str, str]]:
    """Write a task's worst mistakes to `TASK.csv`, and return the card's section on the very worst.

    `for_spreadsheets` escapes cells that a spreadsheet would run as formulas.
    """
    found = scored(task, result)
    prepared = data.prepared[task.name]
    if found is None or prepared.schema.problem_type == "multi_label_classification":
        return []
    split, logits, labels = found
    names = None if prepared.schema.problem_type == "regression" else list(prepared.schema.names)
    mistakes = worst_mistakes(logits, labels, names)
    rows = prepared.splits[split]
    cells = [
        [rows[mistake.row]["id"], *(rows[mistake.row][column] for column in prepared.text_columns), mistake.true,
         mistake.predicted]
        for mistake in mistakes
    ]  # fmt: skip
    header = [task.data.id_column or "id", *prepared.text_columns, "true", "predicted"]
    with (folder / f"{task.name}.csv").open("w", encoding="utf-8", newline="") as file:
        lines = [header, *cells]
        csv.writer(file).writerows(
            [[spreadsheet_cell(cell) for cell in line] for line in lines] if for_spreadsheets else lines
        )
    shown = [cell[1:] for cell in cells[:SHOWN_MISTAKES]]
    return [(f"Worst mistakes: {task.name}", str(markdown_table(header[1:], shown)))] if shown else []


def multitask_card_facts(
    folder: Path,
    data: MultitaskData,
    result: MultitaskResult,
    model: Any,
    model_arguments: MultitaskModelArguments,
    data_arguments: MultitaskDataArguments,
    training_arguments: MultitaskTrainingArguments,
) -> CardFacts:
    """Return the facts of a run for its model card. Every figure was measured by that run."""
    counts = parameter_counts(model.config)
    fields = tasks_fields(data.tasks, model_arguments, data_arguments, training_arguments)
    fields |= adapter_fields(model, folder, fields["tasks"])
    fields["architecture"] += adapter_lines(model)
    fields["architecture"].insert(
        1,
        f"Parameters by part: {counts.shared:,} shared, {counts.frozen:,} frozen, "
        + ", ".join(f"{number:,} of {name}" for name, number in counts.tasks.items()),
    )
    notes = "\n".join(
        f"- {escape_markdown(name)}: {escape_markdown(note)}"
        for name, prepared in data.prepared.items()
        for note in prepared.notes
    )
    return CardFacts(
        model_name=card_name(model.config.paper_name, folder),
        model_path=str(folder),
        **fields,
        **measured_fields(result.history, result.training_seconds, training_arguments),
        parameters=result.parameters,
        num_examples=_examples(data, data_arguments.train_tasks or list(data.tasks)),
        metrics={
            split: found for split, found in result.metrics.items() if found and split != "best_of_each"
        },
        sections=[
            *best_of_each_section(data.tasks, result.metrics),
            (LAYERS_TITLE, layers_of_tasks(model.config.task_configs)),
        ],
        data_sections=[("Notes on the texts", notes)],
    )


def layers_of_tasks(tasks: Mapping[str, TaskConfig]) -> str:
    """Return the card's section on the layers that each task reads; how much it uses them is not measured."""
    fused = [name for name, task in tasks.items() if task.fusion and task.fusion.get("pooling") != "last"]
    if not fused:
        return layers_section(None)
    rest = "" if len(fused) == len(tasks) else "; the others read its last layer"
    names = ", ".join(map(escape_markdown, fused))
    return (
        f"Tasks that read several layers of the encoder: {names}{rest}. How much each layer is used is not measured "
        "for a model of several tasks."
    )


def best_of_each_section(
    tasks: Mapping[str, TaskSpec], metrics: Mapping[str, Mapping[str, float]]
) -> list[tuple[str, str]]:
    """Return the card's section that compares each task's own best epoch with the saved model."""
    best, here = metrics.get("best_of_each"), metrics.get("test", {})
    if not best:
        return []
    names = {
        f"{name}_{metric}": f"{name}: {inline_name(metric)}"
        for name, task in tasks.items()
        if (metric := task.settings["metric"])
    }
    rows = [
        [shown, f"{here[name]:.4f}", f"{best[name]:.4f}"]
        for name, shown in {**names, "mean": inline_name("mean")}.items()
        if name in best and name in here
    ]
    text = (
        "This model is from the epoch with the best mean over the tasks on the validation data. The last column takes "
        "each task from its own best epoch instead, that is, from several models. Both are measured on test.\n\n"
    )
    return [
        (
            "Each task's own best epoch",
            text + str(markdown_table(["Metric", "This model", "Best of each"], rows)),
        )
    ]


def _examples(data: MultitaskData, trained: Sequence[str]) -> dict[str, int]:
    """Return the rows of each split over all tasks; of training those of the tasks that were trained."""
    counts: dict[str, int] = {}
    for name, prepared in data.prepared.items():
        for split, rows in prepared.splits.items():
            if split != "train" or name in trained:
                counts[split] = counts.get(split, 0) + len(rows)
    return counts
