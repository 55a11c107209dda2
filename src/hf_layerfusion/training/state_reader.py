"""Computation of a frozen encoder's states, once for each text, into a cache on disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel
from transformers.trainer_utils import has_length
from transformers.utils import logging

from hf_layerfusion.errors import UserError
from hf_layerfusion.regularizers.encoder_layers import get_encoders
from hf_layerfusion.training.samplers import is_apart
from hf_layerfusion.training.state_cache import (
    ENCODER_INPUTS,
    StateCache,
    encoder_inputs,
    gigabytes,
    text_key,
    weights_digest,
)
from hf_layerfusion.training.task_data import Row, TaskDataset

logger = logging.get_logger(__name__)

# Fields of a configuration on which the encoder's states do not depend.
_NOT_THE_ENCODER = ("_name_or_path", "architectures", "transformers_version")
# Parts of a tokenizer on which the ids do not depend.
_OF_A_CALL = ("padding", "truncation")


def source_of_states(model: PreTrainedModel) -> Any:
    """Return the part of a model that has `state_spec` and `read_states`: the model itself where the heads of several
    tasks read one encoder, otherwise its base model."""
    return model if hasattr(type(model), "read_states") else model.base_model


def tokenizer_digest(tokenizer: Any) -> str | None:
    """Return a hash of what a tokenizer does to a text, padding and truncation aside; `None` if it is no tokenizer."""
    if not hasattr(tokenizer, "get_vocab"):
        return None
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = {"class": type(tokenizer).__name__, "vocabulary": tokenizer.get_vocab()}
    if backend is not None:
        rules = {name: rule for name, rule in json.loads(backend.to_str()).items() if name not in _OF_A_CALL}
    return sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()


def texts_of(row: Row, inputs: Sequence[str] = ENCODER_INPUTS) -> list[Row]:
    """Return the encoder's inputs of each text in a row: two if the texts of a pair are encoded apart, else one.

    Args:
        row: a row.
        inputs: the names of the encoder's inputs, those of `encoder_inputs`.
    """
    given = {name: row[name] for name in inputs if name in row}
    if is_apart(given["input_ids"]):
        return [{name: values[side] for name, values in given.items()} for side in (0, 1)]
    return [given]


def stacked(texts: Sequence[Any]) -> np.ndarray[Any, Any]:
    """Return texts of one length T as an array `[N, T]`, or `[N, T, W]` where each token has a list, of W values with
    zeros at its end."""
    if not len(texts[0]) or np.ndim(texts[0][0]) == 0:
        return np.stack([np.asarray(text, dtype=np.int64) for text in texts])
    width = max([1, *(len(each) for text in texts for each in text)])
    found = np.zeros((len(texts), len(texts[0]), width), dtype=np.int64)
    for row, text in zip(found, texts, strict=True):
        for token, each in zip(row, text, strict=True):
            token[: len(each)] = each
    return found


def _normalization(config: Any) -> dict[str, str]:
    """Return the part of a cache's key that tells normalized states from others."""
    return {"final_norm": config.final_norm} if config.normalize_layers is True else {}


class _Text(NamedTuple):
    """The position of a text in its data set, its length with padding, and how many tokens of it are stored."""

    dataset: TaskDataset
    row: int
    side: int
    length: int
    tokens: int


def _batch_of(text: _Text) -> tuple[int, int]:
    return text.length, id(text.dataset)


