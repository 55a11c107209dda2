"""Batches that hold the cached states of a frozen encoder, which thus reads each text once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import DataCollatorWithPadding, PreTrainedModel

from hf_layerfusion.errors import UserError
from hf_layerfusion.regularizers.encoder_layers import get_encoders
from hf_layerfusion.training.collators import PaddingCollator
from hf_layerfusion.training.samplers import is_apart
from hf_layerfusion.training.state_cache import ENCODER_INPUTS, StateCache, encoder_inputs, text_key
from hf_layerfusion.training.state_reader import StateReader, source_of_states, texts_of
from hf_layerfusion.training.task_data import Row
from hf_layerfusion.training.training_arguments import LayerFusionTrainingArguments

ENCODER_STATES = "encoder_states"
"""The key under which a batch holds states `[B, R, T, H]` in place of the encoder's inputs."""

STORED = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""The default type of stored states, by the run's precision; any other run stores them as the model computes them."""


def check_cacheable(model: nn.Module, args: LayerFusionTrainingArguments) -> None:
    """Check that the states of the model's encoder can be cached, if the arguments ask for it.

    Raises:
        UserError: A model that takes no states, one that trains its encoder, or does not after `head_first_epochs`, or
            an encoder that sees padding.
    """
    if args.cache_frozen_states is None and args.head_first_epochs is None:
        return
    option = "head_first_epochs" if args.cache_frozen_states is None else "cache_frozen_states"
    if not isinstance(model, PreTrainedModel) or not hasattr(source_of_states(model), "read_states"):
        raise UserError(
            f"{option} needs a model that takes encoder_states in place of ids, found {type(model).__name__}; use "
            "BertForGRUFusionClassification, BertWithPoolingModule or CerbertusForMultitask, or leave it out"
        )
    if not getattr(model.config, "has_one_encoder", True):
        raise UserError(
            f"{option} needs one encoder that all tasks share, found encoders={','.join(model.config.encoders)} with "
            f"num_task_layers={model.config.num_task_layers}; set encoders=shared and num_task_layers=0"
        )
    (encoder,) = get_encoders(model)
    trained = [name for name, parameter in encoder.named_parameters() if parameter.requires_grad]
    if trained and args.cache_frozen_states is not None:
        raise UserError(
            f"cache_frozen_states needs a frozen encoder, found {len(trained)} of its weights trained, such as "
            f"{trained[0]}; set freeze_encoder=True"
        )
    if not trained and args.cache_frozen_states is None:
        raise UserError(
            "head_first_epochs is followed by training of the encoder, found all its weights frozen; leave it out, or "
            "set freeze_encoder and cache_frozen_states"
        )
    if getattr(model.config, "window_size", None) is not None:
        raise UserError(
            f"{option} needs texts that the encoder reads whole, found window_size={model.config.window_size}; leave "
            "out one of them"
        )
    if not getattr(model.config, "mask_padding", True):
        raise UserError(
            f"{option} needs states that do not depend on padding, found mask_padding=False; leave out one of them"
        )


PADDING_COLLATORS = (PaddingCollator, DataCollatorWithPadding)
"""Collators that make nothing but the encoder's inputs of a row's inputs."""
LABEL_COLUMNS = frozenset({"labels", "label", "label_ids"})


class StateCollator:
    """Puts the cached states of texts in place of their ids; batches with a text that is not cached stay as they are.

    Args:
        collate: Makes a batch of rows of ids.
        cache: The states.
        inputs: The names of the encoder's inputs.

    Returns, when called:
        `encoder_states` `[B, R, T, H]`, padded with zeros on the right, their `attention_mask` `[B, T]`, and what the
        batch holds beside the encoder's inputs. Where the texts of pairs are encoded apart, `[B, 2, R, T, H]` and
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
        texts = [texts_of(row, self.inputs) for row in rows]
        keys = [text_key(text, self.inputs) for of_row in texts for text in of_row]
        if not all(key in self.cache for key in keys):
            return dict(self.collate(rows))
        states, mask = padded_states([self.cache[key] for key in keys])
        if len(texts[0]) == 2:
            states, mask = states.unflatten(0, (-1, 2)), mask.unflatten(0, (-1, 2))
        others = {name: value for name, value in self._collated(rows).items() if name not in self.inputs}
        return {**others, ENCODER_STATES: states, "attention_mask": mask}

    def _collated(self, rows: list[Row]) -> Any:
        """Return the batch of rows whose texts are not used; padding takes longer than all else that is done here."""
        if type(self.collate) not in PADDING_COLLATORS or rows[0].keys() - {*self.inputs} - LABEL_COLUMNS:
            return self.collate(rows)
        return self.collate([{**row, **_first_tokens(row, self.inputs)} for row in rows])


def padded_states(states: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return states `[R, T, H]` of texts as `[B, R, T, H]`, with zeros on the right, and their mask `[B, T]`."""
    lengths = [each.shape[1] for each in states]
    length = max(lengths)
    if min(lengths) == length:
        return torch.stack(list(states)), torch.ones(len(states), length, dtype=torch.long)
    num_layers, _, width = states[0].shape
    padded = states[0].new_zeros(len(states), num_layers, length, width)
    mask = torch.zeros(len(states), length, dtype=torch.long)
    for row, each in enumerate(states):
        padded[row, :, : each.shape[1]] = each
        mask[row, : each.shape[1]] = 1
    return padded, mask


