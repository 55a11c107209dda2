"""Readers of comma- and tab-separated values that handle files written with or without quoting."""

import csv
import io
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import pyarrow as pa

from hf_layerfusion.data.columns import Columns, RequestedColumns
from hf_layerfusion.data.utf8 import read_utf8
from hf_layerfusion.errors import UserError

# Function that returns the lines of a file from its start.
Lines: TypeAlias = Callable[[], Iterable[str]]

# Numbers as JSON writes them, a plus sign allowed: "007" and "1_000" are names, not numbers.
_INTEGER = re.compile(r"[+-]?(0|[1-9][0-9]{0,17})")
_FLOAT = re.compile(
    r"[+-]?(((0|[1-9][0-9]{0,17})(\.[0-9]*)?|\.[0-9]+)(e[+-]?[0-9]+)?|nan|inf)", re.IGNORECASE
)
_QUOTED = re.compile(r'"(?:[^"]|"")*"')
# Columns with at most this many different values are considered classes instead of texts or ids.
_MOST_CLASSES = 100


def read_csv(path: Path, wanted: RequestedColumns, max_text_bytes: int, delimiter: str = ",") -> Columns:
    """Read comma-separated values with a header line; see `delimited_rows`.

    Raises:
        UserError: If the file is malformed, with the row; the header is row 1.
    """
    text = read_utf8(path)
    header, *rows = delimited_rows(path, lambda: io.StringIO(text, newline=""), max_text_bytes, delimiter)
    columns = wanted.find(header, str(path))
    if not rows:
        raise UserError(f"{path}: holds a header line and no examples; add rows below it")
    has_decimal_commas = _delimiter_of(text.partition("\n")[0], delimiter) == ";"
    arrays: Columns = {}
    for name, source in columns.items():
        position = header.index(source)
        strings = [fields[position] for fields in rows]
        is_label = name == "label"
        arrays[name] = (
            _typed_labels(strings, has_decimal_commas) if is_label else pa.array(strings, pa.string())
        )
    return arrays


def read_tsv(path: Path, wanted: RequestedColumns, max_text_bytes: int) -> Columns:
    """Read tab-separated values with a header line; see `delimited_rows`."""
    return read_csv(path, wanted, max_text_bytes, delimiter="\t")


def _typed_labels(strings: Sequence[str], has_decimal_commas: bool = False) -> pa.Array:
    # A missing label does not turn the other labels into strings.
    given = [string.strip() or None for string in strings]
    for pattern, number, kind in ((_INTEGER, int, pa.int64()), (_FLOAT, float, pa.float64())):
        if all(string is None or pattern.fullmatch(string) for string in given):
            return pa.array([None if string is None else number(string) for string in given], kind)
    if has_decimal_commas and not any("." in string for string in strings):
        numbers = _typed_labels([string.replace(",", ".") for string in strings])
        return numbers if pa.types.is_floating(numbers.type) else pa.array(strings, pa.string())
    return pa.array(strings, pa.string())


def delimited_rows(
    path: Path, lines: Lines, max_text_bytes: int, delimiter: str = ","
) -> Iterator[list[str]]:
    """Yield the rows of a CSV or TSV file, starting with its header; trailing blank lines are skipped.

    Comma-separated files follow RFC 4180: a field may be in double quotes, inside which `""` is a literal quote.
    Tab-separated files are written with this quoting or without any; `is_unquoted` detects which, and without quoting
    double quotes are part of the text. A file whose header has tabs and no comma is tab-separated whatever its suffix,
    like those of Stanford's CS 224N. A CSV file whose header has semicolons and neither tab nor comma is separated by
    semicolons, as Excel writes it where the comma is the decimal sign.

    Args:
        path: The file, for error messages.
        lines: Function that returns the lines of the file, at least one; called twice for tabs.
        max_text_bytes: Maximum length of a field.
        delimiter: Field separator.

    Raises:
        UserError: If the file is malformed, with the row. A quoted text over several lines is refused if these lines
            are valid rows themselves, because a stray quote would have merged them.
    """
    delimiter = _delimiter_of(next(iter(lines())), delimiter)
    separator = {"\t": "tab", ";": "semicolon"}.get(delimiter, "comma")
    unquoted = delimiter == "\t" and is_unquoted(lines())
    read: list[str] = []
    reader = csv.reader(
        _remembered(lines(), read),
        strict=True,
        delimiter=delimiter,
        quoting=csv.QUOTE_NONE if unquoted else csv.QUOTE_MINIMAL,
    )
    blank_row, width = 0, 0
    guard = _SwallowedRows(path, delimiter)
    for number in itertools.count(1):
        read.clear()
        # The limit is global to the csv module. A longer field is usually a quote that was never closed.
        former_limit = csv.field_size_limit(max_text_bytes)
        try:
            fields = next(reader, None)
        except csv.Error as error:
            fault = _csv_fault(str(error), delimiter, max_text_bytes)
            raise UserError(f"{path}: row {number}: {fault}") from error
        finally:
            csv.field_size_limit(former_limit)
        if fields is None:
            guard.close()
            return
        if not fields:
            blank_row = blank_row or number
            continue
        if blank_row:
            raise UserError(f"{path}: row {blank_row} is blank; delete the line")
        width = width or len(fields)
        if number > 1:
            guard.check(number, fields, read, width)
        if len(fields) != width:
            raise UserError(
                f"{path}: row {number}: {len(fields)} fields where the header has {width}; correct "
                f"the row, or put a text that holds a {separator} in double quotes"
            )
        yield fields


