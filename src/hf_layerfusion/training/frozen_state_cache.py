"""A Trainer whose frozen encoder runs once for each text, however many epochs there are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedModel, Trainer
from transformers.trainer_utils import TrainOutput

from hf_layerfusion.errors import UserError
from hf_layerfusion.regularizers.encoder_layers import get_encoders
from hf_layerfusion.training.state_cache import ENCODER_INPUTS, StateCache, encoder_inputs, text_key
from hf_layerfusion.training.state_reader import StateReader, texts_of
from hf_layerfusion.training.task_data import Row
from hf_layerfusion.training.training_arguments import LayerFusionTrainingArguments

ENCODER_STATES = "encoder_states"
"""What a batch holds in place of the encoder's inputs: `[B, R, T, H]`."""

STORED = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""How states lie on disk, by the run's precision; else as the model computes."""


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
    (encoder,) = get_encoders(model)
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


class StateCollator:
    """Batches that hold the cached states of texts in place of their ids; those of other texts stay as they are.

    Args:
        collate: makes a batch of rows of ids.
        cache: the states.
        inputs: the names of the encoder's inputs.

    Returns, when called:
        `encoder_states` `[B, R, T, H]`, padded with zeros on the right, their `attention_mask` `[B, T]`, and what the
        batch holds beside the encoder's inputs. Where the texts of pairs stand apart, `[B, 2, R, T, H]` and
        `[B, 2, T]`.
    """

    def __init__(
        self,
        collate: Callable[[list[Row]], Any],
        cache: StateCache,
        inputs: Sequence[str] = ENCODER_INPUTS,
    ) -> None:
        self.collate = collate
        self.cache = cache
        self.inputs = inputs

    def __call__(self, rows: list[Row]) -> dict[str, Any]:
        batch = dict(self.collate(rows))
        texts = [texts_of(row, self.inputs) for row in rows]
        keys = [text_key(text, self.inputs) for of_row in texts for text in of_row]
        if not all(key in self.cache for key in keys):
            return batch
        states = [self.cache[key] for key in keys]
        length = max(each.shape[1] for each in states)
        padded = states[0].new_zeros(len(states), self.cache.num_layers, length, self.cache.width)
        mask = torch.zeros(len(states), length, dtype=torch.long)
        for row, each in enumerate(states):
            padded[row, :, : each.shape[1]] = each
            mask[row, : each.shape[1]] = 1
        if len(texts[0]) == 2:
            padded, mask = padded.unflatten(0, (-1, 2)), mask.unflatten(0, (-1, 2))
        others = {name: value for name, value in batch.items() if name not in self.inputs}
        return {**others, ENCODER_STATES: padded, "attention_mask": mask}


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

    def training_states(self) -> Iterator[dict[str, Any]]:
        """Yield the training data in the order of its rows, every row in every process: states and labels."""
        with self._collating_states():
            collate = self.data_collator
        columns = (*encoder_inputs(self.model), "labels")
        rows = DataLoader(
            self.train_dataset,
            self.args.eval_batch_size,
            collate_fn=lambda batch: collate([{n: row[n] for n in columns if n in row} for row in batch]),
        )
        yield from rows

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
            (encoder,) = get_encoders(self._model)
            # A checkpoint may have brought other weights, or the user.
            if self._states is None or self._read_with != _versions(encoder):
                self._read_with = _versions(encoder)
                self._states = self._filled_cache()
            self.data_collator = StateCollator(given, self._states, encoder_inputs(self.model))
        try:
            yield
        finally:
            self.data_collator = given

    def _filled_cache(self) -> StateCache:
        """Return the cache, filled with the states of all texts of training and evaluation."""
        given = self.eval_dataset
        evaluation = list(given.values()) if isinstance(given, Mapping) else [given]
        precision = self.accelerator.mixed_precision
        reader = StateReader(
            self._model,
            self.processing_class,
            str(self.args.cache_frozen_states),
            self.args.eval_batch_size,
            precision,
            self.accelerator.autocast,
            STORED.get(precision),
            self.args.process_index,
            self.args.world_size,
            self.accelerator.wait_for_everyone,
        )
        return reader.fill([self.train_dataset, *evaluation])
