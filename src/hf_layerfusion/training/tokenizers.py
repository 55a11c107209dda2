"""Checks that a tokenizer fits a model, and limits on the length of the texts that a saved one gives it."""

from collections.abc import Mapping
from typing import Any

from peft import PeftModel
from torch import nn

from hf_layerfusion.errors import UserError


def limit_length(tokenizer: Any, most: int | None) -> None:
    """Lower `tokenizer.model_max_length`, which is saved with the tokenizer, to `most` tokens; None leaves it."""
    if most is not None and getattr(tokenizer, "model_max_length", 0) > most:
        tokenizer.model_max_length = most


def limit_to_model(tokenizer: Any, model: nn.Module | None) -> None:
    """Lower `tokenizer.model_max_length` to the most tokens that a model of the package takes; see `limit_length`."""
    model = model.get_base_model() if isinstance(model, PeftModel) else model  # below it a model has its own
    limit_length(tokenizer, getattr(getattr(model, "base_model", None), "max_tokens", None))


def check_tokenizer(tokenizer: Any, config: Any, where: str, own: Mapping[str, int] | None = None) -> None:
    """Check that a tokenizer is one of a model's encoder, as far as that can be known.

    Args:
        tokenizer: the tokenizer.
        config: configuration of the model or its encoder.
        where: what names the tokenizer, for the message.
        own: vocabulary of the encoder's own tokenizer, which that of word embeddings must equal.

    Raises:
        UserError: It lacks an input that the encoder reads, has ids without an embedding, or other words.
    """
    config = config.get_text_config()
    kind = config.model_type
    way_out = "give the encoder's own"
    if lacking := sorted(set(getattr(config, "extra_inputs", ())) - set(tokenizer.model_input_names)):
        raise UserError(
            f"{where}: must return {', '.join(lacking)}, which '{kind}' reads, found "
            f"{', '.join(tokenizer.model_input_names)}; {way_out}."
        )
    if not getattr(config, "reads_ids", True):
        return
    found = tokenizer.get_vocab()
    size = getattr(config, "vocab_size", None)
    if isinstance(size, int) and (most := max(found.values(), default=0)) >= size:
        raise UserError(
            f"{where}: must have ids below {size:,}, the embeddings of '{kind}', found {most:,}; {way_out}."
        )
    if own is not None and getattr(config, "word_level", False) and found != own:
        raise UserError(
            f"{where}: must have the vocabulary of the encoder '{kind}', whose vectors belong to its {len(own):,} "
            f"words, found {len(found):,} others; {way_out}."
        )
