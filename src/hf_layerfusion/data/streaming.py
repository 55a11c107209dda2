"""Streaming of texts from files, for corpora larger than memory, with the strict rules of `files`."""

import functools
import hashlib
import io
import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hf_layerfusion.data.arrow_tables import from_table, to_table
from hf_layerfusion.data.columns import Columns, RequestedColumns, excerpt, missing_columns
from hf_layerfusion.data.delimited import delimited_rows
from hf_layerfusion.data.files import MAX_TEXT_BYTES, FilePath, check_examples, complete_rows
from hf_layerfusion.data.formats import arrow_columns, json_strings, parse_json
from hf_layerfusion.data.utf8 import unreadable_file, utf8_blocks, utf8_lines
from hf_layerfusion.errors import UserError, one_line

logger = logging.getLogger(__name__)

BATCH_ROWS = 1000
# Maximum length of an object in a JSON array; a longer one is probably not closed.
MAX_OBJECT_CHARACTERS = 16 * MAX_TEXT_BYTES

_SIGN = re.compile(r"[^ \t\r\n]")
ITEM = "an item"

# Output of a reader: batches of the requested columns, with the `row` in the file.
Batches = Iterator[Columns]


def stream_texts(
    path: FilePath,
    *,
    text_columns: Sequence[str] = ("text",),
    skip_incomplete: bool = False,
    max_text_bytes: int = MAX_TEXT_BYTES,
) -> Iterator[str]:
    """Yield the texts of a file in order, with memory use independent of the file size.

    `.csv`, `.tsv`, `.jsonl`, `.json` (one object per line, or one array of objects) and `.parquet` are read as strictly
    as by `files.read_examples`, without labels. Each line of a `.txt` file is a text, and blank ones are skipped.

    Args:
        path: The file; its suffix determines the format.
        text_columns: Columns of texts, each of which is a text of its own: for two columns, both texts of a row are
            yielded.
        skip_incomplete: Whether to skip rows without a text, with a warning, instead of refusing them.
        max_text_bytes: Maximum length of a text, in UTF-8 bytes.

    Raises:
        UserError: If a row is invalid, raised when it is reached, with file, row and the way out; or if a file has no
            texts.
    """
    path = Path(path)
    wanted = RequestedColumns(tuple(text_columns))
    suffix = path.suffix.lower()
    if suffix not in STREAMS:
        raise UserError(
            f"{path}: the suffix {path.suffix!r} is not that of a known text format; use one of {', '.join(STREAMS)}"
        )
    read = left_out = 0
    try:
        for columns in STREAMS[suffix](path, wanted, max_text_bytes):
            rows = from_table(pa.table(columns))
            read += len(rows)
            if skip_incomplete:
                whole = complete_rows(rows, text_columns)
                left_out += len(rows) - len(whole)
                rows = whole
            if len(rows):
                check_examples(
                    rows, text_columns=text_columns, where=str(path), max_text_bytes=max_text_bytes
                )
            table = to_table(rows)
            for texts in zip(*(table[name].to_pylist() for name in text_columns), strict=True):
                yield from texts
    except OSError as error:
        raise unreadable_file(path, error) from error
    if read == left_out:
        raise UserError(f"{path}: holds no texts; give at least one")
    if left_out:
        _warn_once(f"{path}: {left_out} rows without a text left out")


@functools.cache
def _warn_once(message: str) -> None:
    logger.warning(message)


def is_held_out(text: str, share: float, seed: int) -> bool:
    """Return whether a text belongs to the share held out from training.

    The result depends only on the text and the seed: equal texts are on the same side, and nothing needs to be stored.
    """
    digest = hashlib.blake2b(text.encode(), digest_size=8, key=str(seed).encode())
    return int.from_bytes(digest.digest(), "big") < share * 2**64


def _batches(rows: Iterable[Any]) -> Iterator[list[Any]]:
    rows = iter(rows)
    while batch := list(islice(rows, BATCH_ROWS)):
        yield batch


def _numbered(columns: Columns, first_row: int) -> Columns:
    size = len(next(iter(columns.values())))
    return {**columns, "row": pa.array(np.arange(first_row, first_row + size))}


def _csv_batches(path: Path, wanted: RequestedColumns, max_text_bytes: int, delimiter: str = ",") -> Batches:
    def lines() -> Iterator[str]:
        return (part for line in utf8_lines(path) for part in io.StringIO(line, newline=""))

    rows = delimited_rows(path, lines, max_text_bytes, delimiter)
    header = next(rows)
    positions = {name: header.index(source) for name, source in wanted.find(header, str(path)).items()}
    row = 2
    for batch in _batches(rows):
        yield _numbered(
            {name: pa.array([fields[at] for fields in batch]) for name, at in positions.items()}, row
        )
        row += len(batch)


