"""Cards of configurations without published weights, from the run files of a table."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard
from sklearn.metrics import confusion_matrix
from transformers import AutoConfig, HfArgumentParser

from hf_layerfusion.errors import UserError
from hf_layerfusion.evaluation.layer_use import LayerUse
from hf_layerfusion.evaluation.significance import mean_sd
from hf_layerfusion.hub.card import build_card, metric_name, purpose
from hf_layerfusion.hub.card_facts import CardFacts, Snippet
from hf_layerfusion.hub.markdown import markdown_table
from hf_layerfusion.recipes.card_fields import classifier_fields
from hf_layerfusion.recipes.layer_use_report import LAYERS_TITLE, layers_section
from hf_layerfusion.recipes.model_setup import (
    ARCHITECTURES,
    model_settings,
    resolve_path,
    settings_of_new_model,
)
from hf_layerfusion.recipes.multitask.multitask_card_fields import tasks_fields
from hf_layerfusion.recipes.multitask.multitask_report import best_of_each_section
from hf_layerfusion.recipes.multitask.task_preparation import make_tasks
from reproduction.release import Release
from reproduction.run_recipes import RUN_RECIPES, arguments_of, task_entries
from reproduction.table_rows import mean_of, read_run_file

Contents = Sequence[Mapping[str, Any]]


def release_card(release: Release, results: Path) -> ModelCard:
    """Return the card of a release, with means over the seeds that have run.

    Raises:
        UserError: No seed has run.
    """
    files = [run.file(results) for run in release.runs]
    contents = [read_run_file(file, "settings", "metrics") for file in files if file.exists()]
    if not contents:
        raise UserError(
            f"{release.name}: needs a run file such as {files[0]}, found none; run `python -m reproduction`."
        )
    metrics, deviations = _means([content["metrics"] for content in contents])
    seeds = [content["settings"]["seed"] for content in contents]
    fields, sections = _tasks(release, metrics) if "tasks" in release.settings else _classifier(release)
    if contents[0].get("layer_use"):
        use = LayerUse(**contents[0]["layer_use"])
        sections.append((LAYERS_TITLE, f"Seed {seeds[0]}. {layers_section(use)}"))
    if len(seeds) > 1:
        sections.append(("Each seed", _seeds(contents)))
    else:
        fields["limits"].append("Only one seed was run: how much the figures vary between seeds is unknown.")
    fields["limits"].append(
        "Other work ran on the same machine: the training time is only a rough indication."
    )
    for figures in (metrics, deviations):
        figures.pop("best_of_each", None)
    labels = (release.labels or {}).get("", [])
    facts = CardFacts(
        model_name=release.name,
        **{**fields, "dataset_name": release.title},
        problem_type="single_label_classification" if labels else "",
        labels=list(labels),
        usage=[_usage(release)],
        parameters=contents[0]["parameters"],
        num_examples=_counts(contents[0]["num_examples"]),
        metrics=metrics,
        deviations=deviations,
        seeds=seeds,
        epochs=contents[0]["epochs"] if len(seeds) == 1 else [],
        training_seconds=mean_of("training_seconds", contents),
        hardware=contents[0].get("hardware") or _threads(contents[0]["threads"]),
        environment=contents[0].get("environment", {}),
        sections=[*sections, *_confusion_sections(release, contents)],
    )
    runs = "run" if len(seeds) == 1 else "runs"
    facts.opening = (
        f"Results of {len(seeds)} {runs} of a model {purpose(facts)}. It was trained on the encoder {facts.encoder} "
        "with the Python package hf_layerfusion. No weights are published."
    )
    return build_card(facts)


def _classifier(release: Release) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    arguments = HfArgumentParser(RUN_RECIPES[release.recipe].arguments).parse_dict(release.settings)
    model_arguments = arguments[0]
    config = ARCHITECTURES[model_arguments.architecture].config_class(
        encoder_config=AutoConfig.from_pretrained(resolve_path(model_arguments.model_name_or_path)),
        **settings_of_new_model(model_arguments),
        **model_settings(model_arguments),
    )
    return classifier_fields(config, *arguments), []


def _tasks(
    release: Release, metrics: Mapping[str, Mapping[str, float]]
) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    arguments = HfArgumentParser(RUN_RECIPES[release.recipe].arguments).parse_dict(
        arguments_of(release.settings)
    )
    tasks = {
        name: replace(task, settings=task.settings_of("single_label_classification"))
        for name, task in make_tasks(task_entries(release.settings), Path(), arguments[1]).items()
    }
    sections = [*best_of_each_section(tasks, metrics), (LAYERS_TITLE, layers_section(None))]
    return tasks_fields(tasks, *arguments), sections


def _means(
    runs: Sequence[Mapping[str, Mapping[str, float]]],
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]:
    """Return mean and, for several runs, standard deviation of each metric by split and name."""
    both = {
        split: {name: mean_sd([run[split][name] for run in runs]) for name in values}
        for split, values in runs[0].items()
    }
    means = {split: {name: mean for name, (mean, _) in found.items()} for split, found in both.items()}
    deviations = {
        split: {name: sd for name, (_, sd) in found.items() if sd is not None}
        for split, found in both.items()
    }
    return means, {split: found for split, found in deviations.items() if found}


def _seeds(contents: Contents) -> str:
    """Return a table of the test metrics of each seed."""
    names = list(contents[0]["metrics"]["test"])
    rows = [
        [content["settings"]["seed"], *(_printed(content["metrics"]["test"][name]) for name in names)]
        for content in contents
    ]
    return str(markdown_table(["Seed", *(metric_name(name).replace("_", " ") for name in names)], rows))


def _printed(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else "undefined"


def _confusion_sections(release: Release, contents: Contents) -> list[tuple[str, str]]:
    """Return a section with the confusion matrix over all seeds for each classification task."""
    sections = []
    for task, names in (release.labels or {}).items():
        matrix = sum(
            confusion_matrix(
                *(
                    (content[key][task] if task else content[key]).split()
                    for key in ("labels", "predictions")
                ),
                labels=[str(number) for number in range(len(names))],
            )
            for content in contents
        )
        rows = [[name, *counts] for name, counts in zip(names, matrix.tolist(), strict=True)]
        text = "Rows are the true classes, columns the predicted ones" + (
            ", over all seeds." if contents[1:] else "."
        )
        table = markdown_table(["", *names], rows)
        sections.append((f"Confusion matrix on test{f': {task}' if task else ''}", f"{text}\n\n{table}"))
    return sections


def _usage(release: Release) -> Snippet:
    return Snippet(
        "There are no weights to load. This command trains the model into a folder whose README.md shows how to "
        "use it; "
        "`$DATA` is the folder of the data:",
        f"python -m reproduction.train_releases --releases {release.name} --data $DATA --output_dir outputs",
        "bash",
    )


def _counts(num_examples: Mapping[str, Any]) -> dict[str, int]:
    """Return the number of examples by split, summed over several tasks."""
    counts: dict[str, int] = {}
    for found in (
        num_examples.values() if isinstance(next(iter(num_examples.values())), dict) else [num_examples]
    ):
        for split, number in found.items():
            counts[split] = counts.get(split, 0) + number
    return counts


def _threads(number: int) -> str:
    return f"CPU, {number} {'thread' if number == 1 else 'threads'}"
