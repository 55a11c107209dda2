"""Limits on the length of the texts that a saved tokenizer gives its model."""

from typing import Any

from peft import PeftModel
from torch import nn


def limit_length(tokenizer: Any, most: int | None) -> None:
    """Lower `tokenizer.model_max_length`, which is saved with the tokenizer, to `most` tokens; None leaves it."""
    if most is not None and getattr(tokenizer, "model_max_length", 0) > most:
        tokenizer.model_max_length = most


def limit_to_model(tokenizer: Any, model: nn.Module | None) -> None:
    """Lower `tokenizer.model_max_length` to the most tokens that a model of the package takes; see `limit_length`."""
    model = model.get_base_model() if isinstance(model, PeftModel) else model  # below it a model has its own
    limit_length(tokenizer, getattr(getattr(model, "base_model", None), "max_tokens", None))
