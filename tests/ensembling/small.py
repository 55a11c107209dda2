"""Tiny classifiers with random weights and three kinds of tokenizers, saved as members of an ensemble."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast

from tests.tiny import tiny_config, tiny_texts, tiny_tokenizer

LABELS = ("negative", "neutral", "positive")
TEXTS = [text for text, _ in tiny_texts(12, seed=5)]
_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


def byte_level_bpe() -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer, as RoBERTa's, trained on the tiny texts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=_SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    return _trained(tokenizer, trainer)


def unigram() -> PreTrainedTokenizerFast:
    """Return a Unigram tokenizer that marks spaces, as SentencePiece does, trained on the tiny texts."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=200, special_tokens=_SPECIAL, unk_token="[UNK]", show_progress=False
    )
    return _trained(tokenizer, trainer)


def _trained(tokenizer: Tokenizer, trainer: Any) -> PreTrainedTokenizerFast:
    tokenizer.train_from_iterator([text for text, _ in tiny_texts(200)], trainer)
    ends = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=ends
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        model_max_length=48, model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def save_member(
    folder: Path,
    model_type: str = "bert",
    labels: Sequence[str] = LABELS,
    seed: int = 0,
    tokenizer: Any = None,
    **changes: Any,
) -> str:
    """Save a classifier with varied predictions and labels in the given order, and return its folder."""
    tokenizer = tokenizer or tiny_tokenizer()
    config = tiny_config(model_type, 2, vocab_size=len(tokenizer), **changes)
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: index for index, label in enumerate(labels)}
    if len(labels) == 1:
        config.problem_type = "regression"
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForSequenceClassification.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.15 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
