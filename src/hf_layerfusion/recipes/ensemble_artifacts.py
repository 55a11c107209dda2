"""What a run leaves beside its model for ensembles: which texts it has seen, and its predictions as numbers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from hf_layerfusion.data.arrow_tables import column_values, select_rows
from hf_layerfusion.ensembling.prediction_files import LOGITS_FILE, write_logits
from hf_layerfusion.ensembling.trained_texts import Hashes, text_hashes, write_trained_texts
from hf_layerfusion.recipes.data_preparation import PreparedData


def text_rows(split: Dataset, columns: Sequence[str]) -> list[tuple[str, ...]]:
    """The texts of a split, row by row."""
    return list(zip(*(column_values(split, column) for column in columns), strict=True))


def write_seen_texts(folder: Path, tasks: Sequence[PreparedData]) -> None:
    """Writes hashes of the texts that a model was trained on and of those that chose its checkpoint, as they were
    cleaned and as they were read."""
    parts = [_seen(data) for data in tasks]
    write_trained_texts(folder, *(np.concatenate(part) for part in zip(*parts, strict=True)))


def _seen(data: PreparedData) -> tuple[Hashes, Hashes]:
    train, validation = data.splits["train"], data.splits.get("validation")
    trained = set(column_values(train, "row"))
    chosen = set() if validation is None else set(column_values(validation, "row"))
    # Rows of a file of its own overlap in number with those of training; raw_train does not hold them.
    chosen = chosen if not chosen & trained else set()
    found = []
    for split, rows in ((train, trained), (validation, chosen)):
        cleaned = [] if split is None else text_rows(split, data.text_columns)
        places = [place for place, row in enumerate(column_values(data.raw_train, "row")) if row in rows]
        found.append(
            text_hashes([*cleaned, *text_rows(select_rows(data.raw_train, places), data.text_columns)])
        )
    return found[0], found[1]


def write_split_logits(folder: Path, data: PreparedData, rows: Dataset, logits: Any) -> None:
    """Writes the predictions of a split as numbers: what an ensemble takes as out-of-fold predictions, where the run is
    one of a cross-validation."""
    write_logits(
        folder / LOGITS_FILE,
        ids=column_values(rows, "id"),
        texts={column: column_values(rows, column) for column in data.text_columns},
        logits=logits,
        labels=() if data.schema.problem_type == "regression" else data.schema.names,
    )
