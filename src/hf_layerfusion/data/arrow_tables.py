"""Between `datasets.Dataset` and Arrow, without the indices that make a `Dataset` slow after `select`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, DatasetInfo, Features


def to_table(dataset: Dataset) -> pa.Table:
    """The rows of `dataset`, in its order."""
    return dataset.with_format("arrow")[:]


def from_table(table: pa.Table, features: Features | None = None) -> Dataset:
    """A `Dataset` in memory; `features` where they say more than the table's types."""
    return Dataset(table, info=DatasetInfo(features=features or Features.from_arrow_schema(table.schema)))


def select_rows(dataset: Dataset, indices: Sequence[int] | np.ndarray[Any, Any]) -> Dataset:
    """The rows at `indices`, copied, so that reading them later costs no look-up for each."""
    return from_table(
        to_table(dataset).take(pa.array(indices, pa.int64())).combine_chunks(), dataset.features
    )


def column_values(dataset: Dataset, column: str) -> list[Any]:
    """The column as Python values."""
    return list(to_table(dataset.select_columns([column]))[column].to_pylist())


def row_number(dataset: Dataset, index: int) -> int:
    """The row of its file that example `index` stands in; without a column `row`, its number from 1."""
    return int(dataset[index]["row"]) if "row" in dataset.column_names else index + 1
