"""Validation of the settings of a probe, before data are read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from hf_layerfusion.errors import LOADING_ERRORS, UserError, nearest, one_line
from hf_layerfusion.modeling.encoders import max_tokens, refuse_unfit
from hf_layerfusion.probing.scores import SCORES

LARGEST_SEED = 2**32 - 1
"""NumPy's largest seed."""

DEFAULT_LENGTH = 512
"""Default maximum number of tokens of a text, if the encoder accepts as many."""


def check_probe(
    encoders: Sequence[str | os.PathLike[str]],
    *,
    text_columns: Sequence[str] = ("text",),
    metric: str | None = None,
    max_length: int | None = None,
    batch_size: int = 32,
    seed: int = 0,
    **options: Any,
) -> None:
    """Check the arguments of `layer_probe` except the data, with the configuration and tokenizer of each encoder.

    Raises:
        UserError: If the metric is unknown, a number is out of range, there are not one or two text columns, or an
            encoder cannot be loaded.
    """
    if len(text_columns) not in (1, 2):
        raise UserError(f"text_columns must name one column, or two for pairs, found {list(text_columns)}")
    if metric is not None and metric not in SCORES:
        raise UserError(
            f"metric must be one of {', '.join(SCORES)}, found {metric!r}; {nearest(metric, SCORES)}"
        )
    if batch_size < 1:
        raise UserError(f"batch_size must be 1 or more, found {batch_size}; leave it out for its default")
    if not 0 <= seed <= LARGEST_SEED:
        raise UserError(f"seed must lie between 0 and {LARGEST_SEED}, found {seed}; choose a number there")
    for encoder in encoders:
        resolve_max_length(*load_settings(encoder, **options), max_length, len(text_columns) == 2)


def load_settings(
    encoder: str | os.PathLike[str], **options: Any
) -> tuple[PreTrainedConfig, PreTrainedTokenizerBase]:
    """Return the configuration and the tokenizer of an encoder.

    Raises:
        UserError: If they cannot be loaded.
    """
    try:
        config = AutoConfig.from_pretrained(encoder, **options)
        refuse_unfit(config)
        return config, AutoTokenizer.from_pretrained(encoder, **options)
    except LOADING_ERRORS as error:
        raise UserError(f"encoder {encoder}: cannot be loaded: {one_line(error)}") from error


def resolve_max_length(
    config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, asked: int | None, is_pair: bool
) -> int:
    """Return the maximum number of tokens of a text, or of both texts of a pair.

    Args:
        config: Configuration of the encoder.
        tokenizer: Tokenizer, for its special tokens.
        asked: Requested number; None uses the limit of the encoder, at most 512.
        is_pair: Whether the texts come in pairs.

    Raises:
        UserError: If the number exceeds the encoder's limit, or leaves no room for a text beside the special tokens.
    """
    limits = [tokenizer.model_max_length, max_tokens(config)]
    limit = min((each for each in limits if each), default=int(1e9))
    least = tokenizer.num_special_tokens_to_add(pair=is_pair) + 1 + is_pair
    if asked is not None and not least <= asked <= limit:
        raise UserError(
            f"max_length must lie between {least}, the special tokens and one of each text, and {limit}, the most that "
            f"the encoder takes, found {asked}"
        )
    return int(min(asked or DEFAULT_LENGTH, limit))
