"""Validation of the settings of a probe, before data are read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from numbers import Integral
from typing import Any, Literal

from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from hf_layerfusion.errors import LOADING_ERRORS, UserError, nearest, one_line
from hf_layerfusion.modeling.configuration_layer_pooling import LayerPoolingConfig
from hf_layerfusion.modeling.encoders import is_causal, max_tokens
from hf_layerfusion.probing.scores import SCORES

LARGEST_SEED = 2**32 - 1
"""NumPy's largest seed."""

DEFAULT_LENGTH = 512
"""Default maximum number of tokens of a text, if the encoder accepts as many."""


def check_probe(
    encoders: Sequence[str | os.PathLike[str]],
    *,
    text_columns: Sequence[str] = ("text",),
    label_column: str = "label",
    group_column: str | None = None,
    metric: str | None = None,
    max_length: int | None = None,
    batch_size: int = 32,
    seed: int = 0,
    **options: Any,
) -> None:
    """Check the arguments of `layer_probe` except the data, with the configuration and tokenizer of each encoder.

    Raises:
        UserError: If the metric is unknown, a number is out of range, there are not one or two text columns, a column
            has two roles, or an encoder cannot be loaded or has one layer.
    """
    is_list = isinstance(text_columns, Sequence) and not isinstance(text_columns, str)
    named = list(text_columns) if is_list else []
    if len(named) not in (1, 2) or not all(isinstance(column, str) for column in named):
        raise UserError(
            f"text_columns must name one column, or two for pairs, found {text_columns!r}; give a list of names"
        )
    if len(set(named)) < len(named):
        raise UserError(
            f"text_columns must name different columns, found {named[0]!r} twice; name the second text's"
        )
    for role, column in (("label_column", label_column), ("group_column", group_column)):
        if not isinstance(column, str) and (role == "label_column" or column is not None):
            raise UserError(f"{role} must be the name of a column, found {column!r}; give its name")
    if label_column in named:
        raise UserError(f"label_column must not be a text column, found {label_column!r}; name another")
    if group_column == label_column:
        raise UserError(f"group_column must not be the label column, found {group_column!r}; name another")
    if metric is not None and metric not in list(SCORES):
        raise UserError(
            f"metric must be one of {', '.join(SCORES)}, found {metric!r}; {nearest(metric, SCORES)}"
        )
    if not _is_whole(batch_size) or batch_size < 1:
        raise UserError(
            f"batch_size must be a whole number of 1 or more, found {batch_size!r}; leave it out for its default"
        )
    if not _is_whole(seed) or not 0 <= seed <= LARGEST_SEED:
        raise UserError(
            f"seed must be a whole number between 0 and {LARGEST_SEED}, found {seed!r}; choose one there"
        )
    encoder: Any
    for encoder in encoders:
        if not isinstance(encoder, str | os.PathLike):
            found = None if encoder is None else type(encoder).__name__
            raise UserError(
                f"encoder must be a folder or Hub id, found {found}; save the model and its tokenizer "
                "(save_pretrained) and name their folder"
            )
        resolve_max_length(*load_settings(encoder, **options), max_length, len(named) == 2)


def load_settings(
    encoder: str | os.PathLike[str], **options: Any
) -> tuple[PreTrainedConfig, PreTrainedTokenizerBase]:
    """Return the configuration and the tokenizer of an encoder.

    Raises:
        UserError: If they cannot be loaded, are those of a model around an encoder, or there is one layer only.
    """
    try:
        config = AutoConfig.from_pretrained(encoder, **options)
        LayerPoolingConfig(encoder_config=config, token_pooling=token_pooling(config))
        tokenizer = AutoTokenizer.from_pretrained(encoder, **options)
    except LOADING_ERRORS as error:
        raise UserError(f"encoder {encoder}: cannot be loaded: {one_line(error)}") from error
    if config.get_text_config().num_hidden_layers < 2:
        raise UserError(f"encoder {encoder}: must have two layers or more to compare, found one; use another")
    return config, tokenizer


def token_pooling(config: PreTrainedConfig) -> Literal["cls_mean", "last_mean"]:
    """Return the vectors of a layer that a probe reads: the first token, or a causal encoder's last, and the mean."""
    return "last_mean" if is_causal(config) else "cls_mean"


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
    if asked is not None and not (_is_whole(asked) and least <= asked <= limit):
        raise UserError(
            f"max_length must be a whole number between {least}, the special tokens and one of each text, and {limit}, "
            f"the most that the encoder takes, found {asked!r}; leave it out for its default"
        )
    return int(min(asked or DEFAULT_LENGTH, limit))


def _is_whole(number: object) -> bool:
    return isinstance(number, Integral)
