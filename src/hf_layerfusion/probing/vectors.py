"""The vectors that the layers of a frozen encoder have of texts, and the features that a probe reads."""

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
    """The vectors of texts at every layer of an encoder.

    Attributes:
        sides: `[N, L, 2, H]` of each text of a row, the vectors in the order of `poolings`: one array for single texts
            and for pairs that are read jointly, two for pairs that are read apart.
        poolings: names of the two vectors of a layer: `"cls"` (`"last"` of causal encoders) and `"mean"`.
        num_truncated: number of rows of which a text was cut off.
    """

    sides: list[Halves]
    poolings: tuple[str, str]
    num_truncated: int = 0

    @property
    def num_layers(self) -> int:
        """Number L of layers."""
        return int(self.sides[0].shape[1])

    def features(self, layers: Sequence[int], pooling: str) -> npt.NDArray[np.float32]:
        """Return what a probe of some layers reads, `[N, D]`.

        That is the layers' vectors side by side. For pairs that are read apart, u and v of the two texts become
        (u, v, |u - v|, u * v) (Conneau et al. 2017, section 3.1).

        Args:
            layers: the layers, 0 the first.
            pooling: one of `poolings`.
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
    """Return the vectors of the texts of each split; the encoder reads what is not in the cache.

    Args:
        model: the encoder inside a pooling model that reads two vectors of each layer (`token_pooling="cls_mean"` or
            `"last_mean"`).
        tokenizer: the encoder's.
        splits: data sets whose columns are the texts: one, or two for pairs.
        apart: read the two texts of a pair each by itself.
        max_length: tokens that the encoder takes; what is longer is cut off.
        cache_dir: folder of the cache.
        batch_size: texts a batch.

    Raises:
        UserError: states that are not finite in half precision, or a disk without room.
    """
    encoded, truncated = [], []
    for split in splits:
        rows, cut = _encode(split, tokenizer, apart, max_length)
        encoded.append(rows)
        truncated.append(cut)
    reader = StateReader(model, tokenizer, cache_dir, batch_size, dtype=torch.float16, option="cache_dir")
    cache = reader.fill(encoded)
    poolings = cast("tuple[str, str]", tuple(model.config.token_pooling.split("_")))
    found, inputs = [], encoder_inputs(model)
    for rows, cut in zip(encoded, truncated, strict=True):
        keys = [[text_key(text, inputs) for text in texts_of(row, inputs)] for row in rows]
        sides = [np.stack([cache[key].numpy() for key in side]) for side in zip(*keys, strict=True)]
        # Stored as two tokens of this first (or last) one and this mean.
        token = 0 if poolings[0] == "cls" else 1
        both = [np.stack([side[:, :, token], side.mean(axis=2, dtype=np.float32)], axis=2) for side in sides]
        found.append(TextVectors(both, poolings, cut))
    return found


def _encode(
    split: Dataset, tokenizer: PreTrainedTokenizerBase, apart: bool, max_length: int
) -> tuple[list[dict[str, Any]], int]:
    """Return the encoder's inputs of each row, and the number of rows of which a text was cut off."""
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
