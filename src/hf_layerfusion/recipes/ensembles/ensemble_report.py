"""Outputs of the ensemble recipe: files in its folder, and the facts of its card."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import softmax

from hf_layerfusion.data.text_preparation import KEY
from hf_layerfusion.ensembling.batched_metrics import score_of
from hf_layerfusion.ensembling.combiners import Array
from hf_layerfusion.ensembling.ensemble import Ensemble
from hf_layerfusion.ensembling.fitted import worst_if_undefined
from hf_layerfusion.evaluation.diversity import disagreement, error_correlation, mean_of_pairs
from hf_layerfusion.evaluation.plots.ensemble_plots import plot_gain
from hf_layerfusion.evaluation.predictions import write_predictions
from hf_layerfusion.hub.card_facts import CardFacts
from hf_layerfusion.hub.environment import library_environment
from hf_layerfusion.hub.markdown import escape_markdown, markdown_table
from hf_layerfusion.recipes.card_fields import data_fields, preparation_fields
from hf_layerfusion.recipes.ensembles.ensemble_arguments import EnsembleArguments, EnsembleDataArguments
from hf_layerfusion.recipes.ensembles.ensemble_rows import SOUP, CombinerComparison, ComparisonRow
from hf_layerfusion.run_layout import (
    PLOTS,
    PREDICTIONS,
    PREDICTIONS_FILE,
    RESULTS_FILE,
    TABLE_FILE,
    figure,
    records,
)
from hf_layerfusion.storage import read_object, write_json

# Matrices of more members than this are not shown, only their mean.
SHOWN_MEMBERS = 12


def members_prepare(ensemble: Ensemble, steps: Sequence[str]) -> bool:
    """Return whether each member's tokenizer was saved with these cleaning steps, so that the ensemble applies them."""
    configs = [(member.predictor.folder or Path()) / "tokenizer_config.json" for member in ensemble.members]
    if not all(path.is_file() for path in configs):
        return False
    saved = [read_object(path, "save the member's tokenizer again").get(KEY) for path in configs]
    return all(isinstance(settings, dict) and settings.get("steps") == list(steps) for settings in saved)


def write_comparison(
    folder: Path,
    place: Path,
    comparison: CombinerComparison,
    arguments: EnsembleArguments,
    data_arguments: EnsembleDataArguments,
) -> dict[str, Any]:
    """Write the ensemble, the comparison table, predictions, plot and card into `folder`, which will take the place
    of `place`.

    Returns:
        The content of `all_results.json`: the figures of the chosen combiner.
    """
    header, cells = table_of(comparison)
    diversity = diversity_of(comparison)
    curves = gain_curves(comparison)
    row = next(row for row in comparison.rows if row.name == comparison.chosen and row.kind == "combiner")
    several = len(comparison.texts) > 1
    metrics: dict[str, dict[str, float]] = {}
    for task, splits in row.metrics.items():
        prefix = f"{task}_" if several and task != "mean" else ""
        for split, found in splits.items():
            metrics.setdefault(split, {}).update({prefix + name: value for name, value in found.items()})
    columns = {task: len(next(iter(splits.values())).columns) for task, splits in comparison.texts.items()}
    prepared = preparation_fields({"": data_arguments})
    facts = CardFacts(
        place.resolve().name,
        text_pair=next(iter(columns.values())) == 2,
        tasks=columns if several else {},
        metrics=metrics,
        sections=_sections(comparison, header, cells, diversity),
        figures=[("Score against the number of members.", figure("gain.png"))] if curves else [],
        **prepared,
        pipeline_prepares=members_prepare(comparison.ensemble, prepared.get("preparation", [])),
        **data_fields(data_arguments),
        environment=library_environment(),
    )
    comparison.ensemble.write(folder, place, arguments.carry_members, facts)
    place = records(folder)
    place.mkdir(exist_ok=True)
    with (place / TABLE_FILE).open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *cells])
    if curves:
        (place / PLOTS).mkdir()
        names = list(dict.fromkeys(comparison.main_metrics.values()))
        plot_gain(curves, place / PLOTS / "gain.png", ", ".join(names).replace("_", " "))
    _write_predictions(place, comparison, row, data_arguments.prediction_format)
    results: dict[str, Any] = {"combiner": comparison.chosen}
    results |= {f"{split}_{name}": value for split, found in metrics.items() for name, value in found.items()}
    if row.gain is not None:
        results["gain_on"] = comparison.gains_on
        results |= {"gain": row.gain.difference, "gain_low": row.gain.low, "gain_high": row.gain.high}
        results |= {"gain_remark": row.gain.remark} if row.gain.remark else {}
    results |= {
        f"{name}_{task}" if len(diversity) > 1 else name: mean_of_pairs(matrix)
        for task, matrices in diversity.items()
        for name, matrix in matrices.items()
    }
    results = {name: value for name, value in results.items() if isinstance(value, str) or np.isfinite(value)}
    write_json(place / RESULTS_FILE, results)
    return results


