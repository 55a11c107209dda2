"""Data files and Hub data sets in, one kind of `datasets.Dataset` out; whatever is doubtful is an error, never a guess.

Every reader returns, in the order of the file:

| column | type | content |
|---|---|---|
| the text columns, by their own names | `string` | the text as it stands ("NA", "null", "nan" are texts) |
| `label` | `int64`, `double`, `string`, a list, or `ClassLabel` | raw; `data/labels.py` encodes it |
| `id` | `string` | the id column's value, else the number of the example, from 0 |
| `row` | `int64` | where it stands in its file, as a spreadsheet counts: the header of csv and tsv is row 1 |

`row` survives selecting and splitting, so that later errors still name the row of the file.
"""

import csv
import io
import json
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

import datasets
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset, DatasetInfo, Features

from hf_layerfusion.errors import UserError


logger = logging.getLogger(__name__)

MAX_TEXT_BYTES = 1_000_000
RESERVED_COLUMNS = ("label", "id", "row")

FilePath: TypeAlias = str | PathLike[str]

# Numbers as JSON writes them, a plus sign allowed: "007" and "1_000" are names, not numbers.
_INTEGER = re.compile(r"[+-]?(0|[1-9][0-9]{0,17})")
_FLOAT = re.compile(
    r"[+-]?((0|[1-9][0-9]{0,17})(\.[0-9]*)?|\.[0-9]+)(e[+-]?[0-9]+)?|[+-]?(nan|inf)", re.IGNORECASE
)


def read_examples(
    path: FilePath,
    *,
    text_columns: Sequence[str] = ("text",),
    label_column: str | None = "label",
    label_required: bool = True,
    id_column: str | None = None,
    max_text_bytes: int = MAX_TEXT_BYTES,
) -> Dataset:
    """Reads one file of examples; its suffix says the format.

    - `.csv`, `.tsv`: UTF-8 after RFC 4180 with a header line (tsv: the same quoting, tabs for commas). Labels are
      integers if all of them are, else floats if all are, else strings. Quoted texts may hold line breaks.
    - `.jsonl`, `.json`: one object a line, or one array of objects. A list as label means several classes.
    - `.parquet`: labels by the type of their column.

    Blank lines at the end of a file are ignored. Repeated ids are kept and logged as a warning.

    Args:
        path: the file.
        text_columns: one column, or two for text pairs.
        label_column: the column of the label; None reads none.
        label_required: False takes a file without the label column as one to predict only.
        id_column: the column of the id; None numbers the examples from 0.
        max_text_bytes: the longest text in UTF-8 bytes.

    Raises:
        UserError: one line with file, row and the way out, for anything that is not as above.
    """
    path = Path(path)
    wanted = _Wanted(tuple(text_columns), label_column, label_required, id_column)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise UserError(
            f"{path}: the suffix {path.suffix!r} is not a known data format; known are {', '.join(_READERS)}"
        )
    try:
        dataset = reader(path, wanted, max_text_bytes)
    except OSError as error:
        raise _unreadable(path, error) from error
    check_examples(dataset, text_columns=text_columns, where=str(path), max_text_bytes=max_text_bytes)
    return dataset


def read_competition(
    positive: FilePath, negative: FilePath, *, text_column: str = "text", max_text_bytes: int = MAX_TEXT_BYTES
) -> Dataset:
    """Reads the pair of files of the original competition, `train_pos.txt` and `train_neg.txt`.

    One tweet a line, lines end at LF (or CR LF) only. Labels are "positive" and "negative"; the positive file comes
    first. Blank lines (tweets that held nothing but their smiley) are left out and counted in the log.

    Raises:
        UserError: as in `read_examples`.
    """
    parts = [
        _read_tweets(Path(path), label, text_column, max_text_bytes)
        for path, label in ((positive, "positive"), (negative, "negative"))
    ]
    examples = datasets.concatenate_datasets(parts).remove_columns("id")
    return examples.add_column("id", list(map(str, range(len(examples)))))


