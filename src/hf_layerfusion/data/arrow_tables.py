"""Conversion between `datasets.Dataset` and Arrow, without the index mapping that makes a `Dataset` slow after
`select`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, DatasetInfo, Features


def to_table(dataset: Dataset) -> pa.Table:
    """Return the rows of `dataset` in order."""
    return dataset.with_format("arrow")[:]


def from_table(table: pa.Table, features: Features | None = None) -> Dataset:
    """Return an in-memory `Dataset`; `features` are needed only if they say more than the types of the table."""
    return Dataset(table, info=DatasetInfo(features=features or Features.from_arrow_schema(table.schema)))


def select_rows(dataset: Dataset, indices: Sequence[int] | np.ndarray[Any, Any]) -> Dataset:
    """Return a copy of the rows at `indices`, so that reading them later needs no look-up per row."""
    return from_table(
        to_table(dataset).take(pa.array(indices, pa.int64())).combine_chunks(), dataset.features
    )


def column_values(dataset: Dataset, column: str) -> list[Any]:
    """Return a column as Python values."""
    return list(to_table(dataset.select_columns([column]))[column].to_pylist())


def row_number(dataset: Dataset, index: int) -> int:
    """Return the row of example `index` in its file; without a column `row`, its number counted from 1."""
    return int(dataset[index]["row"]) if "row" in dataset.column_names else index + 1
