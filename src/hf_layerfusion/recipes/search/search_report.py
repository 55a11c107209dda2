"""Report of a search, in its folder and in the model card."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hf_layerfusion.evaluation.plots.search_plots import SearchTrial, plot_history, plot_settings
from hf_layerfusion.hub.markdown import Markdown, markdown_table
from hf_layerfusion.recipes.recipe_arguments import RunTrainingArguments
from hf_layerfusion.storage import replacing, write_text


def searched_metric(arguments: RunTrainingArguments) -> str:
    """Return the validation metric that trials are judged by, which also selects a run's checkpoint."""
    return str(arguments.metric_for_best_model or "loss").removeprefix("eval_")


def write_trials(
    folder: Path, trials: Sequence[SearchTrial], arguments: RunTrainingArguments, log_settings: Sequence[str]
) -> None:
    """Write a search's trials as `trials.csv` and `trials.md`, and plot them."""
    objective, maximize = f"validation {searched_metric(arguments)}", bool(arguments.greater_is_better)
    names = list(dict.fromkeys(name for trial in trials for name in trial.settings))
    header = ["trial", "state", objective, *names, "seconds", "error"]
    rows = [
        [trial.number, trial.state, trial.objective, *(trial.settings.get(name) for name in names), trial.seconds,
         trial.error]
        for trial in trials
    ]  # fmt: skip
    with replacing(folder / "trials.csv") as partial, partial.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    shown = [["" if cell is None else cell for cell in row] for row in rows]
    write_text(folder / "trials.md", markdown_table(header, shown) + "\n")
    plot_history(trials, objective, maximize, folder / "history.png")
    plot_settings(trials, objective, maximize, log_settings, folder / "settings.png")


def format_settings(values: dict[str, Any]) -> str:
    """Return the settings on one line."""
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in values.items()
    )


def search_section(
    arguments: RunTrainingArguments, values: dict[str, Any], objective: float
) -> tuple[str, Markdown]:
    """Return the card's section on the search."""
    how = {
        "optuna": f"Optuna ({arguments.hp_sampler})",
        "ray": "Ray Tune",
        "wandb": "a sweep of Weights & Biases",
    }
    text = (
        f"Selected from {arguments.hp_trials} trials of {how[str(arguments.hp_search)]} by the validation "
        f"{searched_metric(arguments)}. The best trial reached {objective:.4g}, which is optimistic because it was "
        "selected. Test data were not used."
    )
    table = markdown_table(["Setting", "Chosen"], list(values.items()))
    return "Hyperparameter search", Markdown(f"{text}\n\n{table}")