def read_hub(
    name: str,
    config: str | None = None,
    *,
    text_columns: Sequence[str] = ("text",),
    label_column: str | None = "label",
    id_column: str | None = None,
    max_text_bytes: int = MAX_TEXT_BYTES,
) -> dict[str, Dataset]:
    """Loads every split of a data set of the Hub, for instance `cardiffnlp/tweet_eval`, `sentiment`.

    A `ClassLabel` column stays one: it holds the names and their order, which `LabelSchema.infer` takes over. A split
    without the label column, or with -1 (the Hub's "not given") for every label, has no `label`: it is for prediction.

    Raises:
        UserError: the data set cannot be loaded (name, network, configuration), or as in `read_examples`.
    """
    source = name if config is None else f"{name}/{config}"
    try:
        splits = datasets.load_dataset(name, config)
    except Exception as error:  # the client's errors share no base class, and each means: not loaded
        raise UserError(
            f"the data set {source!r} could not be loaded ({type(error).__name__}: {_one_line(error)}); "
            "check its name, its configuration and the network, or name local files instead"
        ) from error
    has_label = any(label_column in split.column_names for split in splits.values())
    wanted = _Wanted(tuple(text_columns), label_column, not has_label, id_column)
    result = {}
    for split_name, split in splits.items():
        where = f"{source}[{split_name}]"
        columns = wanted.find(split.column_names, where)
        dataset = _from_table(
            split.select_columns(list(columns.values())).with_format("arrow")[:],
            split.features,
            columns,
            where,
        )
        if _is_unlabelled(dataset):
            dataset = dataset.remove_columns("label")
        check_examples(dataset, text_columns=text_columns, where=where, max_text_bytes=max_text_bytes)
        result[str(split_name)] = dataset
    return result


def check_examples(
    dataset: Dataset, *, text_columns: Sequence[str], where: str, max_text_bytes: int = MAX_TEXT_BYTES
) -> None:
    """Checks that every example has its texts and, where there is a column `label`, its label.

    Shared by all readers; call it on a `Dataset` that came by another way.

    Args:
        dataset: what the readers of this module return; a column `row` is used in messages where it is there.
        text_columns: columns that must hold a text: a string that is not white space alone, holds no NUL and is at
            most `max_text_bytes` long.
        where: the file or split, for messages.
        max_text_bytes: the longest text in UTF-8 bytes.

    Raises:
        UserError: the first example that breaks a rule, by its row.
    """
    if len(dataset) == 0:
        raise UserError(f"{where}: holds no examples; give a file with at least one")

    def refuse(bad: pa.ChunkedArray, message: Callable[[int], str]) -> None:
        index = pc.index(bad, True).as_py()
        if index >= 0:
            raise UserError(f"{where}: row {row_number(dataset, index)}: {message(index)}")

    table = dataset.with_format("arrow")[:]
    for name in text_columns:
        if name not in table.column_names:
            raise _missing_columns([name], dataset.column_names, where)
        texts = table[name]
        if not (pa.types.is_string(texts.type) or pa.types.is_large_string(texts.type)):
            raise UserError(f"{where}: column {name!r} holds {texts.type}, not text; name the text's column")
        lengths = pc.fill_null(pc.binary_length(texts), 0)
        refuse(
            pc.equal(pc.fill_null(pc.utf8_trim_whitespace(texts), ""), ""),
            lambda index: f"the text in column {name!r} is empty; fill it in or delete the row",
        )
        refuse(
            pc.match_substring(texts, "\0"),
            lambda index: f"the text in column {name!r} holds a NUL character; delete it",
        )
        refuse(
            pc.greater(lengths, max_text_bytes),
            lambda index: (
                f"the text in column {name!r} has {lengths[index].as_py():,} bytes, more than the limit of "
                f"{max_text_bytes:,}; shorten it, or look for a missing line break"
            ),
        )
    if "label" in table.column_names:
        labels = table["label"]
        absent = pc.is_null(labels)
        if isinstance(dataset.features["label"], ClassLabel):
            absent = pc.or_(absent, pc.fill_null(pc.equal(labels, -1), False))
        elif pa.types.is_string(labels.type):
            absent = pc.equal(pc.fill_null(pc.utf8_trim_whitespace(labels), ""), "")
        refuse(absent, lambda index: "the label is empty; fill it in or delete the row")


