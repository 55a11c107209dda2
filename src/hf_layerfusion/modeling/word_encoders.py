"""The base of encoders whose positions are words: static vectors, ELMo, Flair and stacks of these."""

from abc import abstractmethod
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import can_return_tuple


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
            inputs_embeds: `[B, T, E]`, what `embed_words` gives, in place of `char_ids`.
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
                f"{'neither' if char_ids is None else 'both'}; give all that its tokenizer returns (in a plain "
                "transformers.Trainer with remove_unused_columns=False)."
            )
        given: Any = char_ids if inputs_embeds is None else inputs_embeds
        if attention_mask is not None:
            real = attention_mask.bool()
        elif char_ids is not None:
            real = char_ids.ne(0).any(dim=-1)
        else:
            real = given.new_ones(given.shape[:2], dtype=torch.bool)
        states = self.encode_texts(given, real, token_type_ids, inputs_embeds is not None)
        shown = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        return BaseModelOutput(
            last_hidden_state=states[-1], hidden_states=(states[0], *states) if shown else None
        )

    # Which words are real and where they stand depends on values.
    @torch.compiler.disable
    def encode_texts(
        self, given: torch.Tensor, real: torch.Tensor, types: torch.Tensor | None, is_embedded: bool
    ) -> list[torch.Tensor]:
        """Return the L layers' states of the words, `[B, T, H]` each.

        Args:
            given: `char_ids` or `inputs_embeds`.
            real: `[B, T]`, true for real words.
            types: `token_type_ids`.
            is_embedded: whether `given` are embedded words.
        """
        second = None if types is None else types.bool() & real
        if second is not None and second.any():
            rows = torch.cat([real & ~second, second])
            both = self.encode_texts(torch.cat([given, given]), rows, None, is_embedded)
            return [first + other for first, other in (states.chunk(2) for states in both)]
        lengths = real.sum(dim=1)
        # Real words first, in their order: the identity for padding on the right.
        order = torch.argsort(~real, dim=1, stable=True)
        ordered = given.gather(1, order.unsqueeze(-1).expand(-1, -1, given.shape[-1]))
        embedded = ordered if is_embedded else self.embed_words(ordered, lengths)
        states = self.read_words(embedded, lengths)
        place = torch.argsort(order, dim=1).unsqueeze(-1)
        return [
            state.gather(1, place.expand(-1, -1, state.shape[-1])).masked_fill(~real.unsqueeze(-1), 0.0)
            for state in states
        ]
