"""Tokenization of data sets that hold raw texts."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from datasets import Dataset, Features, IterableDataset, Value
from transformers import PreTrainedTokenizerBase
from transformers.tokenization_utils_base import LARGE_INTEGER
from transformers.utils import logging

from hf_layerfusion.data.arrow_tables import column_values
from hf_layerfusion.data.text_preparation import cleaner_of, plain_tokenizer, saved_preparation
from hf_layerfusion.data.truncation import encode
from hf_layerfusion.errors import UserError, check_characters

logger = logging.get_logger(__name__)

HubDataset: TypeAlias = Dataset | IterableDataset

TEXT, TEXT_PAIR = "text", "text_pair"
"""Names of the columns of texts and of the second texts of pairs, as in transformers' pipelines."""

PAIRS = (
    (TEXT, TEXT_PAIR), ("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2"),
    ("question", "sentence"),
)  # fmt: skip
"""Columns that hold a pair of texts; beside the first, those of GLUE."""

ID_COLUMNS = ("id", "idx", "uid", "guid")

MOST_CUT = 0.01
"""Share of truncated texts above which there is a warning."""

MOST_TEXTS = 20_000
"""The number of texts whose lengths are compared with the limit; of a larger data set, some at equal distances."""


def features_of(dataset: HubDataset) -> Features:
    """Return the features of a data set; those of a stream that declares none are taken from its first row."""
    if dataset.features is not None:
        return dataset.features
    first = next(iter(dataset), None)
    return Features() if first is None else Dataset.from_list([dict(first)]).features


def string_columns(features: Features) -> list[str]:
    """Return the columns of strings that may be texts: not those of ids and of labels."""
    return [
        name
        for name, feature in features.items()
        if isinstance(feature, Value)
        and feature.dtype in ("string", "large_string")
        and name not in ID_COLUMNS
        and not name.startswith("label")
    ]


def text_columns(features: Features, where: str) -> tuple[str, ...]:
    """Return the columns that hold the texts: one, or two for pairs.

    They are a pair of `PAIRS`, or `text`, or the only column of strings.

    Args:
        features: The features of the data set.
        where: The data set, for messages.

    Raises:
        UserError: There are several columns of strings, none of which is known.
    """
    found = string_columns(features)
    chosen: tuple[str, ...] = next((pair for pair in PAIRS if {*pair} <= {*found}), ())
    if not chosen and (TEXT in found or len(found) == 1):
        chosen = (TEXT if TEXT in found else found[0],)
    if not chosen:
        raise UserError(
            f"{where}: the texts must be in a column '{TEXT}', and the second ones of pairs in '{TEXT_PAIR}', found "
            f"the columns of strings {', '.join(found)}; rename the texts' (rename_column) or remove the others "
            "(remove_columns)"
        )
    if others := [name for name in found if name not in chosen]:
        logger.warning_once(
            f"the texts are read from {' and '.join(chosen)}, and not from {', '.join(others)}; for pairs, name the "
            f"columns '{TEXT}' and '{TEXT_PAIR}'"
        )
    return chosen


class TextEncoder:
    """Tokenizes texts, cut to `model_max_length` tokens.

    A tokenizer that was saved with a model prepares the texts as that model's training texts were prepared.

    Args:
        tokenizer: The tokenizer, which is left as it is.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._saved = copy.deepcopy(tokenizer)
        self._clean: dict[str, Callable[[str], str] | None] = {}
        # Cleaned texts need none of the steps that the tokenizer expresses.
        self._tokenizer: Any = plain_tokenizer(copy.deepcopy(tokenizer))
        limit = tokenizer.model_max_length
        self.limit = limit if limit < LARGE_INTEGER else None
        """The most tokens of a text or a joint pair; None where the tokenizer states none."""
        settings = saved_preparation(tokenizer) or {}
        self._truncation = settings.get("truncation", "longest_first")
        self._cut = settings.get("cut", "tail")

    def __call__(
        self, texts: Sequence[Sequence[str]], apart: bool = False, task: str = ""
    ) -> dict[str, list[Any]]:
        """Return the inputs of texts or pairs, a list for each row.

        Args:
            texts: The texts, and for pairs the second ones.
            apart: Whether the texts of pairs are encoded separately; each row then holds two lists.
            task: The task of the texts, if the run has several.
        """
        texts = [self._cleaned(each, task) for each in texts]
        if not apart:
            return self._encode(*texts)
        first, second = (self._encode(each) for each in texts)
        return {name: [list(both) for both in zip(first[name], second[name], strict=True)] for name in first}

    def _cleaned(self, texts: Sequence[str], task: str) -> list[str]:
        if task not in self._clean:
            self._clean[task] = cleaner_of(self._saved, task)
        clean = self._clean[task]
        return list(texts) if clean is None else [clean(text) for text in texts]

    def _encode(self, *texts: Sequence[str], cut: bool = True) -> dict[str, list[Any]]:
        options: dict[str, Any] = {}
        if cut and self.limit is not None and self._cut != "tail":
            return encode(self._tokenizer, *texts, max_length=self.limit, cut=self._cut)
        if cut and self.limit is not None:
            how = self._truncation if len(texts) == 2 else True
            options = {"truncation": how, "max_length": self.limit}
        return dict(self._tokenizer(*map(list, texts), **options, verbose=False))

    def warn_of_cut(
        self, dataset: Dataset, columns: Sequence[str], apart: bool, task: str, where: str
    ) -> None:
        """Warn if more than 1 % of the texts of a data set are cut, judged by at most 20,000 of them.

        Args:
            dataset: The texts.
            columns: Their columns.
            apart: Whether the texts of pairs are encoded separately.
            task: The task of the texts, if the run has several.
            where: The data set, for the message.
        """
        if self.limit is None:
            return
        sample = dataset.select(range(0, len(dataset), math.ceil(len(dataset) / MOST_TEXTS)))
        texts = [self._cleaned(column_values(sample, column), task) for column in columns]
        name = self._tokenizer.model_input_names[0]
        lengths = np.max(
            [
                [len(ids) for ids in self._encode(*given, cut=False)[name]]
                for given in ([(each,) for each in texts] if apart else [tuple(texts)])
            ],
            axis=0,
        )
        share = (lengths > self.limit).mean()
        if share > MOST_CUT:
            logger.warning(
                f"{where}: {share:.1%} of the texts have more than {self.limit} tokens, up to {lengths.max()}, and are "
                "cut; tokenizer.model_max_length sets the limit, up to what the model takes"
            )


def check_texts(texts: Sequence[Any], rows: Sequence[int], column: str, where: str) -> None:
    """Check that there are texts that a tokenizer takes.

    Args:
        texts: The texts.
        rows: Their rows, counted from 0.
        column: Their column.
        where: Their data set, for messages.

    Raises:
        UserError: A text is missing, or holds half a surrogate pair; names the row.
    """
    for row, text in zip(rows, texts, strict=True):
        if not isinstance(text, str):
            raise UserError(
                f"{where}: row {row}: the {column} must be a text, found {text!r}; add it or remove the row"
            )
        check_characters(text, f"{where}: row {row}: the {column}")
