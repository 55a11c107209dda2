"""Objectives for training an encoder on texts without labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import exp
from typing import Any, ClassVar

import torch
from accelerate.utils import extract_model_from_parallel
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    DataCollatorForLanguageModeling,
    DataCollatorForTokenClassification,
    PreTrainedTokenizerBase,
)

from hf_layerfusion.errors import UserError, nearest
from hf_layerfusion.regularizers.simcse import simcse_loss
from hf_layerfusion.training.class_balance import IGNORED
from hf_layerfusion.training.collators import Batch, PaddingCollator
from hf_layerfusion.training.task_data import LABELS, Row
from hf_layerfusion.training.text_stream import DRAW

Collator = Callable[[list[Row]], Batch]


class Objective(ABC):
    """Makes batches of texts and a loss of a batch. A new one is a subclass, a dataclass of its settings, and a row in
    `OBJECTIVES`.

    Attributes:
        model_class: the Auto class that its model is loaded by.
        least_batch: texts that a device's batch must have for there to be something to learn.
    """

    model_class: ClassVar[Any]
    least_batch: ClassVar[int] = 1

    @abstractmethod
    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Collator:
        """Return the collator for rows of a `TextStream`.

        Raises:
            UserError: a tokenizer that the objective cannot do with.
        """

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean loss of a batch, over its labels other than -100, or over its rows if it has none.

        Args:
            model: of `model_class`, bare or wrapped for several processes.
            batch: as the collator makes it.
        """

    def metrics(self, loss: float) -> dict[str, float]:
        """Return further metrics that follow from the loss on held-out texts, by name."""
        return {}


class SeededMasking(DataCollatorForLanguageModeling):
    """transformers' masking, but the masks of a row are drawn by its own seed and do not depend on its batch."""

    def __call__(self, features: list[Row], return_tensors: str | None = None) -> Batch:
        return dict(self.padding(list(map(self.mask, features))))

    def mask(self, row: Row) -> Row:
        """Return the row with its masks, and labels for the masked tokens."""
        self.generator = torch.Generator().manual_seed(row[DRAW])
        masked = self.torch_call([{name: value for name, value in row.items() if name != DRAW}])
        return {name: values[0].tolist() for name, values in masked.items()}

    @property
    def padding(self) -> DataCollatorForTokenClassification:
        """The collator that pads rows and their labels."""
        return DataCollatorForTokenClassification(self.tokenizer, label_pad_token_id=IGNORED)