def row_number(dataset: Dataset, index: int) -> int:
    """The row of the file that example `index` came from; without a column `row`, its number in `dataset`, from 1."""
    return int(dataset[index]["row"]) if "row" in dataset.column_names else index + 1


@dataclass(frozen=True)
class _Wanted:
    """Which columns the user asks for."""

    text: tuple[str, ...]
    label: str | None
    label_required: bool
    id: str | None

    def __post_init__(self) -> None:
        named = [*self.text, *(name for name in (self.label, self.id) if name is not None)]
        repeated = sorted({name for name in named if named.count(name) > 1})
        reserved = [name for name in self.text if name in RESERVED_COLUMNS]
        if not self.text:
            raise UserError("text_columns is empty; name the column of the text, for instance 'text'")
        if repeated:
            raise UserError(
                f"the column {repeated[0]!r} is asked for twice; name each of text, label and id once"
            )
        if reserved:
            raise UserError(
                f"a text column cannot be called {reserved[0]!r}, which stands for something else here; rename it"
            )

    def find(self, found: Sequence[str], where: str) -> dict[str, str]:
        """Maps the names of the result to those of the file; `found` is the file's header."""
        repeated = sorted({name for name in found if found.count(name) > 1})
        if repeated:
            raise UserError(
                f"{where}: the column {_excerpt(repeated[0])} stands twice in the header; rename one"
            )
        columns = {name: name for name in self.text}
        if self.label is not None and (self.label_required or self.label in found):
            columns["label"] = self.label
        if self.id is not None:
            columns["id"] = self.id
        missing = [name for name in columns.values() if name not in found]
        if missing:
            raise _missing_columns(missing, found, where)
        return columns


def _read_tweets(path: Path, label: str, text_column: str, max_text_bytes: int) -> Dataset:
    _Wanted((text_column,), None, False, None)
    try:
        lines = _lines(_read_text(path))
    except OSError as error:
        raise _unreadable(path, error) from error
    kept = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if len(kept) < len(lines):
        logger.warning("%s: %d blank lines left out", path, len(lines) - len(kept))
    dataset = _dataset(
        {
            text_column: pa.array([line for _, line in kept], pa.string()),
            "label": pa.array([label] * len(kept), pa.string()),
            "row": pa.array([number for number, _ in kept], pa.int64()),
        },
        where=str(path),
    )
    check_examples(dataset, text_columns=(text_column,), where=str(path), max_text_bytes=max_text_bytes)
    return dataset


def _read_separated(path: Path, wanted: _Wanted, max_text_bytes: int, delimiter: str) -> Dataset:
    reader = csv.reader(io.StringIO(_read_text(path), newline=""), strict=True, delimiter=delimiter)
    # The limit is the csv module's one global setting: a field beyond it is mostly a quote that was never closed.
    former_limit = csv.field_size_limit(max_text_bytes)
    rows: list[list[str]] = []
    try:
        for fields in reader:
            rows.append(fields)
    except csv.Error as error:
        raise UserError(
            f"{path}: row {len(rows) + 1}: {_csv_fault(str(error), delimiter, max_text_bytes)}"
        ) from error
    finally:
        csv.field_size_limit(former_limit)
    while rows and not rows[-1]:
        rows.pop()
    if not rows:
        raise _empty_file(path)
    header, width = rows[0], len(rows[0])
    columns = wanted.find(header, str(path))
    if len(rows) == 1:
        raise UserError(f"{path}: holds a header line and no examples; add rows below it")
    separator = "tab" if delimiter == "\t" else "comma"
    for number, fields in enumerate(rows, start=1):
        if not fields:
            raise UserError(f"{path}: row {number} is blank; delete the line")
        if len(fields) != width:
            raise UserError(
                f"{path}: row {number}: {len(fields)} fields where the header has {width}; put a text that holds a "
                f"{separator} in double quotes, or mend the row"
            )
    arrays = {}
    for name, source in columns.items():
        position = header.index(source)
        values = [fields[position] for fields in rows[1:]]
        arrays[name] = _typed_labels(values) if name == "label" else pa.array(values, pa.string())
    return _dataset(arrays, where=str(path), first_row=2)


