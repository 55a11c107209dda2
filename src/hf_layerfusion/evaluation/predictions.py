"""Prediction files of a run, as a table or in the format of the original competition."""

import csv
import operator
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from scipy.special import expit, softmax

from hf_layerfusion.errors import UserError
from hf_layerfusion.evaluation.metrics import predicted_labels
from hf_layerfusion.storage import replacing, write_text

PredictionFormat = Literal["standard", "spreadsheet", "kaggle"]
PREDICTION_FORMATS: tuple[str, ...] = get_args(PredictionFormat)

# Characters that start a formula in a spreadsheet, including the full-width forms of East Asian keyboards.
_FORMULA_SIGNS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")

COURSE_COLUMNS = {
    "sst": "Predicted_Sentiment",
    "para": "Predicted_Is_Paraphrase",
    "sts": "Predicted_Similiary",
    "cfimdb": "Predicted_Sentiment",
}
"""Column name of each task's predictions in the prediction files of Stanford's CS 224N, with its original spelling."""


def write_predictions(
    path: str | os.PathLike[str],
    *,
    ids: Sequence[object],
    texts: Mapping[str, Sequence[str]],
    logits: npt.NDArray[Any],
    problem_type: str,
    label_names: Sequence[str] = (),
    format: PredictionFormat = "standard",  # noqa: A002 - the command line's own name
    id_name: str = "id",
    class_scores: bool = False,
) -> None:
    """Write one row per text to a CSV file (RFC 4180, UTF-8), atomically.

    `"standard"` writes the columns `id`, one for each of `texts`, and then

    - single label: `label` (its name) and `score` (its probability);
    - multi-label: `label` (names of all predicted labels, joined by `;`, possibly none) and `score` (their
      probabilities, in the same order);
    - regression: `value`.

    `"spreadsheet"` writes the same, with an apostrophe before names, texts and ids that a spreadsheet would interpret
    as a formula; see `spreadsheet_cell`.

    `"kaggle"` writes `Id,Prediction`: each of `ids`, a positive integer, and 1 for the second of two classes or -1 for
    the first.

    Args:
        path: The file; an existing one is replaced.
        ids: Ids of the rows, `[N]`.
        texts: Text columns by name, each `[N]`, such as `{"text": [...]}` or the two of a pair.
        logits: `[N, C]`; for a regression `[N]` or `[N, 1]`.
        problem_type: Problem type as in `PreTrainedConfig`.
        label_names: Names of the C labels by index; ignored for a regression.
        format: `"standard"`, `"spreadsheet"` or `"kaggle"`.
        id_name: name of the column of the ids, not for kaggle.
        class_scores: whether each class has a column `score_NAME` too, not for kaggle and regression.

    Raises:
        UserError: If the Kaggle format is requested for anything but two classes, or for ids that are not distinct
            positive integers; if a label name in a multi-label task contains `;`; or if a text column has the name of
            an output column.
        ValueError: If lengths or the number of labels do not match, or `problem_type` or `format` is unknown.
    """
    logits = np.asarray(logits)
    for name, column in (("ids", ids), *texts.items()):
        if len(column) != len(logits):
            raise ValueError(f"{name} must have one entry a row, {len(logits)} in all; found {len(column)}")
    if problem_type != "regression" and logits.shape != (len(logits), len(label_names)):
        raise ValueError(f"logits must be [N, {len(label_names)}], by label_names; found {logits.shape}")

    if format == "kaggle":
        header, rows = ["Id", "Prediction"], _kaggle_rows(ids, logits, problem_type)
    elif format in ("standard", "spreadsheet"):
        if format == "spreadsheet":
            ids, label_names = (
                [*map(spreadsheet_cell, ids)],
                [*map(spreadsheet_cell, label_names)],
            )
            texts = {
                spreadsheet_cell(name): [*map(spreadsheet_cell, column)] for name, column in texts.items()
            }
        header, predictions = _prediction_columns(logits, problem_type, label_names)
        if class_scores and problem_type != "regression":
            header = [*header, *(f"score_{name}" for name in label_names)]
            predictions = map(operator.add, predictions, _class_scores(logits, problem_type))
        _check_columns(id_name, header, texts)
        header = [spreadsheet_cell(id_name) if format == "spreadsheet" else id_name, *texts, *header]
        rows = (
            (id_, *row, *cells) for id_, *row, cells in zip(ids, *texts.values(), predictions, strict=True)
        )
    else:
        raise ValueError(f"format must be 'standard', 'spreadsheet' or 'kaggle'; found {format!r}")
    _write_csv(Path(path), header, rows)


@contextmanager
def long_fields() -> Iterator[None]:
    """Within the block, read fields of csv files of any length: those of the csv module end at 131,072 characters."""
    former = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(former)


def read_rows(path: str | os.PathLike[str]) -> list[dict[str, str]]:
    """Return the rows of a CSV file of predictions or logits, by column."""
    with Path(path).open(encoding="utf-8", newline="") as file, long_fields():
        return list(csv.DictReader(file))


def check_predictions(
    problem_type: str,
    label_names: Sequence[str],
    text_columns: Sequence[str],
    format: str = "standard",  # noqa: A002 - the command line's own name
    id_name: str = "id",
    class_scores: bool = False,
    ids: Sequence[object] = (),
) -> None:
    """Check that predictions can be written, before there are any; the arguments are those of `write_predictions`.

    Raises:
        UserError: As `write_predictions`.
    """
    width = len(label_names) if problem_type != "regression" else 1
    nothing = np.zeros((0, width))
    if format == "kaggle":
        _kaggle_rows(ids, nothing, problem_type)
        return
    header, _ = _prediction_columns(nothing, problem_type, label_names)
    if class_scores and problem_type != "regression":
        header = [*header, *(f"score_{name}" for name in label_names)]
    _check_columns(id_name, header, text_columns)


