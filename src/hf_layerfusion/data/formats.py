"""Readers of JSON and parquet that return the requested columns as Arrow arrays; `data/files.py` is the public
interface.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Features

from hf_layerfusion.data.columns import Columns, RequestedColumns, excerpt, missing_columns
from hf_layerfusion.data.utf8 import empty_file, read_utf8, split_lines
from hf_layerfusion.errors import UserError, check_characters, one_line

logger = logging.getLogger(__name__)

# Fields of an SNLI file, and its label for pairs without agreement among the annotators.
_SNLI_FIELDS = {"gold_label", "sentence1", "sentence2"}
_SNLI_UNDECIDED = "-"
_LABEL_KINDS = {str: "string", bool: "number", int: "number", float: "number"}


def read_json(path: Path, wanted: RequestedColumns, max_text_bytes: int) -> Columns:
    """Read one object per line, or one array of objects.

    SNLI's files are recognized by their fields gold_label, sentence1 and sentence2 (Bowman et al. 2015): if they lack
    the requested label column, gold_label is used. Pairs whose gold_label is "-" are skipped, with a warning.

    Raises:
        UserError: If the file is malformed, with the row; the first object is row 1.
    """
    text = read_utf8(path)
    if text.lstrip().startswith("["):
        records = parse_json(text, str(path))
    else:
        records = [
            parse_json(line, f"{path}: row {row}") for row, line in enumerate(split_lines(text), start=1)
        ]
    if not records:
        raise empty_file(path)
    for row, record in enumerate(records, start=1):
        if not isinstance(record, dict):
            raise UserError(
                f"{path}: row {row}: {excerpt(record)} is not an object; write each example as "
                '{"text": "...", "label": ...}'
            )
    found = list(dict.fromkeys(name for record in records for name in record))
    is_snli = set(found) >= _SNLI_FIELDS
    if is_snli and wanted.label is not None and wanted.label not in found:
        wanted = replace(wanted, label="gold_label")
    columns = wanted.find(found, str(path))
    arrays: Columns = {}
    for name, source in columns.items():
        for row, record in enumerate(records, start=1):
            if source not in record:
                raise missing_columns([source], record, f"{path}: row {row}")
        raw = [record[source] for record in records]
        if name == "label":
            arrays[name] = _json_labels(raw, str(path))
        else:
            arrays[name] = json_strings(raw, f"column {source!r}", str(path), may_be_integer=name == "id")
    if is_snli and columns.get("label") == "gold_label" and pa.types.is_string(arrays["label"].type):
        return _without_undecided(arrays, str(path))
    return arrays


def _without_undecided(arrays: Columns, where: str) -> Columns:
    """Return the labelled pairs of SNLI with their rows."""
    decided = pc.not_equal(arrays["label"], _SNLI_UNDECIDED)
    undecided = pc.sum(pc.invert(decided)).as_py()
    if not undecided:
        return arrays
    logger.warning("%s: %d pairs without a label that annotators agree on left out", where, undecided)
    rows = pa.array(range(1, len(decided) + 1), pa.int64())
    return {name: array.filter(decided) for name, array in {**arrays, "row": rows}.items()}


class _RepeatedKeyError(ValueError):
    """Error for an object with a repeated key, of which `json` would silently keep the last."""


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        names = [name for name, _ in pairs]
        raise _RepeatedKeyError(next(name for name in names if names.count(name) > 1))
    return record


def parse_json(text: str, where: str) -> Any:
    """Return the value of a JSON text.

    Raises:
        UserError: If the JSON is invalid, or an object has a repeated key.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique_keys)
    except _RepeatedKeyError as error:
        raise UserError(
            f"{where}: the column {excerpt(str(error))} occurs twice in one object; rename one"
        ) from error
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, " if "\n" in text else ""
        raise UserError(
            f"{where}: not valid JSON ({place}column {error.colno}: {error.msg}); write one object a line, "
            "or one array of objects"
        ) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: JSON that cannot be read ({one_line(error)}); simplify it") from error


def json_strings(
    raw: Sequence[Any], what: str, where: str, *, may_be_integer: bool = False, first_row: int = 1
) -> pa.Array:
    """Return the values of a column of strings, or of integers if allowed.

    Raises:
        UserError: If there is another value or half a surrogate pair, with its row; the first value has row
            `first_row`.
    """
    for row, value in enumerate(raw, start=first_row):
        if isinstance(value, str):
            check_characters(value, f"{where}: row {row}: {what}")
        elif value is not None and not (may_be_integer and type(value) is int):
            raise UserError(
                f"{where}: row {row}: {what} holds {excerpt(value)}, not a string; put it in quotes"
            )
    return pa.array([value if value is None else str(value) for value in raw], pa.string())