def table_of(comparison: CombinerComparison) -> tuple[list[str], list[list[str]]]:
    """Return header and cells of the comparison table.

    Columns are name, kind, number of members, the tasks' main metrics by split, and the gain over the best member of
    each task with its interval and, where there is one, a remark.
    """
    columns = [
        (split, task, comparison.main_metrics.get(task, "mean"))
        for split in ("validation", "test")
        for task in [*comparison.main_metrics, "mean"]
        if any(split in row.metrics.get(task, {}) for row in comparison.rows)
    ]
    several = len(comparison.main_metrics) > 1
    header = ["name", "kind", "members"]
    header += [
        f"{split}_{main}" if not several or task == "mean" else f"{split}_{task}_{main}"
        for split, task, main in columns
    ]
    header += ["gain_on", "gain", "gain_low", "gain_high"]
    has_remarks = any(row.gain is not None and row.gain.remark for row in comparison.rows)
    header += ["gain_remark"] if has_remarks else []
    cells = []
    for row in comparison.rows:
        counts = sorted(set(row.members.values()))
        line = [row.name, row.kind, " to ".join(map(str, counts[:: max(1, len(counts) - 1)]))]
        line += [_figure(row.metrics.get(task, {}).get(split, {}).get(main)) for split, task, main in columns]
        gain = row.gain
        line += (
            ["", "", "", ""]
            if gain is None
            else [comparison.gains_on, *(_figure(each) for each in (gain.difference, gain.low, gain.high))]
        )
        if has_remarks:
            line.append("" if gain is None else gain.remark)
        cells.append(line)
    return header, cells


def _figure(value: float | None) -> str:
    return "" if value is None or not np.isfinite(value) else f"{value:.4f}"


def diversity_of(comparison: CombinerComparison) -> dict[str, dict[str, Array]]:
    """Return, for tasks with several members, the pairwise disagreement of classes and correlation of errors, each
    `[M, M]`.

    Both are measured on the reported split.
    """
    found: dict[str, dict[str, Array]] = {}
    for task, splits in comparison.member_predictions.items():
        split = comparison.reported(task)
        if split is None or len(splits[split]) < 2:
            continue
        labels = np.asarray(comparison.texts[task][split].labels)
        if comparison.ensemble.tasks[task].is_regression:
            found[task] = {"error_correlation": error_correlation(splits[split] - labels)}
        else:
            predicted = splits[split].argmax(axis=2)
            found[task] = {
                "disagreement": disagreement(predicted),
                "error_correlation": error_correlation(predicted != labels),
            }
    return found


