"""Objectives for training an encoder on texts without labels."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import exp
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from accelerate.utils import extract_model_from_parallel
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    DataCollatorForLanguageModeling,
    DataCollatorForTokenClassification,
    PreTrainedTokenizerBase,
)

from hf_layerfusion.data.sentences import adjacent_sentences, sentence_parts
from hf_layerfusion.errors import UserError, nearest
from hf_layerfusion.metric_registry import IGNORED
from hf_layerfusion.regularizers.simcse import simcse_loss
from hf_layerfusion.training.collators import Batch, PaddingCollator
from hf_layerfusion.training.task_data import LABELS, Row
from hf_layerfusion.training.text_stream import DRAW

Collator = Callable[[list[Row]], Batch]


class Objective(ABC):
    """Makes batches of texts and a loss of a batch. A new one is a subclass, a dataclass of its settings, and a row in
    `OBJECTIVES`.

    Attributes:
        model_class: the Auto class that its model is loaded by.
        least_batch: examples that a device's batch must have for there to be something to learn.
        unit: what an example is, in messages.
        columns: names of the texts of an example.
        uses_pooler: whether the model's pooler is trained.
        needs_argument: an argument that the model's `forward` must have.
    """

    model_class: ClassVar[Any]
    least_batch: ClassVar[int] = 1
    unit: ClassVar[str] = "texts"
    columns: ClassVar[tuple[str, ...]] = ("text",)
    uses_pooler: ClassVar[bool] = False
    needs_argument: ClassVar[str | None] = None

    def examples(self, texts: Iterable[str]) -> Iterator[tuple[str, ...]]:
        """Yield the examples that the texts of a corpus give, each with a text for every one of `columns`.

        They are the same ones whenever the method is called.
        """
        return ((text,) for text in texts)

    def check_model(self, model: nn.Module) -> None:
        """Check that the model has what the objective trains.

        Raises:
            UserError: its `forward` lacks the argument `needs_argument`.
        """
        if self.needs_argument not in (None, *inspect.signature(model.forward).parameters):
            name = next(name for name, objective in OBJECTIVES.items() if type(self) is objective)
            raise UserError(
                f"objective {name} needs an architecture whose pretraining takes {self.needs_argument}, such as BERT, "
                f"found {type(model).__name__}; choose another objective or encoder"
            )

    def encode(
        self, tokenizer: PreTrainedTokenizerBase, max_seq_length: int, *texts: list[str]
    ) -> dict[str, list[Any]]:
        """Return the inputs of a batch of examples, by name.

        Args:
            tokenizer: that of the model.
            max_seq_length: tokens that a text is truncated to.
            *texts: the texts of all examples, a list for each of `columns`.
        """
        return dict(
            tokenizer(*texts, truncation=True, max_length=max_seq_length, return_special_tokens_mask=True)
        )

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


NEXT_SENTENCE = "next_sentence_label"
"""The label of a pair in BERT's pretraining: 1 if its second segment is another text's."""

OTHER_TEXTS = 1000
"""Parts of earlier texts that another segment is drawn from."""


class NextSentenceMasking(SeededMasking):
    """Masks tokens of pairs of segments whose second one is, by the seed of the row, the next or another one."""

    def __call__(self, features: list[Row], return_tensors: str | None = None) -> Batch:
        taken = [row[DRAW] & 1 for row in features]
        rows = [
            {name: value if name == DRAW else value[place] for name, value in row.items()}
            for place, row in zip(taken, features, strict=True)
        ]
        return {**super().__call__(rows), NEXT_SENTENCE: torch.tensor(taken)}


@dataclass(kw_only=True)
class NextSentencePrediction(MaskedLanguageModeling):
    """BERT's own pretraining: masked tokens, and whether the second segment follows the first (Devlin et al. 2019,
    section 3.1), which Xu et al. 2019 continue on reviews as post-training for the tasks of Song et al. 2020.

    A text is divided into parts of about `words` words, and each part at a random end of a sentence. Half of the time
    the second segment is replaced by one of another text. Every example weighs the same: its loss is the mean over its
    chosen tokens plus that of the pair.

    Args:
        mlm_probability: the share of tokens that are chosen.
        words: words of a part, after which the next begins with the next sentence.

    Raises:
        UserError: a value out of its range.
    """

    model_class: ClassVar[Any] = AutoModelForPreTraining
    unit: ClassVar[str] = "pairs of segments"
    columns: ClassVar[tuple[str, ...]] = ("text", "text_pair", "other")
    uses_pooler: ClassVar[bool] = True
    needs_argument: ClassVar[str | None] = NEXT_SENTENCE

    words: int = 200

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.words < 2:
            raise UserError(f"words must be 2 or more, found {self.words}; 200 fill about 320 tokens")

    def examples(self, texts: Iterable[str]) -> Iterator[tuple[str, ...]]:
        """Yield two segments that follow each other and one of another text, which for the first text is the second."""
        generator = np.random.default_rng(0)
        others: deque[list[str]] = deque(maxlen=OTHER_TEXTS)

        def other(parts: Sequence[list[str]]) -> str:
            part = parts[int(generator.integers(len(parts)))]
            return " ".join(part[int(generator.integers(len(part))) :])

        first: list[tuple[str, str]] = []
        for text in texts:
            parts = sentence_parts(text, self.words)
            places = [(part, generator.integers(1, len(part))) for part in parts if len(part) > 1]
            pairs = [(" ".join(part[:place]), " ".join(part[place:])) for part, place in places]
            if not others:
                first = pairs
            else:
                yield from ((*pair, other(parts)) for pair in first)
                yield from ((*pair, other(others)) for pair in pairs)
                first = []
            others.extend(parts)

    def encode(
        self, tokenizer: PreTrainedTokenizerBase, max_seq_length: int, *texts: list[str]
    ) -> dict[str, list[Any]]:
        """Return the inputs of each pair, a list with the next segment and a list with the other."""
        first, *seconds = texts
        following, other = (
            super(NextSentencePrediction, self).encode(tokenizer, max_seq_length, first, second)
            for second in seconds
        )
        return paired(following, other)

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Collator:
        """Return the collator that chooses second segments and masks tokens.

        Raises:
            UserError: A tokenizer without a mask token.
        """
        super().collator(tokenizer)
        return NextSentenceMasking(tokenizer, mlm_probability=self.mlm_probability)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean over the examples of both losses."""
        inputs = {name: values for name, values in batch.items() if name not in (LABELS, NEXT_SENTENCE)}
        chosen = batch[LABELS] != IGNORED
        with states_selected(extract_model_from_parallel(model), chosen):
            output = model(**inputs)
        logits = output.prediction_logits.squeeze(0).float()
        losses = F.cross_entropy(logits, batch[LABELS][chosen], reduction="none")
        of_tokens = losses.new_zeros(len(chosen)).index_add(0, chosen.nonzero()[:, 0], losses)
        of_pairs = F.cross_entropy(
            output.seq_relationship_logits.float(), batch[NEXT_SENTENCE], reduction="none"
        )
        return (of_tokens / chosen.sum(dim=1).clamp(min=1) + of_pairs).mean()

    def metrics(self, loss: float) -> dict[str, float]:
        """Return nothing: the loss is a sum of two."""
        return {}


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
class ContrastiveObjective(Objective):
    """Base class of the objectives that tell the other text of a pair from those of the other pairs of the batch.

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

    def vectors(self, states: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the texts' vectors `[B, H]`, in fp32 at least, from `states` `[B, T, H]`."""
        states = states.to(torch.promote_types(states.dtype, torch.float32))
        if self.pooling == "cls":
            return states[:, 0]
        mask = attention_mask.unsqueeze(-1)
        return (states * mask).sum(dim=1) / mask.sum(dim=1)