def _json_labels(raw: Sequence[Any], where: str) -> pa.Array:
    """Return labels of one kind: strings, numbers (true and false count as 1 and 0), or lists of one of these."""
    nested = isinstance(raw[0], list)
    first: tuple[str, int] | None = None
    for row, label in enumerate(raw, start=1):
        if isinstance(label, list) != nested:
            raise UserError(
                f"{where}: row {row}: the label {excerpt(label)} is {'not ' if nested else ''}a list, unlike "
                "that of row 1; write every label alike"
            )
        for value in label if nested else [label]:
            kind = _LABEL_KINDS.get(type(value))
            if value is None:
                raise UserError(f"{where}: row {row}: the label is empty; fill it in or delete the row")
            if kind is None:
                raise UserError(
                    f"{where}: row {row}: {excerpt(value)} is not a label; write a string, a number or a list "
                    "of them"
                )
            first = first or (kind, row)
            if kind != first[0]:
                raise UserError(
                    f"{where}: row {row}: the label {excerpt(value)} is a {kind}, that of row {first[1]} a "
                    f"{first[0]}; write every label alike"
                )
            if isinstance(value, str):
                check_characters(value, f"{where}: row {row}: the label")
    try:
        return pa.array([[_unbool(value) for value in label] if nested else _unbool(label) for label in raw])
    except (OverflowError, pa.ArrowInvalid) as error:
        raise UserError(f"{where}: a label is an integer beyond 64 bits; write labels as strings") from error


def _unbool(value: Any) -> Any:
    return int(value) if isinstance(value, bool) else value


def read_parquet(path: Path, wanted: RequestedColumns, max_text_bytes: int) -> Columns:
    """Read only the requested columns.

    Raises:
        UserError: If the file is damaged, or a column has a type that is no text or label.
    """
    try:
        with pq.ParquetFile(path) as file:
            columns = wanted.find(file.schema_arrow.names, str(path))
            table = file.read(columns=list(columns.values()))
        table.validate(full=True)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise UserError(f"{path}: not a valid parquet file ({one_line(error)}); write it again") from error
    return arrow_columns(table, columns, str(path))


def parquet_label(path: Path, column: str) -> Any:
    """Return the `datasets` feature of a column as stored by `Dataset.to_parquet`, or None if there is none.

    Raises:
        UserError: If `datasets` cannot read the stored description.
    """
    schema = pq.read_schema(path)
    if not (schema.metadata or {}).get(b"huggingface"):
        return None
    try:
        return Features.from_arrow_schema(schema).get(column)
    except (ValueError, KeyError, TypeError, AttributeError, pa.ArrowException) as error:
        raise UserError(
            f"{path}: its description of columns (metadata 'huggingface') cannot be read ({one_line(error)}); write "
            "the file again"
        ) from error


def arrow_columns(table: pa.Table, columns: Mapping[str, str], where: str) -> Columns:
    """Return the columns of the result from a table, with one type for each kind whatever its width or encoding.

    Args:
        table: Table with the columns.
        columns: Names in the result mapped to names in the table.
        where: Name of the file or split, for error messages.

    Raises:
        UserError: If a column has an unsupported type.
    """
    arrays: Columns = {}
    for name, source in columns.items():
        array = _decoded(table[source])
        target = _label_type(array.type)
        if name != "label" and target != pa.string() and not (name == "id" and target == pa.int64()):
            target = None
        if target is None:
            what = name if name in ("label", "id") else "text"
            raise UserError(
                f"{where}: column {source!r} holds {array.type}, which is not a valid {what}; name another column"
            )
        try:
            arrays[name] = array.cast(pa.string() if name == "id" else target)
        except pa.ArrowInvalid as error:
            raise UserError(
                f"{where}: column {source!r} cannot be read as {target} ({one_line(error)}); convert it"
            ) from error
    return arrays


def _decoded(array: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return values in place of dictionary indices, also inside lists."""
    kind = array.type
    if pa.types.is_dictionary(kind):
        return array.cast(kind.value_type)
    if (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and pa.types.is_dictionary(kind.value_type):
        # Arrow has no cast from lists of a dictionary's values.
        return pa.chunked_array([array.to_pylist()], pa.list_(kind.value_type.value_type))
    return array


def _label_type(kind: pa.DataType) -> pa.DataType | None:
    """Return the common type of a kind, or None for a kind that is neither text nor label."""
    types = pa.types
    if types.is_list(kind) or types.is_large_list(kind):
        item = _label_type(kind.value_type)
        return None if item is None or types.is_list(item) else pa.list_(item)
    if types.is_boolean(kind) or types.is_integer(kind):
        return pa.int64()
    if types.is_floating(kind) or types.is_decimal(kind):
        return pa.float64()
    if (
        types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_string_view(kind)
        or types.is_null(kind)
    ):
        return pa.string()
    return None