def _check_columns(id_name: str, header: Sequence[str], text_columns: Iterable[str]) -> None:
    clash = sorted({id_name, *header} & set(text_columns))
    if clash:
        raise UserError(
            f"text column {clash[0]!r} is named as a column of the predictions: rename it in the data"
        )


def spreadsheet_cell(cell: Any) -> Any:
    """Return a cell that spreadsheets display instead of evaluating (OWASP, "CSV Injection").

    An apostrophe is put before strings that start like a formula, such as `=1+1` or `@name`. Programs that read the
    file must remove it.

    Args:
        cell: A string, or a number, which is returned unchanged.
    """
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA_SIGNS) else cell


def plain_label(cell: str) -> str:
    """Return the label of a row that was written for spreadsheets as it was before `spreadsheet_cell`."""
    return cell[1:] if cell.startswith(tuple(f"'{sign}" for sign in _FORMULA_SIGNS)) else cell


def _kaggle_rows(
    ids: Sequence[object], logits: npt.NDArray[Any], problem_type: str
) -> Iterator[tuple[object, ...]]:
    if problem_type != "single_label_classification" or logits.shape[1] != 2:
        classes = f"{logits.shape[1]} labels" if logits.ndim == 2 else "one value a row"
        raise UserError(
            f"prediction_format kaggle needs a task of two classes; found {problem_type} with {classes}: "
            "use prediction_format standard"
        )
    names = [str(id_) for id_ in ids]
    wrong = [name for name in names if not re.fullmatch("[1-9][0-9]*", name)]
    wrong += [name for name, count in Counter(names).items() if count > 1]
    if wrong:
        raise UserError(
            f"prediction_format kaggle needs ids that are different whole numbers from 1 on; found {wrong[0]!r}: "
            "correct the ids, or leave out id_column to number the rows"
        )
    return ((name, 1 if second else -1) for name, second in zip(names, logits.argmax(axis=1), strict=True))


def _prediction_columns(
    logits: npt.NDArray[Any], problem_type: str, label_names: Sequence[str]
) -> tuple[list[str], Iterator[tuple[str, ...]]]:
    """Return the names of the prediction columns, and their cells for each row."""
    if problem_type == "regression":
        if logits.size != len(logits):
            raise ValueError(f"logits of a regression must be [N] or [N, 1]; found {logits.shape}")
        return ["value"], ((f"{value:.7g}",) for value in logits.reshape(-1))
    if problem_type == "single_label_classification":
        scores = softmax(logits.astype(np.float64), axis=1)
        best = scores.argmax(axis=1).tolist()
        return ["label", "score"], (
            (label_names[index], _probability(row[index])) for index, row in zip(best, scores, strict=True)
        )
    if problem_type == "multi_label_classification":
        joined = [name for name in label_names if ";" in name]
        if joined:
            raise UserError(f"a label of a multi-label task must hold no ';', found {joined[0]!r}: rename it")
        scores = expit(logits.astype(np.float64))
        chosen = [np.flatnonzero(mask).tolist() for mask in predicted_labels(logits)]
        return ["label", "score"], (
            (
                ";".join(label_names[index] for index in indices),
                ";".join(_probability(row[index]) for index in indices),
            )
            for indices, row in zip(chosen, scores, strict=True)
        )
    raise ValueError(
        "problem_type must be single_label_classification, multi_label_classification or regression; "
        f"found {problem_type!r}"
    )


def _class_scores(logits: npt.NDArray[Any], problem_type: str) -> Iterator[tuple[str, ...]]:
    """Yield the probabilities of the classes of each row."""
    of_row = expit if problem_type == "multi_label_classification" else partial(softmax, axis=1)
    return (tuple(map(_probability, row)) for row in of_row(logits.astype(np.float64)))


def _probability(value: float) -> str:
    return f"{value:.6f}"


def _write_csv(path: Path, header: Sequence[str], rows: Iterator[tuple[object, ...]]) -> None:
    with replacing(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def write_course_predictions(
    path: str | os.PathLike[str],
    *,
    ids: Sequence[object],
    logits: npt.NDArray[Any],
    problem_type: str,
    course_name: str,
) -> None:
    """Write predictions in the format of the default project of Stanford's CS 224N.

    Each line is `id , value`, below a header with a tab. The value is the class id (as a float for paraphrases) or the
    value of a regression.

    Raises:
        ValueError: If `course_name` is unknown, or lengths do not match.
    """
    if course_name not in COURSE_COLUMNS:
        raise ValueError(f"course_name must be one of {', '.join(COURSE_COLUMNS)}; found {course_name!r}")
    if problem_type == "regression":
        values = [float(value) for value in np.asarray(logits).reshape(-1)]
    else:
        classes = np.asarray(logits).argmax(axis=1).tolist()
        values = [float(number) if course_name == "para" else number for number in classes]
    lines = [f"id \t {COURSE_COLUMNS[course_name]} "]
    lines += [f"{id_} , {value} " for id_, value in zip(ids, values, strict=True)]
    write_text(path, "\n".join(lines) + "\n")
