"""Word vectors in fastText's binary format."""

from __future__ import annotations

import mmap
import re
import struct
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from hf_layerfusion.embeddings.word_vectors import ReadOptions, RowCollector, Vectors, WordVectors
from hf_layerfusion.errors import UserError

MAGIC = 793_712_314
VERSIONS = (11, 12)
_SUPERVISED = 3
_END_OF_SENTENCE = b"</s>"
_WORD2VEC_HEADER = re.compile(rb"\d+ \d+\n")


class _Settings(NamedTuple):
    width: int
    buckets: int
    shortest: int
    longest: int


def read_fasttext(path: Path, options: ReadOptions) -> WordVectors:
    """Read a model of fastText (`.bin`): of each word that it knows, the mean of its own vector and its n-grams'.

    Vectors of unknown words, which fastText makes of n-grams alone, are not kept.

    Raises:
        UserError: another format, a quantized model, a file that is cut off, or a row that cannot be used.
    """
    with path.open("rb") as file:
        try:
            settings = _read_settings(file, path)
            words = _read_words(file, path)
            quantized = file.read(1)
            rows, width = struct.unpack("<qq", _take(file, 16))
        except (struct.error, EOFError) as error:
            raise _cut_off(path) from error
        if quantized != b"\0" or path.suffix == ".ftz":
            raise UserError(
                f"{path}: must be a model of full precision, found a quantized one; use the .bin file it was made of."
            )
        # Rows of n-grams may only lack where no word has any.
        most = len(words) + settings.buckets
        if width != settings.width or not (most if settings.longest > 0 else len(words)) <= rows <= most:
            raise UserError(
                f"{path}: must hold a matrix of width {settings.width} with a row for each of {len(words)} words and "
                f"{settings.buckets} n-grams, found [{rows}, {width}]; get the file anew."
            )
        start = file.tell()
    if path.stat().st_size < start + 4 * rows * width:
        raise _cut_off(path)
    matrix = np.memmap(path, dtype="<f4", mode="r", offset=start, shape=(rows, width))
    collector = RowCollector(path, len(words), width, options, unit="word")
    for place, word in enumerate(words):
        if collector.is_full:
            break
        collector.add(place + 1, word, _vector(matrix, place, word, len(words), settings))
    return collector.result()


def _read_settings(file: BinaryIO, path: Path) -> _Settings:
    magic, version = struct.unpack("<ii", _take(file, 8))
    if magic != MAGIC or version not in VERSIONS:
        file.seek(0)
        if _WORD2VEC_HEADER.match(file.readline(64)):
            raise UserError(
                f"{path}: must be a .bin model of fastText, found word2vec's format; import it with --word2vec."
            )
        found = f"version {version}"
        if magic != MAGIC:
            found = "no version, as in models of before 2017 and other files"
        raise UserError(
            f"{path}: must be a .bin model of fastText of version {VERSIONS[0]} or {VERSIONS[1]}, found {found}; load "
            "it with the fastText that wrote it, write its vectors as text and import these with --vectors."
        )
    width, _, _, _, _, _, _, model, buckets, shortest, longest, _ = struct.unpack("<12i", _take(file, 48))
    _take(file, 8)
    if width < 1:
        raise UserError(f"{path}: must have vectors of one value or more, found {width}; get the file anew.")
    return _Settings(
        width, buckets, shortest, 0 if (version, model) == (VERSIONS[0], _SUPERVISED) else longest
    )


def _read_words(file: BinaryIO, path: Path) -> list[bytes]:
    """Words in UTF-8, in the order of their own vectors; labels, which follow them, are left out."""
    size, count, _, _, pruned = struct.unpack("<3i2q", _take(file, 28))
    place = file.tell()
    words: list[bytes] = []
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for row in range(size):
            end = content.find(b"\0", place)
            if end < 0 or end + 10 > len(content):
                raise EOFError
            is_word = content[end + 9] == 0
            if is_word != (row < count):
                raise UserError(
                    f"{path}: must hold the {count} words that it says before any label, found "
                    f"{'a word' if is_word else 'a label'} as item {row + 1}; get the file anew."
                )
            if is_word:
                words.append(content[place:end])
            place = end + 10
        # Only quantized models are pruned, and say so with a number of 0 or more.
        file.seek(min(place + 8 * max(pruned, 0), len(content)))
    if len(words) != count:
        raise UserError(
            f"{path}: must hold the {count} words that it says, found {len(words)}; get the file anew."
        )
    return words


def _vector(matrix: Vectors, row: int, word: bytes, words: int, settings: _Settings) -> Vectors:
    if word == _END_OF_SENTENCE or not settings.buckets:
        return matrix[row]
    rows = [
        row,
        *(words + value % settings.buckets for value in ngram_hashes(word, settings[2], settings[3])),
    ]
    mean: Vectors = matrix[rows].mean(axis=0, dtype=np.float32)
    return mean


def ngram_hashes(word: bytes, shortest: int, longest: int) -> list[int]:
    """Return the hashes of the n-grams of `<word>` with `shortest` to `longest` characters, as fastText counts them:
    FNV-1a over bytes that are taken as signed."""
    text = b"<" + word + b">"
    starts = [place for place, byte in enumerate(text) if byte & 0xC0 != 0x80]
    ends = [*starts[1:], len(text)]
    found = []
    for first in range(len(starts)):
        value = 2_166_136_261
        for last in range(first, min(first + longest, len(starts))):
            for byte in text[starts[last] : ends[last]]:
                value = ((value ^ (byte if byte < 128 else byte | 0xFFFFFF00)) * 16_777_619) & 0xFFFFFFFF
            size = last - first + 1
            at_edge = size == 1 and (first == 0 or last == len(starts) - 1)
            if size >= shortest and not at_edge:
                found.append(value)
    return found


def _take(file: BinaryIO, count: int) -> bytes:
    found = file.read(count)
    if len(found) < count:
        raise EOFError
    return found


def _cut_off(path: Path) -> UserError:
    return UserError(
        f"{path}: must be a whole model of fastText, found its end too early; get the file anew."
    )
