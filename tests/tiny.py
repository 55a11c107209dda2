"""Encoders, tokenizers and texts small enough to train within a test."""

from __future__ import annotations

import csv
import random
import string
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, BertTokenizer, PreTrainedConfig, PreTrainedModel

MODEL_TYPES = (
    "bert",
    "roberta",
    "xlm-roberta",
    "distilbert",
    "electra",
    "deberta-v2",
    "modernbert",
    "albert",
    "mpnet",
)

POSITIVE_WORDS = ("good", "great", "happy", "love", "nice", "best", "sweet", "fun")
NEGATIVE_WORDS = ("bad", "awful", "sad", "hate", "ugly", "worst", "sick", "boring")
NEUTRAL_WORDS = (
    "the a an i you he she it we they this that my your his her our is are was be have has do did will can "
    "not no so too very just now today here there and or but of in on at to for with from by as if when "
    "day night work home school game food movie music phone rain sun coffee friend team book"
).split()

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_PIECES = (
    *_SPECIAL,
    "xxuser",
    "xxurl",
    *POSITIVE_WORDS,
    *NEGATIVE_WORDS,
    *NEUTRAL_WORDS,
    *string.ascii_lowercase,
    *string.digits,
    *(f"##{character}" for character in string.ascii_lowercase + string.digits),
    *"!?.,:;#@'-_/<>()",
)
VOCABULARY = {piece: index for index, piece in enumerate(dict.fromkeys(_PIECES))}


def tiny_config(model_type: str, num_hidden_layers: int = 4, **changes: Any) -> PreTrainedConfig:
    """The configuration of a random encoder: `num_hidden_layers` layers, width 32, 4 heads, no dropout.

    Its vocabulary is `VOCABULARY`, with `[PAD]` as id 0, so that `tiny_tokenizer` fits every one of them.
    Dropout is 0, so that training mode gives reproducible values; pass the model's own name to change it.
    """
    settings: dict[str, Any] = {
        "vocab_size": len(VOCABULARY),
        "pad_token_id": 0,
        "max_position_embeddings": 64,
    }
    if model_type == "distilbert":
        settings |= {"n_layers": num_hidden_layers, "n_heads": 4, "dim": 32, "hidden_dim": 64}
        settings |= {"dropout": 0.0, "attention_dropout": 0.0}
    else:
        settings |= {"num_hidden_layers": num_hidden_layers, "num_attention_heads": 4, "hidden_size": 32}
        settings |= {"intermediate_size": 64}
    if model_type == "modernbert":
        settings |= {"cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}
        settings |= {"local_attention": 16, "embedding_dropout": 0.0, "attention_dropout": 0.0}
    elif model_type != "distilbert":
        settings |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    if model_type in ("albert", "electra"):
        settings |= {"embedding_size": 16}
    if model_type == "deberta-v2":
        settings |= {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 16}
    return AutoConfig.for_model(model_type, **(settings | changes))


def tiny_tokenizer() -> BertTokenizer:
    """A lower-casing WordPiece tokenizer over `VOCABULARY`; unknown words fall apart into letters."""
    return BertTokenizer(vocab=VOCABULARY, model_max_length=64)


def tiny_texts(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """`count` pairs (text, "positive" or "negative"), half of each, told apart by one word in each text."""
    rng = random.Random(seed)
    rows = []
    for index in range(count):
        label, words = (("negative", NEGATIVE_WORDS), ("positive", POSITIVE_WORDS))[index % 2]
        text = rng.choices(NEUTRAL_WORDS, k=rng.randint(3, 12))
        text.insert(rng.randrange(len(text) + 1), rng.choice(words))
        rows.append((" ".join(text), label))
    return rows


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a csv file (RFC 4180) by column."""
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write_csv(path: Path, rows: list[tuple[str, str]]) -> Path:
    """Write `rows` below the header `text,label` and return `path`."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("text", "label"))
        writer.writerows(rows)
    return path


def assert_same_weights(loaded: PreTrainedModel, model: PreTrainedModel) -> None:
    """That every weight was kept bit by bit."""
    state = model.state_dict()
    assert loaded.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in loaded.state_dict().items())


def assert_close_values(found: torch.Tensor, expected: torch.Tensor) -> None:
    """That two passes of the same weights agree to rounding, and not bit by bit: weights that a file is mapped to lie
    elsewhere in memory, where matrix products go another way on some processors."""
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)