def gain_curves(comparison: CombinerComparison) -> dict[str, dict[str, list[float]]]:
    """Return the score of the mean prediction of the best 1, 2, … members, by task and split."""
    curves: dict[str, dict[str, list[float]]] = {}
    for task, splits in comparison.member_predictions.items():
        labelled = {
            split: (each, np.asarray(comparison.texts[task][split].labels))
            for split, each in splits.items()
            if comparison.texts[task][split].labels is not None
        }
        if not labelled:
            continue
        _, score = score_of(comparison.ensemble.tasks[task].problem_type, comparison.main_metrics[task])
        found = score(*labelled.get("validation", next(iter(labelled.values()))))
        order = np.argsort(-worst_if_undefined(found, required=False), kind="stable")
        curves[task] = {}
        for split, (each, labels) in labelled.items():
            ordered = each[order] if each.ndim == 2 else softmax(each[order].astype(np.float64), axis=2)
            counts = np.arange(1, len(ordered) + 1).reshape(-1, *[1] * (ordered.ndim - 1))
            curves[task][split] = score(ordered.cumsum(axis=0) / counts, labels).tolist()
    return curves


def _write_predictions(
    folder: Path, comparison: CombinerComparison, row: ComparisonRow, prediction_format: str
) -> None:
    for task, splits in comparison.texts.items():
        kind = comparison.ensemble.tasks[task]
        path = folder / PREDICTIONS_FILE
        split = "test" if "test" in splits else "validation"
        if len(comparison.texts) > 1:
            (folder / PREDICTIONS).mkdir(exist_ok=True)
            path = folder / PREDICTIONS / f"{task}-{split}.csv"
        write_predictions(
            path,
            ids=splits[split].ids,
            texts=splits[split].as_read,
            logits=row.predictions[task][split],
            problem_type=kind.problem_type,
            label_names=kind.labels,
            format=prediction_format,  # type: ignore[arg-type]
            id_name=splits[split].id_name,
        )


def _sections(
    comparison: CombinerComparison,
    header: list[str],
    cells: list[list[str]],
    diversity: dict[str, dict[str, Array]],
) -> list[tuple[str, str]]:
    body = str(markdown_table([name.replace("_", " ") for name in header], cells))
    body += f"\n\nThe ensemble here is {escape_markdown(comparison.chosen)}. {_what_gains_are(comparison)}"
    if any(row.kind == SOUP for row in comparison.rows):
        body += " The soup is one model with the average of the members' weights."
    sections = [("Members and combiners", body)]
    if diversity:
        one = len(comparison.texts) == 1  # its name need not be shown
        parts = [
            _diversity("" if one else f", {escape_markdown(task)}", matrices)
            for task, matrices in diversity.items()
        ]
        sections.append(("Diversity of the members", "\n\n".join(parts)))
    if comparison.notes:
        sections.append(
            (
                "Notes on the texts",
                "\n".join(f"- {escape_markdown(note)}" for note in comparison.notes),
            )
        )
    return sections


def _what_gains_are(comparison: CombinerComparison) -> str:
    if all(row.gain is None for row in comparison.rows):
        return "Gains were not measured, because labels are missing."
    chosen_on = " and ".join(
        sorted({"validation" if "validation" in splits else "test" for splits in comparison.texts.values()})
    )
    text = (
        f"Gains are relative to the best member of each task on the {chosen_on} data. They are measured on the "
        f"{comparison.gains_on} data, with the 95 % interval of a bootstrap over the texts."
    )
    if "test" in chosen_on:
        text += " Because the best member was selected on the reported texts, its score is optimistic."
    if "validation" in comparison.gains_on:
        text += (
            " **The combiners were also fitted and selected on the validation data, so their scores and gains on "
            "it are "
            "optimistic. Only labelled test data, which were not given, would show what the ensemble gains.**"
        )
    return text


def _diversity(of_task: str, matrices: dict[str, Array]) -> str:
    titles = {
        "disagreement": "Share of texts on which two members disagree",
        "error_correlation": "Correlation of two members' errors",
    }
    parts = []
    for name, matrix in matrices.items():
        parts.append(f"{titles[name]}{of_task}: mean over pairs {_figure(mean_of_pairs(matrix))}.")
        if len(matrix) <= SHOWN_MEMBERS:
            numbers = range(1, len(matrix) + 1)
            rows = [
                [number, *(_figure(value) for value in line)]
                for number, line in zip(numbers, matrix, strict=True)
            ]
            parts.append(str(markdown_table(["Member", *numbers], rows)))
    return "\n\n".join(parts)
