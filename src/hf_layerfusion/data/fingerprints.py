"""Fingerprints of rows that tell a resumed run whether its data have changed."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypedDict

from datasets import Dataset

from hf_layerfusion.data.arrow_tables import column_values
from hf_layerfusion.data.utf8 import unreadable_file


class Fingerprint(TypedDict):
    """Number of rows, and a hash of their content in order."""

    rows: int
    sha256: str


class RowHash:
    """Incremental hash of rows that does not keep them."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._rows = 0

    def add(self, row: Iterable[Any]) -> None:
        """Add the values of a row."""
        # JSON in ASCII, so that different rows have different forms and any string can be encoded.
        self._digest.update(json.dumps(list(row), default=str).encode() + b"\n")
        self._rows += 1

    def fingerprint(self) -> Fingerprint:
        """Return the fingerprint of all added rows."""
        return {"rows": self._rows, "sha256": self._digest.hexdigest()}


def fingerprint(dataset: Dataset, columns: Sequence[str], label_names: Sequence[str] = ()) -> Fingerprint:
    """Return the fingerprint of the rows of `dataset`.

    Args:
        dataset: The rows.
        columns: Columns to include; missing ones are ignored.
        label_names: Names of encoded labels, which are included too.
    """
    found = [name for name in columns if name in dataset.column_names]
    rows = RowHash()
    for row in zip(*(column_values(dataset, name) for name in found), strict=True):
        rows.add(row)
    result = rows.fingerprint()
    heading = json.dumps([found, list(label_names), result["sha256"]])
    return {"rows": result["rows"], "sha256": hashlib.sha256(heading.encode()).hexdigest()}


def file_fingerprint(path: str | Path) -> Fingerprint:
    """Return the fingerprint of the lines of a file, or of all CSV files in a folder.

    Raises:
        UserError: If it cannot be read.
    """
    path, lines = Path(path), RowHash()
    try:
        for file in [path] if path.is_file() else sorted(path.rglob("*.csv")):
            for line in file.read_bytes().splitlines():
                lines.add([line.hex()])
    except OSError as error:
        raise unreadable_file(path, error) from error
    return lines.fingerprint()