def _read_csv(path: Path, wanted: _Wanted, max_text_bytes: int) -> Dataset:
    return _read_separated(path, wanted, max_text_bytes, delimiter=",")


def _read_tsv(path: Path, wanted: _Wanted, max_text_bytes: int) -> Dataset:
    return _read_separated(path, wanted, max_text_bytes, delimiter="\t")


def _csv_fault(message: str, delimiter: str, max_text_bytes: int) -> str:
    """The csv module's three strict errors in a user's words."""
    if "field limit" in message:
        return (
            f"a field is longer than the limit of {max_text_bytes:,}; shorten it, or look for a double quote that "
            "is never closed"
        )
    if "unexpected end of data" in message:
        return "a double quote opens a field and is never closed; close it, or write it twice if it is part of the text"
    return (
        f"a closing double quote is not followed by {delimiter!r} or the end of the line; write a double quote "
        'inside a quoted text twice ("")'
    )


def _typed_labels(values: Sequence[str]) -> pa.Array:
    if all(map(_INTEGER.fullmatch, values)):
        return pa.array(map(int, values), pa.int64())
    if all(map(_FLOAT.fullmatch, values)):
        return pa.array(map(float, values), pa.float64())
    return pa.array(values, pa.string())


def _read_json(path: Path, wanted: _Wanted, max_text_bytes: int) -> Dataset:
    text = _read_text(path)
    is_array = text.lstrip().startswith("[")
    if is_array:
        records = _parse_json(text, f"{path}: ")
    else:
        records = [
            _parse_json(line, f"{path}: line {number}: ") for number, line in enumerate(_lines(text), start=1)
        ]
    if not records:
        raise _empty_file(path)
    for number, record in enumerate(records, start=1):
        if not isinstance(record, dict):
            raise UserError(
                f"{path}: row {number}: {_excerpt(record)} is not an object; write each example as "
                '{"text": "…", "label": …}'
            )
    found = dict.fromkeys(name for record in records for name in record)
    columns = wanted.find(list(found), str(path))
    arrays = {}
    for name, source in columns.items():
        for number, record in enumerate(records, start=1):
            if source not in record:
                raise UserError(
                    f"{path}: row {number}: column {_excerpt(source)} is missing (found: {_names(record)}); add it"
                )
        values = [record[source] for record in records]
        if name == "label":
            arrays[name] = _json_labels(values, str(path))
        else:
            arrays[name] = _json_strings(values, source, str(path), numbers=name == "id")
    return _dataset(arrays, where=str(path))


class _RepeatedKey(ValueError):
    """An object names a key twice, of which `json` silently keeps the last."""


def _parse_json(text: str, where: str) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        record = dict(pairs)
        if len(record) < len(pairs):
            names = [name for name, _ in pairs]
            raise _RepeatedKey(next(name for name in names if names.count(name) > 1))
        return record

    try:
        return json.loads(text, object_pairs_hook=unique)
    except _RepeatedKey as error:
        raise UserError(
            f"{where}the column {_excerpt(str(error))} stands twice in one object; delete one"
        ) from error
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, " if "\n" in text else ""
        raise UserError(
            f"{where}not valid JSON ({place}column {error.colno}: {error.msg}); mend it, or write one object a line"
        ) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}not usable JSON ({_one_line(error)}); mend it") from error


