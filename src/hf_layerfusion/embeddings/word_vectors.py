"""Word vectors as readers return them, and the rules for their rows."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from transformers.utils import logging

from hf_layerfusion.errors import UserError

logger = logging.get_logger(__name__)

BAD_ROWS = ("error", "skip")
"""Choices for a row that cannot be used: the import ends, or goes on without it."""

Vectors = npt.NDArray[np.float32]


class WordVectors(NamedTuple):
    """Words and their vectors.

    Attributes:
        words: N different words.
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
    """

    def __init__(self, path: Path, count: int, width: int, options: ReadOptions, unit: str = "line") -> None:
        self.path, self.width, self.options, self.unit = path, width, options, unit
        self.most = count if options.max_words is None else min(count, options.max_words)
        self.vectors: Vectors = np.empty((self.most, width), dtype=np.float32)
        self.rows: dict[str, int] = {}  # row number in the file, by word
        self.skipped = 0

    @property
    def is_full(self) -> bool:
        """True once `most` words have been added."""
        return len(self.rows) == self.most

    def add(self, row: int, word: bytes, vector: Vectors) -> None:
        """Add a row.

        Args:
            row: its number in the file.
            word: in UTF-8.
            vector: `[H]`.

        Raises:
            UserError: a word that is empty, not UTF-8 or repeated, unless such rows are skipped.
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
        """Return the rows; those with values that are not finite are refused first.

        Raises:
            UserError: as `refuse`, or no row is left.
        """
        words = list(self.rows)
        vectors = self.vectors[: len(words)]
        if not np.isfinite(vectors.sum(axis=1)).all():
            places = np.flatnonzero(np.isfinite(vectors).all(axis=1))
            for word in sorted(set(words) - {words[place] for place in places}, key=words.index):
                self.refuse(self.rows[word], f"the vector of {word!r} must be finite, found NaN or infinity")
            words, vectors = [words[place] for place in places], vectors[places]
        if not words:
            raise UserError(f"{self.path}: must hold word vectors, found none; name another file.")
        if self.skipped:
            logger.warning(f"{self.path}: {self.skipped:,} rows that cannot be used were skipped")
        return WordVectors(words, vectors)
