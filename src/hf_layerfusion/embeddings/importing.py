"""Foreign embeddings in, an encoder's folder out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from transformers.utils import logging

from hf_layerfusion.embeddings.registry import SOURCES
from hf_layerfusion.embeddings.word_tokenizers import (
    SPECIAL_WORDS,
    TOKENIZATIONS,
    character_tokenizer,
    static_tokenizer,
)
from hf_layerfusion.embeddings.word_vectors import BAD_ROWS, ReadOptions, WordVectors
from hf_layerfusion.errors import UserError, nearest
from hf_layerfusion.modeling.configuration_static_embeddings import StaticEmbeddingsConfig
from hf_layerfusion.modeling.modeling_static_embeddings import StaticEmbeddingsModel
from hf_layerfusion.modeling.saved_files import write_manifest
from hf_layerfusion.storage import check_new, new_folder

logger = logging.get_logger(__name__)

UNKNOWN_VECTORS = ("zero", "mean", "random")
"""Vectors of words that are not in the vocabulary: zeros (GRUBERT's), the mean of all vectors, or random values."""


class ImportOptions(NamedTuple):
    """Options of an import, those of `import_embeddings`."""

    tokenization: str = "whitespace"
    unknown: str = "zero"
    train_embeddings: bool = False
    read: ReadOptions = ReadOptions()


def import_embeddings(
    output_dir: str | os.PathLike[str],
    *,
    tokenization: str = "whitespace",
    unknown: str = "zero",
    train_embeddings: bool = False,
    max_words: int | None = None,
    bad_rows: str = "error",
    **sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
) -> Path:
    """Convert pretrained word embeddings to a folder that `AutoModel` and `AutoTokenizer` open, and that is an encoder
    like any other (`--model_name_or_path`).

    Args:
        output_dir: the new folder.
        tokenization: how the folder's tokenizer splits texts, one of `TOKENIZATIONS`.
        unknown: the vector of unknown words, one of `UNKNOWN_VECTORS`.
        train_embeddings: whether models around the encoder train it; `encoder_config={"train_embeddings": True}` of
            `from_pretrained` changes it later.
        max_words: keeps this many words, the most frequent ones; `None` keeps all.
        bad_rows: one of `BAD_ROWS`.
        sources: a file, or several, by the names in `SOURCES`, such as `glove="glove.6B.300d.txt"`.

    Returns:
        The folder.

    Raises:
        UserError: an unknown option, a file that cannot be read, or a folder that is not new. Nothing is left then.
    """
    named = [
        (name, [given] if isinstance(given, str | os.PathLike) else list(given))
        for name, given in sources.items()
    ]
    options = ImportOptions(tokenization, unknown, train_embeddings, ReadOptions(max_words, bad_rows))
    return convert(
        [(name, [Path(file) for file in files]) for name, files in named], Path(output_dir), options
    )


def convert(sources: Sequence[tuple[str, Sequence[Path]]], output_dir: Path, options: ImportOptions) -> Path:
    """As `import_embeddings`; a name may be given several times, and the order of `sources` is that of the members."""
    _check(sources, options)
    check_new(output_dir, "--output_dir")
    ((name, files),) = sources
    found = SOURCES[name].read(*files, options.read)
    with new_folder(output_dir, "--output_dir") as folder:
        if isinstance(found, WordVectors):
            _save_static(found, folder, options)
        else:
            found.config.train_embeddings = options.train_embeddings
            found.save_pretrained(folder)
            character_tokenizer((), options.tokenization).save_pretrained(folder)
        write_manifest(folder)
    return output_dir


def _check(sources: Sequence[tuple[str, Sequence[Path]]], options: ImportOptions) -> None:
    for option, value, known in (
        ("tokenization", options.tokenization, TOKENIZATIONS),
        ("unknown", options.unknown, UNKNOWN_VECTORS),
        ("bad_rows", options.read.bad_rows, BAD_ROWS),
    ):
        if value not in known:
            raise UserError(
                f"--{option} must be one of {', '.join(known)}, found {value!r}; {nearest(value, known)}"
            )
    if options.read.max_words is not None and options.read.max_words < 1:
        raise UserError(
            f"--max_words must be 1 or more, found {options.read.max_words}; leave it out for all words."
        )
    for name, files in sources:
        if name not in SOURCES:
            raise UserError(
                f"embeddings must be one of {', '.join(SOURCES)}, found {name!r}; {nearest(name, SOURCES)}"
            )
        source = SOURCES[name]
        if len(files) != len(source.files):
            raise UserError(
                f"--{name} must name {len(source.files)} of {' '.join(source.files)}, found {len(files)}; name all."
            )
        for file in files if source.reads_files else ():
            if not file.is_file():
                raise UserError(f"--{name} {file}: must be a file, found none; check the name.")
    if len(sources) != 1:
        raise UserError(
            f"exactly one of --{', --'.join(SOURCES)} must be given, found {len(sources)}; name one."
        )


def _save_static(found: WordVectors, folder: Path, options: ImportOptions) -> None:
    words, vectors = without_special_words(found)
    model = static_model(vectors, options.unknown, options.train_embeddings)
    model.save_pretrained(folder)
    static_tokenizer(words, options.tokenization).save_pretrained(folder)


def without_special_words(found: WordVectors) -> WordVectors:
    """Leave out words that are called as the special ones are."""
    kept = [place for place, word in enumerate(found.words) if word not in SPECIAL_WORDS]
    if len(kept) == len(found.words):
        return found
    logger.warning(
        f"the words {' and '.join(SPECIAL_WORDS)} are left out, as they stand for padding and unknown words"
    )
    return WordVectors([found.words[place] for place in kept], found.vectors[kept])


def static_model(vectors: np.ndarray, unknown: str, train_embeddings: bool) -> StaticEmbeddingsModel:
    """Return a model of `vectors` `[N, H]` below the rows of `SPECIAL_WORDS`."""
    count, width = vectors.shape
    table = torch.empty(count + len(SPECIAL_WORDS), width)
    table[len(SPECIAL_WORDS) :] = torch.from_numpy(vectors)
    table[0] = 0
    table[1] = _unknown_vector(vectors, unknown)
    config = StaticEmbeddingsConfig(
        vocab_size=len(table), hidden_size=width, train_embeddings=train_embeddings, dtype="float32"
    )
    with torch.device("meta"):  # no memory for values that are replaced at once
        model = StaticEmbeddingsModel(config)
    model.embeddings.weight = nn.Parameter(table, requires_grad=train_embeddings)
    return model


def _unknown_vector(vectors: np.ndarray, unknown: str) -> Any:
    if unknown == "zero":
        return 0
    mean = torch.from_numpy(vectors.mean(axis=0, dtype=np.float64)).float()
    if unknown == "mean":
        return mean
    # Drawn from a normal distribution with the moments of each value, as an unknown word could be any.
    spread = torch.from_numpy(vectors.std(axis=0, dtype=np.float64)).float()
    return mean + spread * torch.randn(len(mean), generator=torch.Generator().manual_seed(0))
