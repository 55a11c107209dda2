"""Runs compared on the texts that all of them were tested on."""

import csv
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
from hf_layerfusion.errors import UserError
from hf_layerfusion.evaluation.predictions import long_fields
from hf_layerfusion.evaluation.significance import Difference, holm, paired_bootstrap
from hf_layerfusion.recipes.data_preparation import read_splits
from hf_layerfusion.recipes.prediction_run import config_schema
from hf_layerfusion.recipes.recipe_arguments import DataArguments
from hf_layerfusion.run_layout import PREDICTIONS_FILE, SETTINGS_FILE, find, find_in_parts
from hf_layerfusion.storage import read_object

MEASURES = {
    "single_label_classification": "accuracy",
    "multi_label_classification": "subset accuracy",
    "regression": "negative squared error",
}
"""By problem type, the score of a text, whose mean is compared."""


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
    path = find(folder, SETTINGS_FILE)
    stored = read_object(path, "name the folder of a run") if path.is_file() else {}
    if not stored:
        raise UserError(f"{folder}: must be the folder of a run, found no {SETTINGS_FILE}; name one")
    seeds = find_in_parts(folder, "seed-*", PREDICTIONS_FILE) or {folder: find(folder, PREDICTIONS_FILE)}
    if not all(path.is_file() for path in seeds.values()):
        raise UserError(f"{folder}: holds no {PREDICTIONS_FILE}; name a run that has ended")
    arguments = _data_arguments(stored)
    schema = config_schema(AutoConfig.from_pretrained(_model_folder(next(iter(seeds)), stored)))
    return read_scores(folder, list(seeds.values()), arguments, schema, arguments.id_column or "id")


def read_scores(
    folder: Path, files: Sequence[Path], arguments: DataArguments, schema: LabelSchema, id_name: str
) -> RunScores:
    """Read how right predictions are.

    Args:
        folder: The folder of the run, for messages.
        files: Its predictions, by seed.
        arguments: The run's data.
        schema: Its labels.
        id_name: The column of the ids in the files.

    Raises:
        UserError: as `compare_runs`.
    """
    truth = _truth(arguments, schema)
    scores, rows = [], []
    for path in files:
        answers = _read_rows(path)
        names = [_name_of(row, arguments, id_name) for row in answers]
        unknown = [name for name in names if name not in truth]
        if unknown:
            raise UserError(
                f"{path}: the text {unknown[0][-1][:60]!r} is in none of the run's data files, or without a label; put "
                "the files back as they were"
            )
        scores.append([_score(row, truth[name], schema) for row, name in zip(answers, names, strict=True)])
        rows.append(names)
    if any(names != rows[0] for names in rows):
        raise UserError(f"{folder}: its seeds were tested on different texts; compare runs of one split")
    return RunScores(np.array(scores, dtype=np.float64), rows[0], MEASURES[schema.problem_type])


def _model_folder(folder: Path, stored: dict[str, Any]) -> Path:
    """Return the folder of a run's model: its own, or of a prediction the model's that it asked."""
    if (folder / "config.json").is_file():
        return folder
    return Path(str(stored["model_name_or_path"]))


def _data_arguments(stored: dict[str, Any]) -> DataArguments:
    known = {field.name for field in dataclasses.fields(DataArguments)}
    # Whatever limits the rows is left out, so that all are known.
    settings = {name: stored[name] for name in known & stored.keys() if not name.startswith("max_")}
    return DataArguments(**settings)


def _read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file, long_fields():
        return list(csv.DictReader(file))


def _name_of(row: dict[str, str], arguments: DataArguments, id_name: str) -> tuple[str, ...]:
    columns = [arguments.text_column, *filter(None, [arguments.text_pair_column])]
    if not set(columns) <= row.keys():
        raise UserError(
            f"{PREDICTIONS_FILE}: must have the columns {', '.join(columns)}, found {', '.join(row)}; compare runs of "
            "--prediction_format standard"
        )
    return (row.get(id_name, ""), *(row[column] for column in columns))


def _truth(arguments: DataArguments, schema: LabelSchema) -> dict[tuple[str, ...], Any]:
    """Return the labels of all rows of the run's data by id and texts; of equal ones the test's win."""
    if arguments.train_file is None and arguments.dataset_name is None and arguments.train_pos_file is None:
        arguments = dataclasses.replace(arguments, train_file=arguments.test_file)
    names = dict(zip(schema.values, schema.names, strict=True))
    columns = [arguments.text_column, *filter(None, [arguments.text_pair_column])]
    truth: dict[tuple[str, ...], Any] = {}
    for split in read_splits(arguments).values():  # train, validation, test
        if "label" not in split.column_names:
            continue
        rows = zip(*(column_values(split, name) for name in ("id", *columns)), strict=True)
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
