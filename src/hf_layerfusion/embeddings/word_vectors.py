"""Word vectors as readers return them, and the rules for their rows."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from transformers.utils import logging

from hf_layerfusion.embeddings.word_tokenizers import SPECIAL_WORDS
from hf_layerfusion.errors import UserError

logger = logging.get_logger(__name__)

BAD_ROWS = ("error", "skip")
"""Choices for a row that cannot be used: the import ends, or goes on without it."""

Vectors = npt.NDArray[np.float32]


class WordVectors(NamedTuple):
    """Words and their vectors.

    Attributes:
        words: N different words, none of `SPECIAL_WORDS`.
        vectors: `[N, H]`, finite.
    """

    words: list[str]
    vectors: Vectors


class ReadOptions(NamedTuple):
    """Options of every reader of word vectors.

    Attributes:
        max_words: reads this many words, the first of the file, which are the most frequent ones; `None` reads all.
        bad_rows: one of `BAD_ROWS`.
    """

    max_words: int | None = None
    bad_rows: str = "error"


class RowCollector:
    """Collects rows for `WordVectors` and refuses, or skips, those that cannot be used.

    Args:
        path: the file, for messages.
        count: the most rows that there may be.
        width: H.
        options: see `ReadOptions`.
        unit: what a row's number counts, for messages.

    Raises:
        UserError: more vectors than there is memory for.
    """

    def __init__(self, path: Path, count: int, width: int, options: ReadOptions, unit: str = "line") -> None:
        self.path, self.width, self.options, self.unit = path, width, options, unit
        self.most = count if options.max_words is None else min(count, options.max_words)
        try:
            self.vectors: Vectors = np.empty((self.most, width), dtype=np.float32)
        except (MemoryError, ValueError) as error:  # ValueError: numpy cannot even count the bytes
            raise UserError(
                f"{path}: must fit into memory, found {self.most:,} vectors of {width:,} values; keep fewer words with "
                "--max_words, or get the file anew if it has no such size."
            ) from error
        self.rows: dict[str, int] = {}  # row number in the file, by word
        self.skipped, self.left_out = 0, 0

    @property
    def is_full(self) -> bool:
        """True once `most` words have been added."""
        return len(self.rows) == self.most

    def add(self, row: int, word: bytes, vector: Vectors) -> None:
        """Add a row; words that are called as the special ones are left out.

        Args:
            row: its number in the file.
            word: in UTF-8.
            vector: `[H]`.

        Raises:
            UserError: a word that is empty, not UTF-8 or repeated, or a vector with values that are not finite, unless
                such rows are skipped.
        """
        try:
            text = word.decode("utf-8")
        except UnicodeDecodeError:
            self.refuse(row, f"the word must be UTF-8, found {word[:40]!r}")
            return
        if not text:
            self.refuse(row, "must begin with a word, found none")
        elif text in self.rows:
            self.refuse(
                row, f"the word {text!r} must stand once, found it in {self.unit} {self.rows[text]} too"
            )
        elif not np.isfinite(vector).all():
            self.refuse(row, f"the vector of {text!r} must be finite, found NaN or infinity")
        elif text in SPECIAL_WORDS:
            self.left_out += 1
        else:
            self.vectors[len(self.rows)] = vector
            self.rows[text] = row

    def refuse(self, row: int, problem: str) -> None:
        """Raise `UserError` for a row that cannot be used, or count it where such rows are skipped."""
        if self.options.bad_rows == "error":
            raise UserError(
                f"{self.path}: {self.unit} {row}: {problem}; correct it, or skip such rows with --bad_rows skip."
            )
        self.skipped += 1

    def result(self) -> WordVectors:
        """Return the rows.

        Raises:
            UserError: no row is left.
        """
        if not self.rows:
            raise UserError(f"{self.path}: must hold word vectors, found none; name another file.")
        if self.skipped:
            logger.warning(f"{self.path}: {self.skipped:,} rows that cannot be used were skipped")
        if self.left_out:
            logger.warning(
                f"{self.path}: the words {' and '.join(SPECIAL_WORDS)} are left out, as they stand for padding and "
                "unknown words"
            )
        return WordVectors(list(self.rows), self.vectors[: len(self.rows)])