@dataclass(kw_only=True)
class SimCSE(ContrastiveObjective):
    """Contrastive learning: a text's vectors under two draws of dropout masks are closer than those of other texts
    (unsupervised SimCSE, Gao et al. 2021). Dropout stays on for held-out texts too."""

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


@dataclass(kw_only=True)
class AdjacentSentences(ContrastiveObjective):
    """Contrastive learning from adjacent sentences: a sentence is closer to its neighbor than to the sentences of other
    pairs (ExTraBERT, section 7, as future work).

    ExTraBERT names "a contrastive pre-training objective using comparison of adjacent sentences in unlabeled corpus
    data" and leaves the rest open. Here the loss is that of Neelakantan et al. 2022 (section 2): cross-entropy over the
    cosines of a batch, both from first sentences to second ones and back. Equal sentences are never negatives of each
    other, so that overlapping pairs of one text can stand in one batch.
    """

    unit: ClassVar[str] = "pairs of adjacent sentences"
    columns: ClassVar[tuple[str, ...]] = ("text", "text_pair")

    def examples(self, texts: Iterable[str]) -> Iterator[tuple[str, ...]]:
        """Yield the pairs of adjacent sentences of each text (`data.sentences`)."""
        return (pair for text in texts for pair in adjacent_sentences(text))

    def encode(
        self, tokenizer: PreTrainedTokenizerBase, max_seq_length: int, *texts: list[str]
    ) -> dict[str, list[Any]]:
        """Return the inputs of pairs whose sentences are encoded separately: two lists for each pair."""
        first, second = (
            tokenizer(sentences, truncation=True, max_length=max_seq_length) for sentences in texts
        )
        return paired(first, second)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the contrastive loss of a batch of pairs, with inputs of `[B, 2, T]`."""
        apart = {name: torch.cat(values.unbind(1)) for name, values in batch.items()}
        states = model(**apart).last_hidden_state
        first, second = self.vectors(states, apart["attention_mask"]).chunk(2)
        return pair_loss(first, second, equal_sentences(batch["input_ids"]), self.temperature)


def paired(first: Mapping[str, list[Any]], second: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """Return the inputs of two encodings of each row: a list of both in every column."""
    return {name: [list(pair) for pair in zip(first[name], second[name], strict=True)] for name in first}


def equal_sentences(input_ids: Tensor) -> Tensor:
    """Return for which pairs i and j `[B, B]` a sentence of i is a sentence of j, other than i and j being the same.

    Args:
        input_ids: `[B, 2, T]`.
    """
    sentences = input_ids.unsqueeze(1).unsqueeze(3) == input_ids.unsqueeze(0).unsqueeze(2)
    return sentences.all(dim=-1).flatten(2).any(dim=-1).fill_diagonal_(False)


def pair_loss(first: Tensor, second: Tensor, excluded: Tensor, temperature: float) -> Tensor:
    """Return the mean of both cross-entropies over a batch's cosines: that of each first vector's own second vector
    among all second ones, and the reverse.

    Source: Neelakantan et al. 2022, section 2.

    Args:
        first: vectors `[B, H]`.
        second: vectors of their partners, `[B, H]`.
        excluded: pairs `[B, B]` that are not compared; not the diagonal.
        temperature: τ, by which the cosines are divided.
    """
    cosines = F.normalize(first, dim=-1) @ F.normalize(second, dim=-1).T
    logits = (cosines / temperature).masked_fill(excluded, float("-inf"))
    own = torch.arange(len(first), device=first.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


OBJECTIVES: dict[str, type[Objective]] = {
    "mlm": MaskedLanguageModeling,
    "mlm_nsp": NextSentencePrediction,
    "simcse": SimCSE,
    "adjacent": AdjacentSentences,
}
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
