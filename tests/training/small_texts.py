"""A stream of tiny texts, and a Trainer on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import torch
from transformers import AutoModel, AutoModelForMaskedLM, PreTrainedModel

from hf_layerfusion.training.objectives import MaskedLanguageModeling, Objective
from hf_layerfusion.training.pretraining import PretrainingTrainer
from hf_layerfusion.training.text_stream import TextStream
from tests.tiny import tiny_config, tiny_texts, tiny_tokenizer
from tests.training.small import small_arguments


def text_rows(texts: tuple[str, ...]) -> Iterator[dict[str, str]]:
    for text in texts:
        yield {"text": text}


def encode(texts: list[str]) -> dict[str, list[Any]]:
    return dict(tiny_tokenizer()(texts, return_special_tokens_mask=True))


def text_stream(count: int, seed: int = 0, buffer_size: int = 0) -> TextStream:
    """A stream of `count` texts."""
    texts = tuple(text for text, _ in tiny_texts(count, seed))
    rows = datasets.IterableDataset.from_generator(text_rows, gen_kwargs={"texts": texts})
    return TextStream(rows, count, encode, seed, buffer_size)


def texts_trainer(
    folder: Path,
    objective: Objective | None = None,
    model: PreTrainedModel | None = None,
    train: TextStream | None = None,
    callbacks: Any = None,
    **changes: Any,
) -> PretrainingTrainer:
    """A Trainer of a tiny BERT on 21 texts, evaluated on 16 others."""
    objective = objective or MaskedLanguageModeling()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        masked = isinstance(objective, MaskedLanguageModeling)
        default = (AutoModelForMaskedLM if masked else AutoModel).from_config(tiny_config("bert", 2))
    settings = {"remove_unused_columns": False, "accelerator_config": {"dispatch_batches": False}}
    return PretrainingTrainer(
        model or default,
        small_arguments(folder, **settings, **changes),
        objective,
        tiny_tokenizer(),
        train_dataset=train or text_stream(21, buffer_size=10),
        eval_dataset=text_stream(16, seed=5),
        callbacks=callbacks,
    )