def _delimiter_of(header: str, delimiter: str) -> str:
    """Return the delimiter of a file by its header line; see `delimited_rows`."""
    if "," in header:
        return delimiter
    if "\t" in header:
        return "\t"
    return ";" if delimiter == "," and ";" in header else delimiter


def is_unquoted(lines: Iterable[str]) -> bool:
    """Return whether tab-separated lines were written without quoting, so that double quotes are part of the texts.

    This is so if every line has as many tabs as the header, and one of the following holds: a field starts with a
    double quote that is not closed at its end; or fields are in double quotes that no writer would have added, because
    nothing in them requires quoting and neither the header nor the whole column is quoted.
    """
    width = 0
    stray = needless = needed = False
    quoted_columns: set[int] = set()
    for line in lines:
        line = line.rstrip("\r\n")
        if not line:
            continue
        fields = line.split("\t")
        if not width:
            width, quoted_columns = len(fields), set(range(len(fields)))
            needed = any(_QUOTED.fullmatch(field) for field in fields)
            continue
        if len(fields) != width:
            return False  # only quotes could make rows of this
        quoted_columns -= {column for column, field in enumerate(fields) if not field.startswith('"')}
        for field in fields:
            if field.startswith('"'):
                closed = len(field) > 1 and _QUOTED.fullmatch(field)
                stray = stray or not closed
                # Excel quotes fields with commas in tab-separated files too.
                needed = needed or bool(closed and ('""' in field[1:-1] or "," in field))
                needless = True
    # In a file with one column, a multi-line text and a stray quote look the same; reading refuses both.
    if stray:
        return width > 1
    return needless and not needed and not quoted_columns


class _SwallowedRows:
    """Detector of rows that a stray double quote has merged.

    In tab-separated files, a record over several lines is refused if two of these lines are valid rows themselves. In
    CSV files, texts with commas and line breaks are too common for that: there, all lines must be rows, and in some
    column of classes all of them must hold values that occur in other rows.
    """

    def __init__(self, path: Path, delimiter: str) -> None:
        self.path = path
        self.delimiter = delimiter
        self.classes: list[set[str]] | None = None
        self.suspects: list[tuple[int, list[list[str]]]] = []

    def check(self, row: int, fields: list[str], lines: Sequence[str], width: int) -> None:
        """Check one record.

        Args:
            row: Number of the record.
            fields: Fields of the record.
            lines: Lines of the file that form the record.
            width: Number of fields in the header.
        """
        if len(fields) == width and self.delimiter != "\t":
            if self.classes is None:
                self.classes = [set() for _ in fields]
            for values, value in zip(self.classes, fields, strict=True):
                if len(values) <= _MOST_CLASSES:
                    values.add(value)
        if len(lines) == 1:
            return
        parts = [line.rstrip("\r\n").split(self.delimiter) for line in lines]
        if self.delimiter == "\t" and sum(len(part) == width for part in parts) > 1:
            raise self.fault(row, len(lines))
        if self.delimiter != "\t" and width > 1 and all(len(part) == width for part in parts):
            self.suspects.append((row, parts))

    def close(self) -> None:
        """Check the records that can be judged only with the whole file."""
        for row, parts in self.suspects:
            for column, values in enumerate(self.classes or ()):
                if len(values) <= _MOST_CLASSES and all(part[column] in values for part in parts):
                    raise self.fault(row, len(parts))

    def fault(self, row: int, lines: int) -> UserError:
        return UserError(
            f"{self.path}: row {row}: a double quote opens a text and is closed {lines - 1} lines later, and these "
            "lines are rows by themselves; double a quote that is part of a text and quote the text, or write .jsonl"
        )


def _remembered(lines: Iterable[str], read: list[str]) -> Iterator[str]:
    for line in lines:
        read.append(line)
        yield line


def _csv_fault(message: str, delimiter: str, max_text_bytes: int) -> str:
    """Return a user-level description of the three strict errors of the csv module."""
    if "field limit" in message:
        return (
            f"a field is longer than the limit of {max_text_bytes:,} bytes; shorten it, or look for a double "
            "quote that is never closed"
        )
    doubled = 'a quote that is part of the text is written "" inside a quoted text'
    if "unexpected end of data" in message:
        return f"a double quote opens a field and is never closed; close it ({doubled})"
    return f"a closing double quote is not followed by {delimiter!r} or a line end; correct it ({doubled})"
