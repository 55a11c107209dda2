"""A Trainer whose frozen encoder runs once for each text, however many epochs there are."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from itertools import groupby
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedModel, Trainer
from transformers.trainer_utils import TrainOutput, has_length
from transformers.utils import logging

from hf_layerfusion.errors import UserError
from hf_layerfusion.losses.layers import encoders_of
from hf_layerfusion.training.arguments import LayerFusionTrainingArguments
from hf_layerfusion.training.state_cache import (
    ENCODER_INPUTS,
    StateCache,
    gigabytes,
    text_key,
    weights_digest,
)
from hf_layerfusion.training.task_data import Row, TaskDataset

logger = logging.get_logger(__name__)

ENCODER_STATES = "encoder_states"
"""What a batch holds in place of the encoder's inputs: `[B, R, T, H]`."""

STORED = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""How states lie on disk, by the run's precision; else as the model computes."""

# What neither an encoder's states depend on nor a tokenizer's ids.
_NOT_THE_ENCODER = ("_name_or_path", "architectures", "transformers_version")
_OF_A_CALL = ("padding", "truncation")


def check_cacheable(model: nn.Module, args: LayerFusionTrainingArguments) -> None:
    """Checks that the states of the model's encoder can be cached, where the arguments ask for it.

    Raises:
        UserError: a model that takes no states, an encoder that is trained, or one that sees padding.
    """
    if args.cache_frozen_states is None:
        return
    reader = getattr(model, "base_model", None)
    if not isinstance(model, PreTrainedModel) or not hasattr(reader, "read_states"):
        raise UserError(
            "cache_frozen_states needs a model that takes encoder_states in place of ids, found "
            f"{type(model).__name__}; use BertForGRUFusionClassification or BertWithPoolingModule, or leave it out"
        )
    (encoder,) = encoders_of(model)
    trained = [name for name, parameter in encoder.named_parameters() if parameter.requires_grad]
    if trained:
        raise UserError(
            f"cache_frozen_states needs a frozen encoder, found {len(trained)} of its weights trained, such as "
            f"{trained[0]}; set freeze_encoder=True"
        )
    if not getattr(model.config, "mask_padding", True):
        raise UserError(
            "cache_frozen_states needs states that do not depend on padding, found mask_padding=False; leave out one "
            "of them"
        )


def tokenizer_digest(tokenizer: Any) -> str | None:
    """A hash of all that a tokenizer does to a text, but for padding and truncation; `None` where there is none."""
    if not hasattr(tokenizer, "get_vocab"):
        return None
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = {"class": type(tokenizer).__name__, "vocabulary": tokenizer.get_vocab()}
    if backend is not None:
        rules = {name: rule for name, rule in json.loads(backend.to_str()).items() if name not in _OF_A_CALL}
    return sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()


class StateCollator:
    """Batches that hold the cached states of texts in place of their ids; those of other texts stay as they are.

    Args:
        collate: makes a batch of rows of ids.
        cache: the states.

    Returns, when called:
        `encoder_states` `[B, R, T, H]`, padded with zeros on the right, their `attention_mask` `[B, T]`, and of the
        batch what is not the encoder's.
    """

    def __init__(self, collate: Callable[[list[Row]], Any], cache: StateCache) -> None:
        self.collate = collate
        self.cache = cache

    def __call__(self, rows: list[Row]) -> dict[str, Any]:
        batch = dict(self.collate(rows))
        keys = [text_key(row) for row in rows]
        if not all(key in self.cache for key in keys):
            return batch
        states = [self.cache[key] for key in keys]
        length = max(each.shape[1] for each in states)
        padded = states[0].new_zeros(len(states), self.cache.num_layers, length, self.cache.width)
        mask = torch.zeros(len(states), length, dtype=torch.long)
        for row, each in enumerate(states):
            padded[row, :, : each.shape[1]] = each
            mask[row, : each.shape[1]] = 1
        others = {name: value for name, value in batch.items() if name not in ENCODER_INPUTS}
        return {**others, ENCODER_STATES: padded, "attention_mask": mask}


class _Found(NamedTuple):
    """Where a text stands, its length with padding, and the tokens that are kept of it."""

    dataset: TaskDataset
    row: int
    length: int
    tokens: int


def _batch_of(text: _Found) -> tuple[int, int]:
    return text.length, id(text.dataset)


def _versions(module: nn.Module) -> list[tuple[int, int]]:
    """What changes when a weight is replaced or written to."""
    return [(weight.data_ptr(), weight._version) for weight in (*module.parameters(), *module.buffers())]


