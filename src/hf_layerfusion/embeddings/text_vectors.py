"""Word vectors as text: GloVe's format without a header, and word2vec's and fastText's with one."""

from __future__ import annotations

import codecs
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from hf_layerfusion.embeddings.word_vectors import ReadOptions, RowCollector, Vectors, WordVectors
from hf_layerfusion.errors import UserError

_BLOCK = 2**24
_HEADER = re.compile(rb"(\d{1,18}) (\d{1,18}) *\r?\n?")


def read_glove(path: Path, options: ReadOptions) -> WordVectors:
    """Read a file of lines `word v1 … vH`, as GloVe and SynGCN are published.

    The last H fields of a line are the vector, as words of GloVe 840B hold blanks (`. . .`, `at name@domain.com`); H is
    the number of fields of the first line minus 1. Only the byte 0x20 separates fields: blanks beyond ASCII are parts
    of words. What follows the first blank of a word must not read as a number, as it does in a row that is too wide.

    Raises:
        UserError: a header, or a row that cannot be used.
    """
    with path.open("rb") as file, _strict():
        start, first = _first_line(file)
        if _header(first) is not None:
            raise UserError(
                f"{path}: line 1: must be a word and its vector, found the header {_shown(first)}; import the file "
                "with --vectors."
            )
        _refuse_foreign(path, first)
        width = len(_fields(first)) - 1
        if width < 1 or _numbers(b" ".join(_fields(first)[1:]), width) is None:
            raise UserError(
                f"{path}: line 1: must be a word and its vector, found {_shown(first)}; name a file of word vectors."
            )
        file.seek(start)
        count = _count_lines(file)
        file.seek(start)
        rows = RowCollector(path, count, width, options)
        _read_rows(file, rows, 1)
    return rows.result()


def read_vectors(path: Path, options: ReadOptions) -> WordVectors:
    """Read a file whose first line says `N H` and whose next N lines are `word v1 … vH`: word2vec's text format, and
    fastText's `.vec`.

    Raises:
        UserError: no header, fewer or more rows than it says, or a row that cannot be used.
    """
    with path.open("rb") as file, _strict():
        _, first = _first_line(file)
        header = _header(first)
        if header is None:
            _refuse_foreign(path, first)
            raise UserError(
                f"{path}: line 1: must be the header 'N H', the numbers of words and of values in at most 18 digits, "
                f"found {_shown(first)}; import a file without header with --glove."
            )
        count, width = header
        start = file.tell()
        found = _count_lines(file)
        if found != count:
            raise UserError(
                f"{path}: must hold the {count:,} rows that its header says, found {found:,}; get the file anew, it "
                "may be cut off."
            )
        file.seek(start)
        rows = RowCollector(path, count, width, options)
        _read_rows(file, rows, 2)
    return rows.result()


def _read_rows(file: BinaryIO, rows: RowCollector, first: int) -> None:
    for number, line in enumerate(file, first):
        if rows.is_full:
            return
        line = line.rstrip(b" \r\n")
        word, _, rest = line.partition(b" ")
        vector = _numbers(rest, rows.width)
        if vector is None:  # the word may hold blanks
            word, *values = line.rsplit(b" ", rows.width)
            vector = _numbers(b" ".join(values), rows.width)
        if vector is None or not _is_word(word):
            parts = line.count(b" ") + 1
            rows.refuse(
                number,
                f"must be a word and {rows.width:,} numbers with one blank before each, found {parts:,} parts in "
                f"{_shown(line)}",
            )
        else:
            rows.add(number, word, vector)


def _is_word(text: bytes) -> bool:
    """Return whether `text` is a word, or several with single blanks between that no number of a wider row can be."""
    parts = text.split(b" ")
    return parts == text.split() and not any(map(_is_number, parts[1:]))


def _is_number(text: bytes) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _numbers(text: bytes, count: int) -> Vectors | None:
    """Return the numbers in `text`, or None if they are not `count` numbers; within `_strict`."""
    if text.count(b" ") != count - 1:
        return None
    try:
        found = np.fromstring(text, dtype=np.float32, sep=" ")
    except (DeprecationWarning, ValueError):
        return None
    return found if len(found) == count else None


@contextmanager
def _strict() -> Iterator[None]:
    """Have numpy raise at text that is no number, in place of a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        yield


def _first_line(file: BinaryIO) -> tuple[int, bytes]:
    """Return where the first line begins, after a byte order mark if there is one, and the line."""
    start = len(codecs.BOM_UTF8) if file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8 else 0
    file.seek(start)
    return start, file.readline()


def _header(line: bytes) -> tuple[int, int] | None:
    found = _HEADER.fullmatch(line)
    if found is None:
        return None
    count, width = map(int, found.groups())
    return (count, width) if width > 0 else None


def _fields(line: bytes) -> list[bytes]:
    return line.rstrip(b" \r\n").split(b" ")


def _refuse_foreign(path: Path, first: bytes) -> None:
    """Refuse binary files that are often taken for text."""
    if first.startswith(b"\x80") or b"gensim" in first[:200]:
        raise UserError(
            f"{path}: must be a text file, found a pickle such as gensim's KeyedVectors.save writes; save the vectors "
            "as text with KeyedVectors.save_word2vec_format(FILE) and import that with --vectors."
        )
    if b"\0" in first:
        raise UserError(
            f"{path}: must be a text file, found a binary one; import word2vec's with --word2vec, fastText's with "
            "--fasttext."
        )


def _count_lines(file: BinaryIO) -> int:
    blocks: Iterator[bytes] = iter(lambda: file.read(_BLOCK), b"")
    count, last = 0, b"\n"
    for block in blocks:
        count += block.count(b"\n")
        last = block[-1:]
    return count + (last != b"\n")


def _shown(line: bytes) -> str:
    text = line.rstrip(b"\r\n").decode("utf-8", errors="replace")
    return repr(text if len(text) <= 40 else text[:40] + "…")