def _json_strings(values: Sequence[Any], column: str, where: str, *, numbers: bool) -> pa.Array:
    """An array of strings; `numbers` admits integers too, as ids may be."""
    allowed = (str, int) if numbers else (str, type(None))
    for number, value in enumerate(values, start=1):
        if not isinstance(value, allowed) or isinstance(value, bool):
            raise UserError(
                f"{where}: row {number}: column {column!r} holds {_excerpt(value)}, not a string; put it in quotes"
            )
        if isinstance(value, str):
            _refuse_surrogates(value, column, where, number)
    return pa.array([value if value is None else str(value) for value in values], pa.string())


def _json_labels(values: Sequence[Any], where: str) -> pa.Array:
    """Labels of one kind: all strings, all numbers (true and false count as 1 and 0), or all lists of one of these."""
    first: tuple[str, int] | None = None
    for number, value in enumerate(values, start=1):
        if isinstance(value, list) != isinstance(values[0], list):
            raise UserError(
                f"{where}: row {number}: the label {_excerpt(value)} is {'' if isinstance(value, list) else 'not '}"
                "a list, unlike that of row 1; write every label alike"
            )
        for item in value if isinstance(value, list) else [value]:
            kind = _LABEL_KINDS.get(type(item))
            if item is None:
                raise UserError(f"{where}: row {number}: the label is empty; fill it in or delete the row")
            if kind is None:
                raise UserError(
                    f"{where}: row {number}: {_excerpt(item)} is no label; write a string, a number, or a list of them"
                )
            first = first or (kind, number)
            if kind != first[0]:
                raise UserError(
                    f"{where}: row {number}: the label {_excerpt(item)} is a {kind}, that of row {first[1]} a "
                    f"{first[0]}; write every label alike"
                )
            if isinstance(item, str):
                _refuse_surrogates(item, "label", where, number)
    numbers = [
        [_plain(item) for item in value] if isinstance(value, list) else _plain(value) for value in values
    ]
    try:
        return pa.array(numbers)
    except (OverflowError, pa.ArrowInvalid) as error:
        raise UserError(f"{where}: a label is an integer beyond 64 bits; write labels as strings") from error


_LABEL_KINDS = {str: "string", bool: "number", int: "number", float: "number"}


def _plain(label: Any) -> Any:
    return int(label) if isinstance(label, bool) else label


def _refuse_surrogates(value: str, column: str, where: str, number: int) -> None:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{where}: row {number}: column {column!r} holds half a surrogate pair (\\u{ord(value[error.start]):x}), "
            "which is no character; write the pair whole, or the character itself"
        ) from error


def _read_parquet(path: Path, wanted: _Wanted, max_text_bytes: int) -> Dataset:
    try:
        with pq.ParquetFile(path) as file:
            columns = wanted.find(file.schema_arrow.names, str(path))
            table = file.read(columns=list(columns.values()))
        table.validate(full=True)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a sound parquet file ({_one_line(error)}); write it anew") from error
    return _from_table(table, Features.from_arrow_schema(table.schema), columns, str(path))


def _from_table(table: pa.Table, features: Features, columns: Mapping[str, str], where: str) -> Dataset:
    """The result's columns out of an Arrow table; types that say the same (dictionary, large string) are unified."""
    arrays = {}
    for name, source in columns.items():
        array = table[source]
        if pa.types.is_dictionary(array.type):
            array = array.cast(array.type.value_type)
        target = _label_type(array.type) if name == "label" else pa.string()
        is_text = pa.types.is_string(array.type) or pa.types.is_large_string(array.type) or name == "label"
        if target is None or not (is_text or (name == "id" and pa.types.is_integer(array.type))):
            raise UserError(
                f"{where}: column {source!r} holds {array.type}, which is no {name}; name another column"
            )
        try:
            arrays[name] = array.cast(target)
        except pa.ArrowInvalid as error:
            raise UserError(
                f"{where}: column {source!r} cannot be read ({_one_line(error)}); convert it"
            ) from error
    label_feature = features.get(columns.get("label", ""))
    return _dataset(
        arrays, where=where, class_label=label_feature if isinstance(label_feature, ClassLabel) else None
    )


