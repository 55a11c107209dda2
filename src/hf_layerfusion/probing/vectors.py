"""Vectors of texts at the layers of a frozen encoder, and the features of a probe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_layerfusion.training.state_cache import encoder_inputs, text_key
from hf_layerfusion.training.state_reader import StateReader, texts_of

Halves = npt.NDArray[np.float16]


@dataclass
class TextVectors:
    """Vectors of texts at every layer of an encoder.

    Attributes:
        sides: `[N, L, 2, H]` for each text of a row, the vectors in the order of `poolings`: one array for single texts
            and jointly encoded pairs, two for separately encoded pairs.
        poolings: Names of the two vectors of a layer: `"cls"` (`"last"` for causal encoders) and `"mean"`.
        num_truncated: Number of rows with a truncated text.
    """

    sides: list[Halves]
    poolings: tuple[str, str]
    num_truncated: int = 0

    @property
    def num_layers(self) -> int:
        """Number L of layers."""
        return int(self.sides[0].shape[1])

    def features(self, layers: Sequence[int], pooling: str) -> npt.NDArray[np.float32]:
        """Return the features for a probe of some layers, `[N, D]`.

        They are the concatenated vectors of the layers. For separately encoded pairs, the vectors u and v of the two
        texts become (u, v, |u - v|, u * v) (Conneau et al. 2017, section 3.1).

        Args:
            layers: Indices of the layers; 0 is the first.
            pooling: One of `poolings`.
        """
        place = self.poolings.index(pooling)
        flat = [side[:, list(layers), place].reshape(len(side), -1).astype(np.float32) for side in self.sides]
        if len(flat) == 1:
            return flat[0]
        first, second = flat
        return np.concatenate([first, second, np.abs(first - second), first * second], axis=1)


def read_vectors(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    splits: Sequence[Dataset],
    *,
    apart: bool,
    max_length: int,
    cache_dir: str,
    batch_size: int,
) -> list[TextVectors]:
    """Return the vectors of the texts of each split, running the encoder on those that are not cached.

    Args:
        model: Encoder inside a pooling model that uses two vectors of each layer (`token_pooling="cls_mean"` or
            `"last_mean"`).
        tokenizer: Tokenizer of the encoder.
        splits: Data sets whose columns are the texts: one, or two for pairs.
        apart: Whether to encode the two texts of a pair separately.
        max_length: Maximum number of tokens; longer texts are truncated.
        cache_dir: Folder of the cache.
        batch_size: Texts per batch.

    Raises:
        UserError: If states are not finite in half precision, or the disk is full.
    """
    encoded, truncated = [], []
    for split in splits:
        rows, cut = _encode(split, tokenizer, apart, max_length)
        encoded.append(rows)
        truncated.append(cut)
    reader = StateReader(
        model, tokenizer, cache_dir, batch_size, dtype=torch.float16, option="cache_dir", is_padded=False
    )
    cache = reader.fill(encoded)
    poolings = cast("tuple[str, str]", tuple(model.config.token_pooling.split("_")))
    found, inputs = [], encoder_inputs(model)
    for rows, cut in zip(encoded, truncated, strict=True):
        keys = [[text_key(text, inputs) for text in texts_of(row, inputs)] for row in rows]
        sides = [np.stack([cache[key].numpy() for key in side]) for side in zip(*keys, strict=True)]
        # Stored as two tokens with this first (or last) one and this mean.
        token = 0 if poolings[0] == "cls" else 1
        both = [np.stack([side[:, :, token], side.mean(axis=2, dtype=np.float32)], axis=2) for side in sides]
        found.append(TextVectors(both, poolings, cut))
    return found


def _encode(
    split: Dataset, tokenizer: PreTrainedTokenizerBase, apart: bool, max_length: int
) -> tuple[list[dict[str, Any]], int]:
    """Return the encoder's inputs of each row, and the number of rows with a truncated text."""
    columns = [list(split[name]) for name in split.column_names]
    groups = [[column] for column in columns] if apart else [columns]
    sides = [tokenizer(*group, truncation=True, max_length=max_length) for group in groups]
    names = [name for name in tokenizer.model_input_names if name in sides[0]]
    cut = np.zeros(len(split), bool)
    for side in sides:
        if side.encodings is not None:
            cut |= np.array([bool(each.overflowing) for each in side.encodings])
    if not apart:
        rows = [{name: sides[0][name][row] for name in names} for row in range(len(split))]
    else:
        rows = [{name: [side[name][row] for side in sides] for name in names} for row in range(len(split))]
    return rows, int(cut.sum())