def _first_tokens(row: Row, inputs: Sequence[str]) -> Row:
    """Return the encoder's inputs of a row, cut to the first token of each text."""
    is_pair = is_apart(row["input_ids"])
    return {
        name: [text[:1] for text in row[name]] if is_pair else row[name][:1] for name in inputs if name in row
    }


class FrozenStateCache:
    """The states of a run's training and evaluation texts, computed once and again only for another encoder.

    Args:
        args: `cache_frozen_states`, and batch sizes and processes.
        tokenizer: Made the ids.
    """

    def __init__(self, args: LayerFusionTrainingArguments, tokenizer: Any) -> None:
        self.args, self.tokenizer = args, tokenizer
        self.further: list[Any] = []
        """Data sets whose texts are cached beside those of training and evaluation, such as the test data."""
        self.reset()

    def reset(self) -> None:
        """Read the texts again when states are next asked for: the data may have changed."""
        self.states: StateCache | None = None
        self._read_with: list[tuple[int, int]] | None = None

    def collator(
        self, collate: Any, model: PreTrainedModel, accelerator: Accelerator, datasets: Iterable[Any]
    ) -> StateCollator:
        """Return a collator whose batches hold the states of the texts of `datasets`.

        Args:
            collate: Makes a batch of rows of ids.
            model: The model; states are computed again once its encoder has other weights.
            accelerator: Gives the precision, and waits for all processes.
            datasets: The data sets to cache, or dictionaries of them; None is skipped.

        Raises:
            UserError: As `StateReader.fill`.
        """
        (encoder,) = get_encoders(model)
        # A checkpoint, or the user, may have brought other weights.
        if self.states is None or self._read_with != _versions(encoder):
            self._read_with = _versions(encoder)
            each = [
                rows
                for given in (*datasets, *self.further)
                for rows in (given.values() if isinstance(given, Mapping) else [given])
            ]
            self.states = self._reader(model, accelerator).fill(each)
        return StateCollator(collate, self.states, encoder_inputs(model))

    def present(self, collate: Any, model: PreTrainedModel) -> Any:
        """Return a collator as `collator` does, but compute nothing, so that a single process can call this method.

        Where there are no states of the model's encoder, this is `collate`.
        """
        if self.states is None or self._read_with != _versions(get_encoders(model)[0]):
            return collate
        return StateCollator(collate, self.states, encoder_inputs(model))

    def _dtype(self, precision: str) -> torch.dtype | None:
        """Return the type of the states on disk; None for that of the model."""
        if self.args.frozen_states_dtype is None:
            return STORED.get(precision)
        dtype: torch.dtype = getattr(torch, self.args.frozen_states_dtype)
        return dtype

    def _reader(self, model: PreTrainedModel, accelerator: Accelerator) -> StateReader:
        return StateReader(
            model,
            self.tokenizer,
            str(self.args.cache_frozen_states),
            self.args.eval_batch_size,
            accelerator.mixed_precision,
            accelerator.autocast,
            self._dtype(accelerator.mixed_precision),
            self.args.process_index,
            self.args.world_size,
            accelerator.wait_for_everyone,
        )


def rows_in_order(
    dataset: Any, collate: Callable[[list[Row]], Any], batch_size: int, inputs: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Yield the rows of a data set in their order, `inputs` and labels, every row in every process."""
    columns = (*inputs, "labels")
    yield from DataLoader(
        dataset,
        batch_size,
        collate_fn=lambda batch: collate([{n: row[n] for n in columns if n in row} for row in batch]),
    )


def count_operations(states: Tensor, optimizer: Any) -> int:
    """Return the floating-point operations of a training pass on states `[…, R, T, H]`: 6 for each token and parameter
    that the optimizer trains."""
    trained = sum(parameter.numel() for group in optimizer.param_groups for parameter in group["params"])
    return 6 * states[..., 0, :, 0].numel() * trained


def _versions(module: nn.Module) -> list[tuple[int, int]]:
    """Return numbers that change when a weight is replaced or written to."""
    return [(weight.data_ptr(), weight._version) for weight in (*module.parameters(), *module.buffers())]
