"""The number of tokens that texts are truncated to if it depends on the data, and how many texts that truncates."""

import dataclasses
import logging
import math
from typing import Any, TypeVar

import numpy as np
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from hf_layerfusion.data.arrow_tables import column_values
from hf_layerfusion.recipes.data_preparation import PreparedData
from hf_layerfusion.recipes.recipe_arguments import DataArguments

logger = logging.getLogger(__name__)

PERCENTILE = 99
MOST_CUT = 0.01
"""Share of truncated texts above which there is a warning."""

MOST_TEXTS = 20_000
"""Maximum number of texts to measure; a longer split is sampled at equal distances."""

AnyDataArguments = TypeVar("AnyDataArguments", bound=DataArguments)


def token_lengths(
    split: Dataset, columns: tuple[str, ...], tokenizer: PreTrainedTokenizerBase, separate_pairs: bool = False
) -> np.ndarray[Any, Any]:
    """Return the number of tokens of a split's texts or pairs, special tokens included, `[min(N, 20000)]`.

    For pairs whose texts are encoded separately, it is that of the longer text.
    """
    step = math.ceil(len(split) / MOST_TEXTS) or 1
    texts = [column_values(split, column)[::step] for column in columns]
    found = []
    for given in [(each,) for each in texts] if separate_pairs else [tuple(texts)]:
        found.append([len(ids) for ids in tokenizer(*given, verbose=False)["input_ids"]])
    return np.max(found, axis=0)


def with_token_limit(
    data: PreparedData,
    tokenizer: PreTrainedTokenizerBase,
    arguments: AnyDataArguments,
    *,
    separate_pairs: bool = False,
) -> AnyDataArguments:
    """Return the arguments with `max_seq_length` set, if it was None, to the length that 99 % of the training texts
    do not exceed.

    The limit is at most what the encoder takes. A split with more than 1 % truncated texts gets a warning.

    Args:
        data: the splits.
        tokenizer: the tokenizer, whose `model_max_length` is at most what the encoder takes.
        arguments: the run's data arguments.
        separate_pairs: whether the texts of a pair are encoded separately.
    """
    lengths = {
        name: token_lengths(split, data.text_columns, tokenizer, separate_pairs)
        for name, split in data.splits.items()
    }
    if arguments.max_seq_length is None:
        wanted = math.ceil(np.percentile(lengths["train"], PERCENTILE))
        limit = min(wanted, tokenizer.model_max_length)
        logger.info("texts are truncated to %d tokens (--max_seq_length)", limit)
        arguments = dataclasses.replace(arguments, max_seq_length=limit)
    most: Any = arguments.max_seq_length
    for name, found in lengths.items():
        share = float((found > most).mean()) if len(found) else 0.0
        if share > MOST_CUT:
            logger.warning(
                "%s: %.1f %% of the texts have more than %d tokens, up to %d, and are truncated (--max_seq_length)",
                name, 100 * share, most, found.max(),
            )  # fmt: skip
    return arguments