def _label_type(arrow_type: pa.DataType) -> pa.DataType | None:
    """The one type that stands for all of its kind; None for a type that is no label."""
    types = pa.types
    if types.is_list(arrow_type) or types.is_large_list(arrow_type):
        item = _label_type(arrow_type.value_type)
        return None if item is None or types.is_list(item) else pa.list_(item)
    if types.is_boolean(arrow_type) or types.is_integer(arrow_type):
        return pa.int64()
    if types.is_floating(arrow_type) or types.is_decimal(arrow_type):
        return pa.float64()
    if types.is_string(arrow_type) or types.is_large_string(arrow_type) or types.is_null(arrow_type):
        return pa.string()
    return None


def _is_unlabelled(dataset: Dataset) -> bool:
    feature = dataset.features.get("label")
    return isinstance(feature, ClassLabel) and len(dataset) > 0 and set(dataset["label"]) == {-1}


def _dataset(
    arrays: Mapping[str, pa.Array | pa.ChunkedArray],
    *,
    where: str,
    first_row: int = 1,
    class_label: ClassLabel | None = None,
) -> Dataset:
    """Adds `id` and `row` where they are not there yet."""
    columns = dict(arrays)
    size = len(next(iter(columns.values())))
    if "id" in columns:
        _check_ids(columns["id"], where, first_row)
    columns.setdefault("id", pa.array(map(str, range(size)), pa.string()))
    columns.setdefault("row", pa.array(range(first_row, first_row + size), pa.int64()))
    table = pa.table(columns)
    features = Features.from_arrow_schema(table.schema)
    if class_label is not None:
        features["label"] = class_label
    return Dataset(table, info=DatasetInfo(features=features))


def _check_ids(ids: pa.Array | pa.ChunkedArray, where: str, first_row: int) -> None:
    missing = pc.index(pc.equal(pc.fill_null(ids, ""), ""), True).as_py()
    if missing >= 0:
        raise UserError(
            f"{where}: row {first_row + missing}: the id is empty; fill it in, or name no id column"
        )
    repeated = len(ids) - pc.count_distinct(ids).as_py()
    if repeated:
        logger.warning("%s: %d ids stand more than once", where, repeated)


def _read_text(path: Path) -> str:
    """The file's text: UTF-8, with or without a byte order mark, free of NUL."""
    raw = path.read_bytes()

    def line(offset: int) -> int:
        return raw.count(b"\n", 0, offset) + 1

    try:
        text = raw.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: line {line(error.start)}: byte 0x{raw[error.start]:02x} at offset {error.start} is not UTF-8; "
            "save the file as UTF-8"
        ) from error
    nul = raw.find(b"\0")
    if nul >= 0:
        raise UserError(
            f"{path}: line {line(nul)}: NUL byte at offset {nul}; delete it, or save the file as UTF-8 if it is UTF-16"
        )
    if not text.strip():
        raise _empty_file(path)
    return text


def _lines(text: str) -> list[str]:
    """Lines that end at LF or CR LF, and nowhere else, up to the last that is not blank."""
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    while not lines[-1].strip():
        lines.pop()
    return lines


def _unreadable(path: Path, error: OSError) -> UserError:
    return UserError(f"{path}: cannot be read ({error.strerror or _one_line(error)}); check the path")


def _empty_file(path: Path) -> UserError:
    return UserError(f"{path}: the file is empty; give one with at least one example")


def _missing_columns(missing: Sequence[str], found: Iterable[str], where: str) -> UserError:
    return UserError(
        f"{where}: no column {', '.join(map(repr, missing))} (found: {_names(found)}); name the right column, or add "
        "it to the file"
    )


def _names(found: Iterable[str]) -> str:
    return ", ".join(map(_excerpt, list(found)[:20])) or "none"


def _excerpt(value: Any) -> str:
    """`repr`, which leaves no line break, cut to 60 characters."""
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


_READERS: dict[str, Callable[[Path, _Wanted, int], Dataset]] = {
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".jsonl": _read_json,
    ".json": _read_json,
    ".parquet": _read_parquet,
}
