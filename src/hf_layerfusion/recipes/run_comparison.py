"""Runs compared on the texts that all of them were tested on."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from datasets import Dataset
from transformers import AutoConfig

from hf_layerfusion.data.arrow_tables import column_values
from hf_layerfusion.data.label_names import raw_labels
from hf_layerfusion.data.labels import LabelSchema
from hf_layerfusion.errors import LOADING_ERRORS, UserError, one_line
from hf_layerfusion.evaluation.predictions import plain_label, read_rows, spreadsheet_cell
from hf_layerfusion.evaluation.significance import Difference, holm, paired_bootstrap
from hf_layerfusion.recipes.data_preparation import read_splits
from hf_layerfusion.recipes.prediction_run import config_schema
from hf_layerfusion.recipes.recipe_arguments import DataArguments
from hf_layerfusion.run_layout import PREDICTIONS_FILE, SETTINGS_FILE, find, find_in_parts
from hf_layerfusion.storage import read_object
from hf_layerfusion.training.adapters import BELOW

CONFIG = "config.json"

MEASURES = {
    "single_label_classification": "accuracy",
    "multi_label_classification": "subset accuracy",
    "regression": "negative squared error",
}
"""By problem type, the score of a text, whose mean is compared."""


class RunAnswers(NamedTuple):
    """Predictions of a run beside the truth, text by text.

    Attributes:
        rows: what names the texts: the id and the texts, `[N]`.
        answers: the row of each text in the file of predictions, by seed, `[seeds][N]`.
        truth: the name of each text's class, the set of its labels' names, or its value, `[N]`.
        schema: the labels.
    """

    rows: list[tuple[str, ...]]
    answers: list[list[dict[str, str]]]
    truth: list[Any]
    schema: LabelSchema


class RunScores(NamedTuple):
    """Scores of a run's predictions, text by text.

    Attributes:
        scores: of each text by each seed, `[seeds, N]`.
        rows: what names the texts, `[N]`.
        measure: the name of the score.
    """

    scores: npt.NDArray[np.float64]
    rows: list[tuple[str, ...]]
    measure: str


class RunDifference(NamedTuple):
    """Difference of a run's mean score from that of the first run.

    Attributes:
        run: its folder.
        mean: of its scores.
        difference: mean difference, interval and p-value of a paired bootstrap; None for the first run.
        adjusted: the p-value after Holm's correction for the number of runs.
    """

    run: str
    mean: float
    difference: Difference | None
    adjusted: float | None


def compare_runs(folders: Sequence[str]) -> tuple[str, list[RunDifference]]:
    """Compare runs with the first of them, over the texts that they were tested on.

    Args:
        folders: of runs, those of several seeds above their `seed-…`.

    Returns:
        The name of the score, and a row for each run, the first without a difference.

    Raises:
        UserError: a folder without predictions, data that cannot be read again, or runs that were tested on different
            texts.
    """
    measure, rows = compare_scores(folders, [run_scores(Path(folder)) for folder in folders])
    return measure, with_holm(rows)


def compare_scores(folders: Sequence[str], runs: Sequence[RunScores]) -> tuple[str, list[RunDifference]]:
    """Return the name of the score and the differences of runs, p-values uncorrected; see `compare_runs`."""
    first = runs[0]
    for folder, run in zip(folders, runs, strict=True):
        if run.rows != first.rows or run.measure != first.measure:
            raise UserError(
                f"{folder}: must have been tested on the texts of {folders[0]}, found other texts or labels; compare "
                "runs on the same test data"
            )
    rows = [RunDifference(folders[0], float(first.scores.mean()), None, None)]
    for folder, run in zip(folders[1:], runs[1:], strict=True):
        difference = paired_bootstrap(first.scores, run.scores)
        rows.append(RunDifference(folder, float(run.scores.mean()), difference, None))
    return first.measure, rows


def with_holm(rows: Sequence[RunDifference]) -> list[RunDifference]:
    """Return differences with p-values corrected for their number."""
    adjusted = iter(holm([row.difference.p_value for row in rows if row.difference is not None]))
    return [row if row.difference is None else row._replace(adjusted=next(adjusted)) for row in rows]


def run_scores(folder: Path) -> RunScores:
    """Read how right a run was on each text that it was tested on.

    Raises:
        UserError: as `compare_runs`.
    """
    if find_in_parts(folder, "fold-*", PREDICTIONS_FILE):
        raise UserError(
            f"{folder}: must be a run with one model or several seeds, found a cross-validation, whose folds have "
            "models of their own; compare single runs"
        )
    return scores_of(run_answers(folder))


def run_answers(folder: Path) -> RunAnswers:
    """Read what a run answered to each text that it was tested on, and the truth.

    The data are read again from where the run read them. The folds of a cross-validation are put one after the other.

    Raises:
        UserError: as `compare_runs`.
    """
    path = find(folder, SETTINGS_FILE)
    stored = read_object(path, "name the folder of a run") if path.is_file() else {}
    if not stored:
        raise UserError(f"{folder}: must be the folder of a run, found no {SETTINGS_FILE}; name one")
    folds = find_in_parts(folder, "fold-*", PREDICTIONS_FILE)
    seeds = find_in_parts(folder, "seed-*", PREDICTIONS_FILE) or {folder: find(folder, PREDICTIONS_FILE)}
    if not folds and not all(path.is_file() for path in seeds.values()):
        raise UserError(f"{folder}: holds no {PREDICTIONS_FILE}; name a run that has answered texts")
    arguments = _data_arguments(stored)
    model = _model_folder(next(iter(folds or seeds)), stored)
    try:
        schema = config_schema(AutoConfig.from_pretrained(model))
    except LOADING_ERRORS as error:
        raise UserError(
            f"{folder}: the labels of its model {model} cannot be read ({one_line(error)}); put it back"
        ) from error
    files = [[path] for path in seeds.values()] if not folds else [list(folds.values())]
    class_names = arguments.class_names if stored.get("members") else None
    return read_answers(folder, files, arguments, schema, class_names)


def read_answers(
    folder: Path,
    files: Sequence[Sequence[Path]],
    arguments: DataArguments,
    schema: LabelSchema,
    class_names: Sequence[str] | None = None,
) -> RunAnswers:
    """Read predictions, and the truth from the run's data.

    Args:
        folder: The folder of the run, for messages.
        files: Its predictions by seed, those of each seed one after the other.
        arguments: The run's data.
        schema: Its labels.
        class_names: Of an ensemble, the names of integer labels in ascending order.

    Raises:
        UserError: as `compare_runs`.
    """
    truth = _truth(arguments, schema, class_names)
    answers = [[row for path in paths for row in read_rows(path)] for paths in files]
    names = [[_name_of(row, arguments) for row in rows] for rows in answers]
    if arguments.prediction_format == "spreadsheet":
        written = {tuple(map(spreadsheet_cell, name)): name for name in truth}
        names = [[written.get(name, name) for name in rows] for rows in names]
        answers = [[row | {"label": plain_label(row.get("label", ""))} for row in rows] for rows in answers]
    unknown = [name for rows in names for name in rows if name not in truth]
    if unknown:
        raise UserError(
            f"{files[0][0]}: the text {unknown[0][-1][:60]!r} is in none of the run's data files, or without a label; "
            "put the files back as they were"
        )
    if any(rows != names[0] for rows in names):
        raise UserError(f"{folder}: its seeds were tested on different texts; compare runs of one split")
    labels = [truth[name] for name in names[0]]
    if schema.problem_type != "regression":
        found = {name for label in labels for name in (label if isinstance(label, set) else [label])}
        if others := sorted(found.difference(schema.names)):
            raise UserError(
                f"{folder}: the label {others[0]!r} of the data is none of the model's ({', '.join(schema.names)}); "
                "put the data back as they were"
            )
    return RunAnswers(names[0], answers, labels, schema)


def scores_of(run: RunAnswers) -> RunScores:
    """Return how right answers are, text by text."""
    scores = [
        [_score(row, truth, run.schema) for row, truth in zip(rows, run.truth, strict=True)]
        for rows in run.answers
    ]
    return RunScores(np.array(scores, dtype=np.float64), run.rows, MEASURES[run.schema.problem_type])


def _model_folder(folder: Path, stored: dict[str, Any]) -> Path:
    """Return the folder of a run's model: its own, of an ensemble its first member's, of a prediction the model's that
    it asked."""
    for place in (folder, folder / BELOW):  # an adapter's is below it
        if (place / CONFIG).is_file():
            return place
    carried = sorted((folder / "members").glob(f"*/{CONFIG}"))
    if carried:
        return carried[0].parent
    return Path(str(stored.get("model_name_or_path") or next(iter(stored.get("members") or ()), folder)))


def _data_arguments(stored: dict[str, Any]) -> DataArguments:
    known = {field.name for field in dataclasses.fields(DataArguments)}
    # Whatever limits the rows is left out, so that all are known.
    settings = {name: stored[name] for name in known & stored.keys() if not name.startswith("max_")}
    return DataArguments(**settings)


def _name_of(row: dict[str, str], arguments: DataArguments) -> tuple[str, ...]:
    columns = [arguments.text_column, *filter(None, [arguments.text_pair_column])]
    if not set(columns) <= row.keys():
        raise UserError(
            f"{PREDICTIONS_FILE}: must have the columns {', '.join(columns)}, found {', '.join(row)}; compare runs of "
            "--prediction_format standard"
        )
    # Earlier versions called the ids of several tasks `id`, whatever their column was called.
    own = arguments.id_column if arguments.id_column in row else "id"
    return (row.get(own or "id", ""), *(row[column] for column in columns))


def _truth(
    arguments: DataArguments, schema: LabelSchema, class_names: Sequence[str] | None
) -> dict[tuple[str, ...], Any]:
    """Return the labels of all rows of the run's data by id and texts; of equal ones the test's win."""
    if arguments.train_file is None and arguments.dataset_name is None and arguments.train_pos_file is None:
        arguments = dataclasses.replace(
            arguments, train_file=arguments.test_file or arguments.validation_file
        )
    columns = [arguments.text_column, *filter(None, [arguments.text_pair_column])]
    truth: dict[tuple[str, ...], Any] = {}
    for name, split in read_splits(arguments).items():  # train, validation, test
        if "label" not in split.column_names:
            continue
        values = schema.with_numeric_labels(split, name).values
        names = dict(zip(values, schema.names, strict=True))
        if class_names is not None and all(isinstance(label, int) for label in raw_labels(split)):
            names = dict(zip(map(str, sorted(set(raw_labels(split)))), class_names, strict=False))
        rows = zip(*(column_values(split, column) for column in ("id", *columns)), strict=True)
        labels = raw_labels(split) if schema.problem_type == "regression" else _named(split, names)
        for row, label in zip(rows, labels, strict=True):
            truth[tuple(row)] = label
    return truth


def _named(split: Dataset, names: dict[str, str]) -> list[Any]:
    """Return the names of the classes of each row, as a set where a row may have several."""

    def name(label: Any) -> str:
        whole = int(label) if isinstance(label, float) and label.is_integer() else label
        return names.get(str(whole), str(whole))

    return [set(map(name, label)) if isinstance(label, list) else name(label) for label in raw_labels(split)]


def _score(row: dict[str, str], truth: Any, schema: LabelSchema) -> float:
    if schema.problem_type == "regression":
        return -((float(row["value"]) - float(truth)) ** 2)
    if schema.problem_type == "multi_label_classification":
        return float(set(filter(None, row["label"].split(";"))) == truth)
    return float(row["label"] == truth)


def comparison_dict(measure: str, rows: Sequence[RunDifference]) -> dict[str, Any]:
    """Return a comparison as a dictionary of plain values."""
    runs = [
        {
            "run": row.run,
            "mean": row.mean,
            "difference": None if row.difference is None else dataclasses.asdict(row.difference),
            "p_holm": row.adjusted,
        }
        for row in rows
    ]
    return {"measure": measure, "runs": runs}