def _tsv_batches(path: Path, wanted: RequestedColumns, max_text_bytes: int) -> Batches:
    return _csv_batches(path, wanted, max_text_bytes, delimiter="\t")


def _txt_batches(path: Path, wanted: RequestedColumns, max_text_bytes: int) -> Batches:
    name, *others = wanted.text
    if others:
        raise UserError(
            f"{path}: a .txt file holds one text a line, found text columns {', '.join(wanted.text)}"
        )
    numbered = ((row, line) for row, line in enumerate(utf8_lines(path), start=1) if line.strip())
    for batch in _batches(numbered):
        yield {
            name: pa.array([line.rstrip("\r\n") for _, line in batch]),
            "row": pa.array([row for row, _ in batch]),
        }


def _json_batches(path: Path, wanted: RequestedColumns, max_text_bytes: int) -> Batches:
    is_array = next((block.lstrip()[0] == "[" for block in utf8_blocks(path) if block.strip()), False)
    records = array_items(utf8_blocks(path), str(path)) if is_array else _json_lines(path)
    row = 1
    for batch in _batches(records):
        columns: Columns = {}
        for number, record in enumerate(batch, start=row):
            if not isinstance(record, dict):
                raise UserError(
                    f"{path}: row {number}: {excerpt(record)} is not an object; write each example as "
                    '{"text": "..."}'
                )
            missing = [name for name in wanted.text if name not in record]
            if missing:
                raise missing_columns(missing, record, f"{path}: row {number}")
        for name in wanted.text:
            raw = [record[name] for record in batch]
            columns[name] = json_strings(raw, f"column {name!r}", str(path), first_row=row)
        yield _numbered(columns, row)
        row += len(batch)


def _json_lines(path: Path) -> Iterator[Any]:
    blank_rows = 0
    for row, line in enumerate(utf8_lines(path), start=1):
        if not line.strip():
            blank_rows += 1
            continue
        if blank_rows:
            raise UserError(f"{path}: row {row - blank_rows} is blank; delete the line")
        yield parse_json(line, f"{path}: row {row}")


def array_items(blocks: Iterable[str], where: str) -> Iterator[Any]:
    """Yield the items of one JSON array, each as soon as it is complete.

    Args:
        blocks: The JSON text in arbitrary blocks.
        where: Name of the file, for error messages.

    Raises:
        UserError: If the array is invalid.
    """
    decoder = json.JSONDecoder()
    row, rest, expected = 1, "", "["
    for block in blocks:
        rest, at = rest + block, 0
        while (sign := _SIGN.search(rest, at)) is not None:
            at = sign.start()
            if expected == ITEM and row == 1 and sign[0] == "]":
                at, expected = at + 1, ""
            elif expected == ITEM:
                try:
                    _, end = decoder.raw_decode(rest, at)
                except (ValueError, RecursionError):
                    break  # incomplete until the next block, or invalid
                yield parse_json(rest[at:end], f"{where}: row {row}")
                row, at, expected = row + 1, end, ",]"
            elif sign[0] in expected:
                at, expected = at + 1, "" if sign[0] == "]" else ITEM
            else:
                wanted = " or ".join(expected) or "the end"
                raise UserError(
                    f"{where}: not valid JSON (before row {row}: {excerpt(sign[0])} in place of {wanted}); "
                    "write one object a line, or one array of objects"
                )
        rest = rest[at:]
        if len(rest) > MAX_OBJECT_CHARACTERS:
            break
    if expected == ITEM:
        parse_json(rest, f"{where}: row {row}")  # raises, because it is incomplete
    if expected:
        raise UserError(f"{where}: not valid JSON (no ']' after row {row - 1}); close the array")


def _parquet_batches(path: Path, wanted: RequestedColumns, max_text_bytes: int) -> Batches:
    row = 1
    try:
        with pq.ParquetFile(path) as file:
            columns = wanted.find(file.schema_arrow.names, str(path))
            for batch in file.iter_batches(BATCH_ROWS, columns=list(columns.values())):
                batch.validate(full=True)
                yield _numbered(arrow_columns(pa.Table.from_batches([batch]), columns, str(path)), row)
                row += len(batch)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise UserError(f"{path}: not a valid parquet file ({one_line(error)}); write it again") from error


STREAMS: dict[str, Callable[[Path, RequestedColumns, int], Batches]] = {
    ".csv": _csv_batches,
    ".tsv": _tsv_batches,
    ".jsonl": _json_batches,
    ".json": _json_batches,
    ".txt": _txt_batches,
    ".parquet": _parquet_batches,
}
"""Reader of each format: a new one is a generator and a row here."""