@dataclass(kw_only=True)
class MaskedLanguageModeling(Objective):
    """Masked language modeling: of the chosen tokens 80 % become the mask, 10 % another token, 10 % stay (Devlin et
    al. 2019, section 3.1; SerBERTus, section 4.3.7).

    The head computes logits for the chosen tokens alone, which changes nothing but the time: it is as large as an
    encoder of six layers.

    Args:
        mlm_probability: the share of tokens that are chosen.

    Raises:
        UserError: a share out of its range.
    """

    model_class: ClassVar[Any] = AutoModelForMaskedLM

    mlm_probability: float = 0.15

    def __post_init__(self) -> None:
        if not 0 < self.mlm_probability < 1:
            raise UserError(
                f"mlm_probability must lie between 0 and 1, found {self.mlm_probability}; BERT's is 0.15"
            )

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Collator:
        """Return the collator that masks tokens.

        Raises:
            UserError: A tokenizer without a mask token.
        """
        if tokenizer.mask_token is None:
            raise UserError(
                f"objective mlm needs a tokenizer with a mask token, found {type(tokenizer).__name__} without; "
                "choose objective simcse or another encoder"
            )
        return SeededMasking(tokenizer, mlm_probability=self.mlm_probability)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean cross-entropy of the chosen tokens."""
        chosen = batch[LABELS] != IGNORED
        inputs = {**batch, LABELS: batch[LABELS][chosen].unsqueeze(0)}
        with states_selected(extract_model_from_parallel(model), chosen):
            loss: Tensor = model(**inputs).loss
        return loss

    def metrics(self, loss: float) -> dict[str, float]:
        """Return the perplexity, e to the power of the loss."""
        return {"perplexity": exp(loss) if loss < 700 else float("inf")}


@contextmanager
def states_selected(model: Any, chosen: Tensor) -> Iterator[None]:
    """In the block, the head on the encoder of `model` sees the states of `chosen` tokens `[B, T]` alone, as one row
    `[1, M, H]`."""

    def select(encoder: nn.Module, inputs: Any, outputs: Any) -> Any:
        outputs.last_hidden_state = outputs.last_hidden_state[chosen].unsqueeze(0)
        return outputs

    handle = model.base_model.register_forward_hook(select)
    try:
        yield
    finally:
        handle.remove()


POOLINGS = ("mean", "cls")


@dataclass(kw_only=True)
class SimCSE(Objective):
    """Contrastive learning: a text's vectors under two draws of dropout masks are closer than those of other texts
    (unsupervised SimCSE, Gao et al. 2021; ExTraBERT's future work). Dropout stays on for held-out texts too.

    The others are those of a device's batch: more processes or `gradient_accumulation_steps` add none.

    Args:
        pooling: a text's vector: `mean` of its tokens' states, or that of the first token, `cls`.
        temperature: τ.

    Raises:
        UserError: a setting out of its range.
    """

    model_class: ClassVar[Any] = AutoModel
    least_batch: ClassVar[int] = 2

    pooling: str = "mean"
    temperature: float = 0.05

    def __post_init__(self) -> None:
        if self.pooling not in POOLINGS:
            raise UserError(
                f"pooling must be one of {', '.join(POOLINGS)}, found {self.pooling!r}; "
                f"{nearest(self.pooling, POOLINGS)}"
            )
        if not 0 < self.temperature < float("inf"):
            raise UserError(
                f"temperature must be a finite number above 0, found {self.temperature}; SimCSE's is 0.05"
            )

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Collator:
        """Return the collator that pads texts."""
        return PaddingCollator(tokenizer)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the contrastive loss of the texts of a batch."""
        # One pass over each text twice: DDP takes one call a backward, and each row has dropout masks of its own.
        twice = {name: torch.cat([values, values]) for name, values in batch.items()}
        training = model.training
        try:
            states = model.train()(**twice).last_hidden_state
        finally:
            model.train(training)
        first, second = self.vectors(states, twice["attention_mask"]).chunk(2)
        return simcse_loss(first, second, self.temperature)

    def vectors(self, states: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the texts' vectors `[B, H]`, in fp32 at least, from `states` `[B, T, H]`."""
        states = states.to(torch.promote_types(states.dtype, torch.float32))
        if self.pooling == "cls":
            return states[:, 0]
        mask = attention_mask.unsqueeze(-1)
        return (states * mask).sum(dim=1) / mask.sum(dim=1)


OBJECTIVES: dict[str, type[Objective]] = {"mlm": MaskedLanguageModeling, "simcse": SimCSE}
"""Objectives by name."""


def make_objective(asked: str | dict[str, Any] | None) -> Objective:
    """Make the objective of a name, or of `{name: settings}`.

    Raises:
        UserError: an unknown name or setting, or a value out of its range.
    """
    named = {asked: {}} if isinstance(asked, str) else asked or {}
    if len(named) != 1 or not all(isinstance(settings, dict) for settings in named.values()):
        raise UserError(
            f'objective must be a name or one with settings, {{"simcse": {{"pooling": "cls"}}}}, found {asked!r}'
        )
    ((name, settings),) = named.items()
    if name not in OBJECTIVES:
        raise UserError(
            f"objective must be one of {', '.join(OBJECTIVES)}, found {name!r}; {nearest(name, OBJECTIVES)}"
        )
    try:
        return OBJECTIVES[name](**settings)
    except TypeError as error:
        raise UserError(f"objective: {name}: {error}; see the class for its settings") from error
