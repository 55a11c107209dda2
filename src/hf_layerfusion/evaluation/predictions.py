"""Predictions of a run as a file: a table to read, or the form that the original competition took."""

import csv
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
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

# What a spreadsheet takes for the start of a formula, the wide forms of East Asian keyboards among them.
_FORMULA_SIGNS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")

COURSE_COLUMNS = {
    "sst": "Predicted_Sentiment",
    "para": "Predicted_Is_Paraphrase",
    "sts": "Predicted_Similiary",
    "cfimdb": "Predicted_Sentiment",
}
"""What the prediction files of Stanford's CS 224N call each task's predictions, spelled as there."""


def write_predictions(
    path: str | os.PathLike[str],
    *,
    ids: Sequence[object],
    texts: Mapping[str, Sequence[str]],
    logits: npt.NDArray[Any],
    problem_type: str,
    label_names: Sequence[str] = (),
    format: PredictionFormat = "standard",  # noqa: A002 - the command line's own name
) -> None:
    """Write one row for each text to a CSV file (RFC 4180, UTF-8), whole or not at all.

    `"standard"` writes the columns `id`, one for each of `texts`, and then

    - single label: `label` (its name) and `score` (its probability);
    - multi-label: `label` (names of all labels predicted, joined by `;`, possibly none) and `score` (their
      probabilities, in the same order);
    - regression: `value`.

    `"spreadsheet"` writes the same, but for names, texts and ids that a spreadsheet would take for a formula: see
    `spreadsheet_cell`.

    `"kaggle"` writes `Id,Prediction`: each of `ids`, a whole number from 1 on, and 1 for the second of two classes, -1
    for the first.

    Args:
        path: the file; one that is there is replaced.
        ids: the rows' names, `[N]`.
        texts: text columns by name, each `[N]`, such as `{"text": [...]}` or the two of a pair.
        logits: `[N, C]`; regression: `[N]` or `[N, 1]`.
        problem_type: as in `PretrainedConfig`.
        label_names: C names, by index; not used for regression.
        format: `"standard"`, `"spreadsheet"` or `"kaggle"`.

    Raises:
        UserError: kaggle's form asked of anything but two classes or of ids that are no whole numbers or not all
            different, a label name with `;` in a multi-label task, a text column named as one of ours.
        ValueError: lengths or number of labels that do not fit, an unknown `problem_type` or `format`.
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
        header, answers = _answers(logits, problem_type, label_names)
        clash = sorted({"id", *header} & set(texts))
        if clash:
            raise UserError(
                f"text column {clash[0]!r} is named as a column of the predictions: rename it in the data"
            )
        header = ["id", *texts, *header]
        rows = ((id_, *row, *answer) for id_, *row, answer in zip(ids, *texts.values(), answers, strict=True))
    else:
        raise ValueError(f"format must be 'standard', 'spreadsheet' or 'kaggle'; found {format!r}")
    _write_csv(Path(path), header, rows)


def spreadsheet_cell(cell: Any) -> Any:
    """Return a cell that spreadsheets show and do not run: an apostrophe stands before a string that begins like a
    formula (OWASP, "CSV Injection"), such as `=1+1` or `@name`. Whoever reads the file by a program must take it off.

    Args:
        cell: a number, which is returned as it is, or a string.
    """
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA_SIGNS) else cell


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
            f"prediction_format kaggle needs ids that are different whole numbers from 1 on; found {wrong[0]!r}: mend "
            "the ids, or leave out id_column to number the rows"
        )
    return ((name, 1 if second else -1) for name, second in zip(names, logits.argmax(axis=1), strict=True))


def _answers(
    logits: npt.NDArray[Any], problem_type: str, label_names: Sequence[str]
) -> tuple[list[str], Iterator[tuple[str, ...]]]:
    """Our own columns' names, and their cells for each row."""
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
    """Write predictions as the default project of Stanford's CS 224N wants them: `id , value` on each line, below a
    header with a tab; the class's number, for paraphrases as a float, or the value of a regression.

    Raises:
        ValueError: an unknown `course_name`, or lengths that do not fit.
    """
    if course_name not in COURSE_COLUMNS:
        raise ValueError(f"course_name must be one of {', '.join(COURSE_COLUMNS)}; found {course_name!r}")
    if problem_type == "regression":
        answers = [float(value) for value in np.asarray(logits).reshape(-1)]
    else:
        classes = np.asarray(logits).argmax(axis=1).tolist()
        answers = [float(number) if course_name == "para" else number for number in classes]
    lines = [f"id \t {COURSE_COLUMNS[course_name]} "]
    lines += [f"{id_} , {answer} " for id_, answer in zip(ids, answers, strict=True)]
    write_text(path, "\n".join(lines) + "\n")
