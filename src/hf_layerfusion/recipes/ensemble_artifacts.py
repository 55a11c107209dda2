"""Files that a run leaves for ensembles: hashes of the texts that its model has seen, and logits."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from hf_layerfusion.data.arrow_tables import column_values, select_rows
from hf_layerfusion.ensembling.prediction_files import write_logits
from hf_layerfusion.ensembling.trained_texts import Hashes, text_hashes, write_trained_texts
from hf_layerfusion.recipes.data_preparation import UNLABELLED, PreparedData, as_read
from hf_layerfusion.run_layout import LOGITS_FILE


def text_rows(split: Dataset, columns: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the texts of a split as one tuple for each row."""
    return list(zip(*(column_values(split, column) for column in columns), strict=True))


def write_seen_texts(folder: Path, tasks: Sequence[PreparedData]) -> None:
    """Write the hashes of a model's training texts and of the texts that selected its checkpoint, both cleaned and as
    read."""
    parts = [_seen(data) for data in tasks]
    write_trained_texts(folder, *(np.concatenate(part) for part in zip(*parts, strict=True)))


def _seen(data: PreparedData) -> tuple[Hashes, Hashes]:
    train, validation = data.splits["train"], data.splits.get("validation")
    trained = set(column_values(train, "row"))
    chosen = set() if validation is None else set(column_values(validation, "row"))
    # A validation file of its own has the same row numbers as training, but its rows are not in raw_train.
    chosen = chosen if not chosen & trained else set()
    found = []
    for split, rows in ((train, trained), (validation, chosen)):
        cleaned = [] if split is None else text_rows(split, data.text_columns)
        places = [place for place, row in enumerate(column_values(data.raw_train, "row")) if row in rows]
        found.append(
            text_hashes([*cleaned, *text_rows(select_rows(data.raw_train, places), data.text_columns)])
        )
    if UNLABELLED in data.splits:
        split = data.splits[UNLABELLED]
        raw = list(zip(*(as_read(split, column) for column in data.text_columns), strict=True))
        found[0] = np.concatenate([found[0], text_hashes([*text_rows(split, data.text_columns), *raw])])
    # What a teacher has learned of a text, its student may know.
    return np.concatenate([found[0], data.seen_by_teacher]), found[1]


def write_split_logits(folder: Path, data: PreparedData, rows: Dataset, logits: Any) -> None:
    """Write the logits of a split, which an ensemble takes as out-of-fold predictions if the run is part of a
    cross-validation."""
    write_logits(
        folder / LOGITS_FILE,
        ids=column_values(rows, "id"),
        texts={column: column_values(rows, column) for column in data.text_columns},
        logits=logits,
        labels=() if data.schema.problem_type == "regression" else data.schema.names,
    )
