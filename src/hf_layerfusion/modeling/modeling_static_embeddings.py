"""Static word embeddings (GloVe, word2vec, fastText, SynGCN) as an encoder of one layer."""

from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import can_return_tuple

from .configuration_static_embeddings import StaticEmbeddingsConfig
from .empty_texts import pads_empty_texts
from .word_encoders import WordEncoder, shown_states


class StaticEmbeddingsModel(WordEncoder):
    """A table of word vectors as an encoder with L = 1: a word's state is its row, whatever stands around it."""

    config: StaticEmbeddingsConfig
    config_class = StaticEmbeddingsConfig

    def __init__(self, config: StaticEmbeddingsConfig):
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.freeze_embeddings()
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the word embeddings."""
        return self.embeddings

    def set_input_embeddings(self, value: Any) -> None:
        """Replace the word embeddings."""
        self.embeddings = value
        self.freeze_embeddings()

    @pads_empty_texts
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutput:
        """Look words up.

        Args:
            input_ids: word ids `[B, T]`.
            attention_mask: not needed, as no word sees another; padding ids have vectors of zeros.
            inputs_embeds: `[B, T, H]` in place of `input_ids`.
            output_hidden_states: returns `hidden_states` too: the vectors, twice (as embeddings and as layer 1).
            kwargs: arguments of other encoders; ignored.

        Returns:
            `last_hidden_state` `[B, T, H]`.

        Raises:
            ValueError: both or neither of `input_ids` and `inputs_embeds`.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("exactly one of `input_ids` and `inputs_embeds` must be given; give the ids.")
        states = self.embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        return shown_states([states], self.config, output_hidden_states)

    @property
    def embedded_size(self) -> int:
        """Width of what stands for a word in a stack of embeddings."""
        return self.config.hidden_size

    def read_texts(
        self, embedded: torch.Tensor, real: torch.Tensor, types: torch.Tensor | None
    ) -> list[torch.Tensor]:
        """Return the only layer's states in a stack of embeddings: the vectors themselves, zeros at padding."""
        return [embedded.masked_fill(~real.unsqueeze(-1), 0.0)]
