"""Word embeddings small enough for a test, as files of foreign formats and as encoders' folders."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, PreTrainedModel

from hf_layerfusion import import_embeddings
from hf_layerfusion.embeddings.word_tokenizers import word_tokenizer
from hf_layerfusion.modeling.configuration_elmo import ElmoConfig
from hf_layerfusion.modeling.configuration_flair import FlairConfig
from hf_layerfusion.modeling.modeling_elmo import ElmoModel
from hf_layerfusion.modeling.modeling_flair import FlairModel
from tests.tiny import NEGATIVE_WORDS, NEUTRAL_WORDS, POSITIVE_WORDS, tiny_config, tiny_tokenizer

ELMO_FILES = tuple(
    Path(__file__).parent / "embeddings" / "fixtures" / "elmo" / name
    for name in ("options.json", "lm_weights.hdf5")
)
WORDS = tuple(dict.fromkeys((*POSITIVE_WORDS, *NEGATIVE_WORDS, *NEUTRAL_WORDS, ",", ".", "!")))


def write_glove(path: Path, width: int = 8, seed: int = 0) -> Path:
    """Write a random vector of each of `WORDS` in GloVe's format."""
    rng = random.Random(seed)
    lines = [" ".join((word, *(f"{rng.gauss(0, 1):.4f}" for _ in range(width)))) for word in WORDS]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def static_folder(folder: Path, **options: Any) -> Path:
    """Import the vectors of `write_glove`."""
    folder.mkdir(exist_ok=True, parents=True)
    return import_embeddings(folder / "encoder", glove=write_glove(folder / "glove.txt"), **options)


def elmo_folder(folder: Path) -> Path:
    """Save a random ELMo of three layers, width 8, with its tokenizer."""
    config = ElmoConfig(
        char_embedding_size=4,
        filters=[[1, 4], [2, 4]],
        num_highway=1,
        lstm_size=6,
        projection_size=4,
        max_characters=12,
    )
    return saved(ElmoModel(config), folder / "encoder")


def saved(model: PreTrainedModel, folder: Path) -> Path:
    """Save an encoder of characters with its tokenizer, its weights large enough for states that differ."""
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    model.save_pretrained(folder)
    word_tokenizer((), "whitespace").save_pretrained(folder)
    return folder


def flair_folder(folder: Path) -> Path:
    """Save a random Flair, width 3 + 4, with its tokenizer."""
    return saved(FlairModel(FlairConfig(char_embedding_sizes=[3, 2], lstm_sizes=[3, 4])), folder / "encoder")


def stack_folder(folder: Path, **options: Any) -> Path:
    """Import two static embeddings and ELMo's fixture as a stack of three layers, width 8 + 3 + 32."""
    folder.mkdir(exist_ok=True, parents=True)
    glove = [write_glove(folder / "a.txt"), write_glove(folder / "b.txt", width=3, seed=1)]
    return import_embeddings(folder / "encoder", glove=glove, elmo=ELMO_FILES, **options)


def pooled_folder(folder: Path) -> Path:
    """Import a tiny BERT of three layers as an encoder of words."""
    encoder = AutoModel.from_config(tiny_config("bert", 3))
    for weight in encoder.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    encoder.save_pretrained(folder / "bert")
    tiny_tokenizer().save_pretrained(folder / "bert")
    return import_embeddings(folder / "encoder", encoder=folder / "bert")


WORD_ENCODERS: dict[str, Callable[..., Path]] = {
    "static": static_folder,
    "elmo": elmo_folder,
    "flair": flair_folder,
    "stack": stack_folder,
    "pooled": pooled_folder,
}
"""Functions that make an encoder's folder inside of the one that they are given, by the kind of encoder."""
