"""Conversion of word embeddings of other libraries to the folder of an encoder."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from hf_layerfusion.embeddings.piece_encoders import PieceVectors, pooled
from hf_layerfusion.embeddings.registry import SOURCES
from hf_layerfusion.embeddings.word_tokenizers import (
    LOOKUPS,
    SPECIAL_WORDS,
    TOKENIZATIONS,
    UNKNOWN,
    is_lower_case,
    static_tokenizer,
    word_tokenizer,
)
from hf_layerfusion.embeddings.word_vectors import BAD_ROWS, ReadOptions, WordVectors
from hf_layerfusion.errors import UserError, nearest, one_line, shortened
from hf_layerfusion.modeling.configuration_embedding_stack import EmbeddingStackConfig
from hf_layerfusion.modeling.configuration_static_embeddings import StaticEmbeddingsConfig
from hf_layerfusion.modeling.modeling_embedding_stack import EmbeddingStackModel
from hf_layerfusion.modeling.modeling_static_embeddings import StaticEmbeddingsModel
from hf_layerfusion.modeling.saved_files import write_manifest
from hf_layerfusion.modeling.tokenization_words import other_forms
from hf_layerfusion.storage import check_new, new_folder

UNKNOWN_VECTORS = ("zero", "mean", "random")
"""Vectors of words that are not in the vocabulary: zeros (GRUBERT's), the mean of all vectors, or random values."""


class ImportOptions(NamedTuple):
    """Options of an import, those of `import_embeddings`."""

    tokenization: str = "whitespace"
    lookup: str = "exact"
    unknown: str = "zero"
    train_embeddings: bool | Sequence[str] = False
    read: ReadOptions = ReadOptions()


def import_embeddings(
    output_dir: str | os.PathLike[str],
    *,
    tokenization: str = "whitespace",
    lookup: str = "exact",
    unknown: str = "zero",
    train_embeddings: bool | str | Sequence[str] = False,
    max_words: int | None = None,
    bad_rows: str = "error",
    **sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
) -> Path:
    """Convert pretrained word embeddings to a folder that `AutoModel` and `AutoTokenizer` open, and that is an encoder
    like any other (`--model_name_or_path`). Several become a stack: their vectors side by side.

    Args:
        output_dir: the new folder.
        tokenization: how the folder's tokenizer splits texts, one of `TOKENIZATIONS`.
        lookup: how words are looked up, one of `LOOKUPS`.
        unknown: the vector of unknown words, one of `UNKNOWN_VECTORS`.
        train_embeddings: whether models around the encoder train it, or the names in `sources`, one or several, of
            those members of a stack that they train. `encoder_config={"train_embeddings": True}` of `from_pretrained`
            changes it later.
        max_words: keeps this many words of each vocabulary, the most frequent ones; `None` keeps all.
        bad_rows: one of `BAD_ROWS`.
        sources: by the names in `SOURCES` a file, or as many as the format has, such as
            `glove="glove.6B.300d.txt", elmo=("options.json", "weights.hdf5")`; several files of a format of one file
            are several members.

    Returns:
        The folder.

    Raises:
        UserError: an unknown option or one that the formats have no use for, a file that cannot be read, or a folder
            that is not new. Nothing is left then.
    """
    trained = [train_embeddings] if isinstance(train_embeddings, str) else train_embeddings
    options = ImportOptions(tokenization, lookup, unknown, trained, ReadOptions(max_words, bad_rows))
    pairs: list[tuple[str, list[Path]]] = []
    for name, given in sources.items():
        files = [Path(given)] if isinstance(given, str | os.PathLike) else [Path(file) for file in given]
        is_several = name in SOURCES and len(SOURCES[name].files) == 1
        pairs += [(name, [file]) for file in files] if is_several else [(name, files)]
    return convert(pairs, Path(output_dir), options)


def convert(sources: Sequence[tuple[str, Sequence[Path]]], output_dir: Path, options: ImportOptions) -> Path:
    """Convert embeddings to the folder of an encoder, as `import_embeddings` does.

    Args:
        sources: format, a name in `SOURCES`, and files of each member of the stack, in their order; a format may occur
            several times.
        output_dir: the new folder.
        options: how the files are read, and what is trained.

    Returns:
        The folder.

    Raises:
        UserError: as `import_embeddings`.
    """
    _check(sources, options)
    check_new(output_dir, "--output_dir")
    found = []
    for name, files in sources:
        with _readable(f"--{name} {' '.join(map(shortened, files))}"):
            found.append(SOURCES[name].read(*files, options.read))
    trained = [_is_trained(name, options) for name, _ in sources]
    with new_folder(output_dir, "--output_dir") as folder:
        model, tokenizer = _encoder(found, trained, options)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        write_manifest(folder)
    return output_dir


def _check(sources: Sequence[tuple[str, Sequence[Path]]], options: ImportOptions) -> None:
    for option, value, known in (
        ("tokenization", options.tokenization, TOKENIZATIONS),
        ("lookup", options.lookup, LOOKUPS),
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
    if not sources:
        raise UserError(f"embeddings must be given, found none; name --{', --'.join(SOURCES)}.")
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
            what = f"--{name} {shortened(file)}"
            with _readable(what):
                if not file.is_file():
                    raise UserError(f"{what}: must be a file, found none; check the name.")
                is_pickle = begins_as_pickle(file)
            if is_pickle and not source.is_pickle:
                raise UserError(
                    f"{what}: must be no pickle, such as gensim's KeyedVectors.save writes, which could run any code; "
                    "save the vectors with save_word2vec_format and import them with --vectors."
                )
    _check_use([name for name, _ in sources], options)
    if not isinstance(options.train_embeddings, bool):
        names = [name for name, _ in sources]
        for name in options.train_embeddings:
            if name not in names:
                raise UserError(
                    f"--train_embeddings must name formats that are imported, {', '.join(names)}, found {name!r}; "
                    f"{nearest(name, names)}"
                )


def _check_use(names: Sequence[str], options: ImportOptions) -> None:
    """Refuse options that none of the formats named has a use for."""
    formats = ", --".join(dict.fromkeys(names))
    known = ImportOptions()
    if not any(SOURCES[name].has_words for name in names):
        for option, value, default in (
            ("lookup", options.lookup, known.lookup),
            ("unknown", options.unknown, known.unknown),
            ("max_words", options.read.max_words, known.read.max_words),
            ("bad_rows", options.read.bad_rows, known.read.bad_rows),
        ):
            if value != default:
                raise UserError(
                    f"--{option} is for vectors of words and excludes --{formats}, found {value}; leave it out."
                )
    if names == ["model2vec"] and options.tokenization != known.tokenization:
        raise UserError(
            "--tokenization is for encoders of words and excludes --model2vec alone, which keeps its own tokenizer, "
            f"found {options.tokenization}; leave it out."
        )


@contextmanager
def _readable(what: str) -> Iterator[None]:
    """Turn what the operating system refuses of an input into one line."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{what}: cannot be read ({error.strerror or one_line(error)}); check the name and its permissions."
        ) from error


def begins_as_pickle(file: Path) -> bool:
    """Return whether a file begins with the mark of a pickle of protocol 2 or above."""
    with file.open("rb") as opened:
        start = opened.read(2)
    return len(start) == 2 and start[0] == 0x80 and 2 <= start[1] <= 5


def _is_trained(name: str, options: ImportOptions) -> bool:
    given = options.train_embeddings
    return given if isinstance(given, bool) else name in given


def _encoder(found: Sequence[Any], trained: Sequence[bool], options: ImportOptions) -> tuple[Any, Any]:
    """Return the encoder made of one or several readers' results, and its tokenizer."""
    if len(found) > 1:
        model, words = _stack(found, trained, options)
    elif isinstance(found[0], PieceVectors):
        return piece_model(found[0], trained[0]), found[0].fast_tokenizer()
    else:
        model, words = _member(found[0], trained[0], options)
    return model, _tokenizer(model, words, options)


def _member(found: Any, is_trained: bool, options: ImportOptions) -> tuple[Any, list[str]]:
    """Return the encoder made of one reader's result, and its vocabulary."""
    if isinstance(found, WordVectors):
        return static_model(found.vectors, options.unknown, is_trained), found.words
    if isinstance(found, PieceVectors):
        pieces = piece_model(found, is_trained)
        found = pooled(pieces, found.tokenizer.to_str(), max_pieces=None, add_special_tokens=False)
    found.config.train_embeddings = is_trained
    return found, []


def _stack(
    found: Sequence[Any], trained: Sequence[bool], options: ImportOptions
) -> tuple[EmbeddingStackModel, list[str]]:
    """Return the stack of several members, and their joint vocabulary."""
    members, vocabularies = [], []
    for each, is_trained in zip(found, trained, strict=True):
        model, words = _member(each, is_trained, options)
        members.append(model)
        vocabularies.append(words)
    if options.lookup == "exact" and len({is_lower_case(words) for words in vocabularies if words}) > 1:
        raise UserError(
            "--lookup exact finds a word of a stack as it stands, found a vocabulary with capital letters beside one "
            "in lower case, which would not know a capitalized word; use --lookup fallback"
        )
    union = list(dict.fromkeys(word for words in vocabularies for word in words))
    rows = [_rows(words, union, options.lookup) if words else None for words in vocabularies]
    config = EmbeddingStackConfig(
        members=[_plain_config(member) for member in members],
        vocab_size=len(SPECIAL_WORDS) + len(union),
        dtype="float32",
    )
    return EmbeddingStackModel(config, members, rows), union


def _rows(words: Sequence[str], union: Sequence[str], lookup: str) -> torch.Tensor:
    """Return a static member's row for each id of the stack: the one that the member by itself would find.

    Words that it lacks are unknown to it.
    """
    known = {word: row for row, word in enumerate(words, len(SPECIAL_WORDS))}
    unknown = SPECIAL_WORDS.index(UNKNOWN)

    def row(word: str) -> int:
        forms: tuple[str, ...] = (word,)
        if lookup == "fallback":
            # The tokenizer writes the digits of an unknown word as # where any member does; this one may as 0.
            forms = (word, *other_forms(word), word.lower().replace("#", "0"))
        return next((known[form] for form in forms if form in known), unknown)

    return torch.tensor([*range(len(SPECIAL_WORDS)), *map(row, union)], dtype=torch.int32)


def _plain_config(member: Any) -> dict[str, Any]:
    left_out = ("auto_map", "architectures", "transformers_version", "_name_or_path")
    return {name: value for name, value in member.config.to_dict().items() if name not in left_out}


def _tokenizer(model: Any, words: Sequence[str], options: ImportOptions) -> Any:
    """Return the tokenizer of an encoder, one of `tokenizers` alone where that suffices."""
    has_characters = bool(model.config.extra_inputs)
    if not has_characters and options.lookup == "exact":
        return static_tokenizer(words, options.tokenization)
    return word_tokenizer(words, options.tokenization, options.lookup, has_characters)


def piece_model(found: PieceVectors, train_embeddings: bool) -> StaticEmbeddingsModel:
    """Return a model of vectors of subwords, whose ids are those of their own tokenizer."""
    config = StaticEmbeddingsConfig(
        vocab_size=len(found.vectors),
        hidden_size=found.vectors.shape[1],
        pad_token_id=found.padding_id,
        train_embeddings=train_embeddings,
        dtype="float32",
    )
    with torch.device("meta"):
        model = StaticEmbeddingsModel(config)
    model.embeddings.weight = nn.Parameter(torch.from_numpy(found.vectors), requires_grad=train_embeddings)
    return model


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
