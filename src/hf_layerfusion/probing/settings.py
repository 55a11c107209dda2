"""What a probe can be asked: checked before data are read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from hf_layerfusion.errors import LOADING_ERRORS, UserError, nearest, one_line
from hf_layerfusion.modeling.encoders import max_tokens
from hf_layerfusion.probing.scores import SCORES

LARGEST_SEED = 2**32 - 1
"""NumPy's."""

DEFAULT_LENGTH = 512
"""Tokens of a text that are read, where the encoder takes as many."""


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
    """Check what `layer_probe` is asked, but for the data, with the configuration and tokenizer of each encoder.

    Raises:
        UserError: An unknown metric, a number out of its range, text columns that are not one or two, or an encoder
            that cannot be loaded.
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
        UserError: They cannot be loaded.
    """
    try:
        return AutoConfig.from_pretrained(encoder, **options), AutoTokenizer.from_pretrained(
            encoder, **options
        )
    except LOADING_ERRORS as error:
        raise UserError(f"encoder {encoder}: cannot be loaded: {one_line(error)}") from error


def resolve_max_length(
    config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, asked: int | None, is_pair: bool
) -> int:
    """Return how many tokens of a text, of a pair of both, the encoder reads.

    Args:
        config: The encoder's.
        tokenizer: Adds its special tokens.
        asked: The number asked for; None is the most that the encoder takes, up to 512.
        is_pair: Whether texts come in pairs.

    Raises:
        UserError: More are asked for than the encoder takes, or so few that special tokens leave no room for a text.
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
