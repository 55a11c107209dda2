"""Word vectors in word2vec's binary format."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np

from hf_layerfusion.embeddings.word_vectors import ReadOptions, RowCollector, WordVectors
from hf_layerfusion.errors import UserError

_LONGEST_HEADER = 64


def read_word2vec(path: Path, options: ReadOptions) -> WordVectors:
    """Read a file of the header `N H` and N times a word, a blank and H values (float32, little endian).

    A line feed may stand before a word.

    Raises:
        UserError: another format, a file that is cut off, or a row that cannot be used.
    """
    with path.open("rb") as file:
        header = file.readline(_LONGEST_HEADER)
        fields = header.split()
        if not header.endswith(b"\n") or len(fields) != 2 or not all(map(bytes.isdigit, fields)):
            raise UserError(
                f"{path}: must begin with the header 'N H' of word2vec's binary format, found {header[:20]!r}; import "
                "text with --glove or --vectors, fastText's .bin with --fasttext."
            )
        count, width = map(int, fields)
        size = 4 * width
        # A word has a byte or more, and a blank: what a header asks for beyond that would be allocated in vain.
        rest = path.stat().st_size - len(header)
        if width < 1 or count > rest // (size + 1):
            raise UserError(
                f"{path}: must hold the {count:,} vectors of {width:,} values that its header says, found {rest:,} "
                "bytes; get the file anew, it is cut off."
            )
        rows = RowCollector(path, count, width, options, unit="word")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            place = len(header)
            for number in range(1, count + 1):
                if rows.is_full:
                    break
                blank = content.find(b" ", place)
                if blank < 0 or blank + 1 + size > len(content):
                    raise UserError(
                        f"{path}: word {number} of {count:,}: must be followed by {width} values, found the end of the "
                        "file; get the file anew, it is cut off."
                    )
                vector = np.frombuffer(content[blank + 1 : blank + 1 + size], dtype="<f4")
                rows.add(number, content[place:blank].lstrip(b"\n"), vector)
                place = blank + 1 + size
            else:
                if content[place : place + 2] not in (b"", b"\n"):
                    raise UserError(
                        f"{path}: must end after the {count:,} words that its header says, found "
                        f"{len(content) - place:,} more bytes; get the file anew."
                    )
    return rows.result()