@dataclass
class StateReader:
    """Fills a `StateCache` with the states that a model reads of its frozen encoder.

    The encoder runs in evaluation mode. Only texts of one length share a batch, so that no padding is added which an
    encoder could see: a text's states do not depend on the other texts.

    Args:
        model: has `state_spec` and `read_states`, or its base model has them; see `source_of_states`.
        tokenizer: made the ids; part of the cache's key.
        folder: where the cache lies.
        batch_size: texts a batch.
        precision: `"no"`, `"bf16"` or `"fp16"`, that of `autocast`; part of the cache's key.
        autocast: makes the context in which the encoder runs.
        dtype: of the states on disk; the model's where it is `None`.
        process_index: this process.
        num_processes: number of processes, each of which reads its part of the texts.
        wait: returns when all processes have called it.
        option: name of the option that asked for the states, for messages.
        is_padded: whether the model will also read texts in padded batches.
    """

    model: PreTrainedModel
    tokenizer: Any
    folder: str
    batch_size: int
    precision: str = "no"
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext
    dtype: torch.dtype | None = None
    process_index: int = 0
    num_processes: int = 1
    wait: Callable[[], None] = field(default=lambda: None)
    option: str = "cache_frozen_states"
    is_padded: bool = True

    def fill(self, datasets: Iterable[Any]) -> StateCache:
        """Return the cache, which then holds the states of every text of `datasets`.

        Args:
            datasets: data sets of rows with `input_ids` and what else the tokenizer gives; `None` entries are skipped.

        Raises:
            UserError: a data set without a length, a disk without room, or a folder that the processes do not share.
        """
        cache = self._open()
        every_token = source_of_states(self.model).state_spec.tokens == "all"
        texts = {
            key: text for rows in datasets if rows is not None for key, text in self._texts(rows, every_token)
        }
        # Of several processes of one training the main one holds the lock; the others begin when it has it.
        with cache.locked() if self.process_index == 0 else nullcontext():
            self.wait()
            cache.refresh()
            self._add(cache, texts)
        return cache

    def _add(self, cache: StateCache, texts: Mapping[bytes, _Text]) -> None:
        """Compute the states of those texts that the cache does not have."""
        new = cache.missing(texts)
        missing = {key: text for key, text in texts.items() if key in new}
        tokens = sum(text.tokens for text in missing.values())
        logger.info(
            f"{self.option}: of {len(texts):,} texts {len(missing):,} are new; the encoder reads them once, "
            f"without dropout; their states take {gigabytes(cache.bytes_of(tokens))} in {cache.folder}"
        )
        if self.is_padded:  # also where another run, which pads on the right, has stored the states
            self._check_padding([text for text in texts.values() if text.length and text.tokens])
        if missing:
            cache.check_room(tokens)
        self._write(cache, missing)
        if missing:
            used, free = cache.disk_use()
            logger.info(
                f"{self.option}: {cache.folder} holds {len(cache):,} texts in {gigabytes(used)}; {gigabytes(free)} are "
                "free on its disk"
            )

    def _open(self) -> StateCache:
        (encoder,) = get_encoders(self.model)
        read = source_of_states(self.model).state_spec
        config: Any = encoder.config
        fields = {name: value for name, value in config.to_dict().items() if name not in _NOT_THE_ENCODER}
        return StateCache(
            self.folder,
            {
                "encoder": {"weights": weights_digest(encoder), "config": fields},
                "attention": config._attn_implementation,
                "tokenizer": tokenizer_digest(self.tokenizer),
                "layers": read.layers,
                "tokens": read.tokens,
                "precision": self.precision,
                **_normalization(self.model.config),
                "transformers": transformers.__version__,
            },
            len(read.layers),
            read.width,
            self.model.dtype if self.dtype is None else self.dtype,
            self.option,
        )

    def _texts(self, rows: Any, every_token: bool) -> Iterator[tuple[bytes, _Text]]:
        """Yield the texts of a data set with their keys."""
        if not has_length(rows):
            raise UserError(
                f"{self.option} needs data of a known length, found a stream of {type(rows).__name__}; load it without "
                "streaming or leave the option out"
            )
        dataset = TaskDataset("one", rows, "training")
        inputs = encoder_inputs(self.model)
        names = [name for name in inputs if name in dataset.columns]
        vectors = source_of_states(self.model).state_spec.vectors
        for index, values in enumerate(zip(*map(dataset.column, names), strict=True)):
            for side, text in enumerate(texts_of(dict(zip(names, values, strict=True)), inputs)):
                length = len(text["input_ids"])
                tokens = int(sum(text.get("attention_mask", [1] * length))) if every_token else vectors
                yield text_key(text, inputs), _Text(dataset, index, side, length, tokens)

    def _check_padding(self, texts: Sequence[_Text]) -> None:
        """Check on the shortest text that padding on the left does not change states, which are read without padding.

        Raises:
            UserError: the encoder counts positions from the padding, as BERT does.
        """
        if not texts or getattr(self.tokenizer, "padding_side", "right") != "left":
            return
        text = min(texts, key=lambda text: text.length)
        inputs = texts_of(text.dataset[text.row], encoder_inputs(self.model))[text.side]
        if np.ndim(inputs["input_ids"][0]):
            return  # words of static vectors have no positions
        inputs = {"attention_mask": [1] * text.length, **inputs}
        padding = {"input_ids": self.tokenizer.pad_token_id or 0}
        padded = {name: [padding.get(name, 0)] * 4 + list(values) for name, values in inputs.items()}
        alone, beside = (self._states_of(each)[..., -text.tokens :, :].float() for each in (inputs, padded))
        if (alone - beside).norm() > 0.05 * alone.norm():
            raise UserError(
                f"{self.option} reads texts without padding, which must not change an encoder's states, found "
                "padding_side='left' and an encoder that counts positions from the padding; set "
                "tokenizer.padding_side = 'right'"
            )

    def _states_of(self, inputs: Mapping[str, Sequence[int]]) -> Tensor:
        """Return the states `[R, T, H]` of one text, in evaluation mode."""
        model, was_training = self.model, self.model.training
        model.eval()
        try:
            tensors = {
                name: torch.as_tensor([list(each)], device=model.device) for name, each in inputs.items()
            }
            with torch.no_grad(), self.autocast():
                return source_of_states(model).read_states(**tensors)[0].cpu()
        finally:
            model.train(was_training)

    def _write(self, cache: StateCache, missing: Mapping[bytes, _Text]) -> None:
        """Compute and write the states of texts, each process its part."""
        # All processes must agree on what is missing before one of them, or of another run, adds to it.
        self.wait()
        mine = sorted(
            (
                key
                for key in missing
                if int.from_bytes(key[:4], "big") % self.num_processes == self.process_index
            ),
            key=lambda key: _batch_of(missing[key]),
        )
        found = [missing[key] for key in mine]
        with closing(self._computed(found)) as states:  # also its progress bar, before an error is shown
            cache.write(mine, [text.tokens for text in found], states)
        self.wait()
        cache.refresh()
        lost = cache.missing(missing)
        if lost:
            raise UserError(
                f"{self.option}={self.folder} must be a folder that all processes share, found {len(lost):,} texts of "
                "other processes missing in it; name such a folder"
            )

    def _computed(self, texts: list[_Text]) -> Generator[Tensor]:
        """Yield the states `[R, T, H]` of each text."""
        model, was_training = self.model, self.model.training
        source = source_of_states(model)
        every_token = source.state_spec.tokens == "all"
        hidden = self.process_index > 0 or len(texts) <= self.batch_size
        progress = tqdm(total=len(texts), desc="encoding texts", unit="text", disable=hidden)
        model.eval()
        try:
            for _, group in groupby(texts, key=_batch_of):
                alike = list(group)
                for start in range(0, len(alike), self.batch_size):
                    rows = [
                        texts_of(text.dataset[text.row], encoder_inputs(model))[text.side]
                        for text in alike[start : start + self.batch_size]
                    ]
                    inputs = {
                        name: torch.as_tensor(stacked([row[name] for row in rows]), device=model.device)
                        for name in rows[0]
                    }
                    with torch.no_grad(), self.autocast():
                        states = source.read_states(**inputs).cpu()
                    for row, each in zip(rows, states, strict=True):
                        if every_token:
                            # A text without tokens was read with one of padding.
                            length = len(row["input_ids"])
                            mask = torch.as_tensor(row.get("attention_mask", [1] * length), dtype=torch.bool)
                            each = each[:, :length][:, mask]
                        yield each
                    progress.update(len(rows))
        finally:
            progress.close()
            model.train(was_training)
