"""The base of encoders whose positions are words: static vectors, ELMo, Flair and stacks of these."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import can_return_tuple

from .empty_texts import pads_empty_texts
from .encoders import without_pooler


class WordEncoder(PreTrainedModel):
    """An encoder that gives each word a vector a layer, and is frozen unless `config.train_embeddings` is set.

    A frozen encoder's dropout stays off in training.
    """

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Load a model and freeze its weights again, because loading replaces them."""
        loaded = super().from_pretrained(*args, **kwargs)
        (loaded[0] if isinstance(loaded, tuple) else loaded).freeze_embeddings()
        return loaded

    def freeze_embeddings(self) -> None:
        """Switch off all gradients unless `config.train_embeddings` is set."""
        if not self.config.train_embeddings:
            self.requires_grad_(False)

    def train(self, mode: bool = True) -> "WordEncoder":
        """Set the training mode; a frozen encoder stays in evaluation mode."""
        return super().train(mode and self.config.train_embeddings)


class ContextualWordEncoder(WordEncoder):
    """A `WordEncoder` that reads the characters of a text's words.

    Each text is read by itself: its states depend on no other text of the batch, on none before it, and not on padding,
    on whichever side that stands. Of a pair, whose second text has `token_type_ids` of 1, each text is read by itself.
    """

    words: nn.Module
    """The identity, through which each word's vector goes before the layers read it."""

    @abstractmethod
    def embed_words(self, char_ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Return a vector of each word, `[B, T, E]`.

        Args:
            char_ids: code points `[B, T, W]`; the first words of a row are real.
            lengths: number of real words of each row, `[B]`.
        """

    @abstractmethod
    def read_words(self, embedded: torch.Tensor, lengths: torch.Tensor) -> list[torch.Tensor]:
        """Return the states of the L layers, `[B, T, H]` each, from what `embed_words` gives."""

    @property
    @abstractmethod
    def embedded_size(self) -> int:
        """E, the width of what `embed_words` gives."""

    def get_input_embeddings(self) -> nn.Module:
        """Return the module whose output is a vector of each word, `[B, T, E]`."""
        return self.words

    def set_input_embeddings(self, value: Any) -> None:
        """Raise `NotImplementedError`, as the vocabulary cannot grow."""
        raise NotImplementedError(
            f"'{self.config.model_type}' reads characters of a fixed table, which cannot grow."
        )

    @pads_empty_texts
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        char_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutput:
        """Encode words.

        Args:
            input_ids: word ids `[B, T]`; not read, as `char_ids` say more.
            attention_mask: `[B, T]`, 1 for real words; by default all words that have characters.
            token_type_ids: `[B, T]`, 1 for the words of a pair's second text.
            char_ids: code points of each word's characters, `[B, T, W]`, 0 at padding.
            inputs_embeds: `[B, T, E]`, the output of `get_input_embeddings()`, in place of `char_ids`.
            output_hidden_states: returns `hidden_states` too: the first layer's twice, then those of the others.
            kwargs: arguments of other encoders; ignored.

        Returns:
            `last_hidden_state` `[B, T, H]`, zeros at padding.

        Raises:
            ValueError: both or neither of `char_ids` and `inputs_embeds`.
        """
        if (char_ids is None) == (inputs_embeds is None):
            raise ValueError(
                f"exactly one of `char_ids` and `inputs_embeds` must be given to '{self.config.model_type}', found "
                f"{'neither' if char_ids is None else 'both'}; {_ALL_INPUTS}"
            )
        real = real_words(attention_mask, inputs_embeds, char_ids)
        embedded = (
            self.embed_texts(char_ids, real, token_type_ids) if inputs_embeds is None else inputs_embeds
        )
        states = self.read_texts(self.words(embedded), real, token_type_ids)
        return shown_states(states, self.config, output_hidden_states)

    def embed_texts(
        self, char_ids: torch.Tensor | None, real: torch.Tensor, types: torch.Tensor | None
    ) -> torch.Tensor:
        """Return a vector of each word, `[B, T, E]`, wherever padding stands.

        Args:
            char_ids: as in `forward`.
            real: `[B, T]`, true for real words.
            types: `token_type_ids`.

        Raises:
            ValueError: if `char_ids` are missing.
        """
        if char_ids is None:
            raise ValueError(
                f"`char_ids` must be given to '{self.config.model_type}', found none; {_ALL_INPUTS}"
            )
        char_ids = without_padding(char_ids)
        return by_text(lambda *ordered: [self.embed_words(*ordered)], char_ids, real, types)[0]

    def read_texts(
        self, embedded: torch.Tensor, real: torch.Tensor, types: torch.Tensor | None
    ) -> list[torch.Tensor]:
        """Return the states of the L layers, `[B, T, H]` each, zeros at padding; see `embed_texts`."""
        return by_text(self.read_words, embedded, real, types)


_ALL_INPUTS = (
    "give all that its tokenizer returns (in a plain transformers.Trainer with remove_unused_columns=False)."
)


@torch.compiler.disable
def without_padding(char_ids: torch.Tensor) -> torch.Tensor:
    """Return characters `[B, T, W]` without the columns that are padding in every word."""
    longest = int(char_ids.ne(0).any(dim=0).any(dim=0).sum())
    return char_ids[..., : max(1, longest)]


# Which words are real and where they stand depends on values.
@torch.compiler.disable
def by_text(
    function: Callable[[torch.Tensor, torch.Tensor], list[torch.Tensor]],
    given: torch.Tensor,
    real: torch.Tensor,
    types: torch.Tensor | None,
) -> list[torch.Tensor]:
    """Return what `function` makes of each text, with zeros at padding.

    Args:
        function: takes rows whose first words are real, and the number of these; returns tensors `[B, T, F]`.
        given: of each word, `[B, T, …]`.
        real: `[B, T]`, true for real words.
        types: `[B, T]`, 1 for the second text of a pair, or `None`.
    """
    second = None if types is None else types.bool() & real
    if second is not None and second.any():
        both = by_text(function, torch.cat([given, given]), torch.cat([real & ~second, second]), None)
        return [first + other for first, other in (found.chunk(2) for found in both)]
    # Real words first, in their order: the identity for padding on the right.
    order = torch.argsort(~real, dim=1, stable=True).unsqueeze(-1)
    place = torch.argsort(order, dim=1)
    ordered = given.gather(1, order.expand_as(given))
    return [
        found.gather(1, place.expand_as(found)).masked_fill(~real.unsqueeze(-1), 0.0)
        for found in function(ordered, real.sum(dim=1))
    ]


def real_words(
    attention_mask: torch.Tensor | None,
    inputs_embeds: torch.Tensor | None,
    char_ids: torch.Tensor | None,
    input_ids: torch.Tensor | None = None,
    pad_token_id: int | None = None,
) -> torch.Tensor:
    """Return a mask of the real words, `[B, T]`.

    Those are the words of `attention_mask`; without one all of `inputs_embeds` `[B, T, E]`, the words of `char_ids`
    `[B, T, W]` that have characters, or the words of `input_ids` `[B, T]` that are no padding.
    """
    if attention_mask is not None:
        return attention_mask.bool()
    if inputs_embeds is not None:
        return inputs_embeds.new_ones(inputs_embeds.shape[:2], dtype=torch.bool)
    if char_ids is not None:
        return char_ids.ne(0).any(dim=-1)
    return cast(torch.Tensor, input_ids).ne(cast(int, pad_token_id))


def build_inner(settings: Mapping[str, Any], classes: Iterable[Any]) -> Any:
    """Return an encoder inside of another one, with random weights.

    Args:
        settings: its configuration, with `model_type`.
        classes: models that are built by their class, as the Auto classes do not know them where the code is that of a
            checkpoint; they build all others.
    """
    others = {name: value for name, value in settings.items() if name != "model_type"}
    for model_class in classes:
        if model_class.config_class.model_type == settings["model_type"]:
            return model_class._from_config(model_class.config_class(**others))
    config = AutoConfig.for_model(settings["model_type"], **others)
    return AutoModel.from_config(config, **without_pooler(config))


def shown_states(states: list[torch.Tensor], config: Any, asked: bool | None) -> BaseModelOutput:
    """Return the states of L layers as an encoder's output: `hidden_states`, the first layer's twice, where asked."""
    shown = config.output_hidden_states if asked is None else asked
    return BaseModelOutput(
        last_hidden_state=states[-1], hidden_states=(states[0], *states) if shown else None
    )