class FrozenStates(Trainer):
    """With `cache_frozen_states`, the encoder reads each text of the training and evaluation data once, as at
    inference; training and evaluation then begin at the fuser. What `predict` is given goes through the encoder."""

    args: LayerFusionTrainingArguments
    train_dataset: Any
    eval_dataset: Any
    data_collator: Any
    _states: StateCache | None = None
    _read_with: list[tuple[int, int]] | None = None

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """As the stock method."""
        self._states = None  # the data may be others
        return super().train(*args, **kwargs)

    def call_model_init(self, trial: Any = None) -> PreTrainedModel:
        """As the stock method."""
        self._states = None
        return super().call_model_init(trial)

    def get_train_dataloader(self) -> DataLoader:
        """As the stock method; its batches hold states in place of ids."""
        with self._collating_states():
            return super().get_train_dataloader()

    def get_eval_dataloader(self, eval_dataset: str | Dataset | None = None) -> DataLoader:
        """As the stock method; its batches hold states in place of ids where these are texts of training."""
        with self._collating_states():
            return super().get_eval_dataloader(eval_dataset)

    def floating_point_ops(self, inputs: dict[str, Tensor | Any]) -> int:
        """As the stock method; of a batch of states, 6 for each token and trained parameter."""
        states = inputs.get(ENCODER_STATES)
        if states is None:
            return super().floating_point_ops(inputs)
        trained = sum(parameter.numel() for parameter in self._model.parameters() if parameter.requires_grad)
        return 6 * states.shape[0] * states.shape[2] * trained

    @property
    def _model(self) -> PreTrainedModel:
        return cast(PreTrainedModel, self.model)

    @contextmanager
    def _collating_states(self) -> Iterator[None]:
        given = self.data_collator
        if self.args.cache_frozen_states is not None:
            (encoder,) = encoders_of(self._model)
            # A checkpoint may have brought other weights, or the user.
            if self._states is None or self._read_with != _versions(encoder):
                self._read_with = _versions(encoder)
                self._states = self._filled_cache()
            self.data_collator = StateCollator(given, self._states)
        try:
            yield
        finally:
            self.data_collator = given

    def _filled_cache(self) -> StateCache:
        """The cache with the states of all texts of training and evaluation."""
        (encoder,) = encoders_of(self._model)
        read = self._model.base_model.states_read
        config: Any = encoder.config
        fields = {name: value for name, value in config.to_dict().items() if name not in _NOT_THE_ENCODER}
        precision = self.accelerator.mixed_precision
        cache = StateCache(
            str(self.args.cache_frozen_states),
            {
                "encoder": {"weights": weights_digest(encoder), "config": fields},
                "attention": config._attn_implementation,
                "tokenizer": tokenizer_digest(self.processing_class),
                "layers": read.layers,
                "tokens": read.tokens,
                "precision": precision,
                "transformers": transformers.__version__,
            },
            len(read.layers),
            read.width,
            STORED.get(precision, self._model.dtype),
        )
        texts = dict(self._texts(read.tokens == "all"))
        new = cache.missing(texts)
        missing = {key: text for key, text in texts.items() if key in new}
        tokens = sum(text.tokens for text in missing.values())
        logger.info(
            f"cache_frozen_states: of {len(texts):,} texts {len(missing):,} are new; the encoder reads them once, "
            f"without dropout; their states take {gigabytes(cache.bytes_of(tokens))} in {cache.folder}"
        )
        if missing:
            cache.check_room(tokens)
        self._write(cache, missing)
        return cache

    def _texts(self, every_token: bool) -> Iterator[tuple[bytes, _Found]]:
        """The texts of training and evaluation by their keys."""
        given = self.eval_dataset
        evaluation = list(given.values()) if isinstance(given, Mapping) else [given]
        for rows in [self.train_dataset, *evaluation]:
            if rows is None:
                continue
            if not has_length(rows):
                raise UserError(
                    "cache_frozen_states needs data of a known length, found a stream of "
                    f"{type(rows).__name__}; load it without streaming or leave the option out"
                )
            dataset = TaskDataset("one", rows, "training")
            names = [name for name in ENCODER_INPUTS if name in dataset.columns]
            for index, values in enumerate(zip(*map(dataset.column, names), strict=True)):
                row = dict(zip(names, values, strict=True))
                length = len(row["input_ids"])
                tokens = int(sum(row.get("attention_mask", [1] * length))) if every_token else 1
                yield text_key(row), _Found(dataset, index, length, tokens)

    def _write(self, cache: StateCache, missing: Mapping[bytes, _Found]) -> None:
        """Computes and writes the states of texts, each process its part."""
        args = self.args
        # All processes must agree on what is missing before one of them, or of another run, adds to it.
        self.accelerator.wait_for_everyone()
        mine = sorted(
            (
                key
                for key in missing
                if int.from_bytes(key[:4], "big") % args.world_size == args.process_index
            ),
            key=lambda key: _batch_of(missing[key]),
        )
        found = [missing[key] for key in mine]
        cache.write(mine, [text.tokens for text in found], self._computed(found))
        self.accelerator.wait_for_everyone()
        cache.refresh()
        lost = cache.missing(missing)
        if lost:
            raise UserError(
                f"cache_frozen_states={args.cache_frozen_states} must be a folder that all processes share, found "
                f"{len(lost):,} texts of other processes missing in it; name such a folder"
            )

    def _computed(self, texts: list[_Found]) -> Iterator[Tensor]:
        """The states `[R, T, H]` of each text. Only texts of one length are put into a batch, so that no padding is
        added that an encoder could see, and only those of one data set, which have the same columns."""
        model, was_training = self._model, self._model.training
        read = model.base_model.states_read
        model.eval()
        try:
            for _, group in groupby(texts, key=_batch_of):
                alike = list(group)
                for start in range(0, len(alike), self.args.eval_batch_size):
                    rows = [
                        text.dataset[text.row] for text in alike[start : start + self.args.eval_batch_size]
                    ]
                    inputs = {
                        name: torch.as_tensor(
                            np.stack([np.asarray(row[name]) for row in rows]), device=model.device
                        )
                        for name in ENCODER_INPUTS
                        if name in rows[0]
                    }
                    with torch.no_grad(), self.accelerator.autocast():
                        states = model.base_model.read_states(**inputs).cpu()
                    for row, each in zip(rows, states, strict=True):
                        kept = read.tokens == "all" and "attention_mask" in row
                        yield each[:, torch.as_tensor(row["attention_mask"]).bool()] if kept else each
        finally:
            model.train(was_training)
