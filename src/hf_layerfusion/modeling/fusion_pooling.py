"""Pooling one vector a layer over all layers (Song et al. 2020, "Utilizing BERT Intermediate Layers", section 2.2)."""

from abc import abstractmethod
from collections.abc import Generator, Sequence
from typing import Literal

import torch
from torch import nn
from transformers import initialization as init

from .fusion_base import LayerFuser
from .fusion_mix import ScalarMix
from .heads import first_token, reduce_tokens


class LayerPooling(LayerFuser):
    """A sentence fuser: takes one vector of the text from each layer and pools the L vectors.

    Args:
        depth: number L of layers.
        hidden_size: width H of the encoder.
        token_pooling: the text's vector at a layer: `"cls"`, the first token's state (the paper's), or `"mean"`, the
            mean over the real tokens.
    """

    def __init__(self, depth: int, hidden_size: int, token_pooling: Literal["cls", "mean"] = "cls"):
        super().__init__()
        self.depth = depth
        self.token_pooling = token_pooling
        self.output_size = hidden_size

    @property
    def layers(self) -> tuple[int, ...]:
        return tuple(range(self.depth))

    def vector(self, state: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """The text's vector `[B, H]` at a layer of state `[B, T, H]`."""
        if self.token_pooling == "mean":
            return reduce_tokens(state, attention_mask, "mean")
        return first_token(state, attention_mask)

    def vectors(
        self, hidden_states: Sequence[torch.Tensor], attention_mask: torch.Tensor | None
    ) -> torch.Tensor:
        """The text's vector at each of `layers`, `[B, len(layers), H]`."""
        return torch.stack([self.vector(hidden_states[i], attention_mask) for i in self.layers], dim=1)

    @property
    def tokens_read(self) -> Literal["all", "cls", "mean"]:
        return self.token_pooling

    def read(
        self, hidden_states: Sequence[torch.Tensor], attention_mask: torch.Tensor | None
    ) -> torch.Tensor:
        # The first token of one vector is that vector, and so is its mean.
        return self.vectors(hidden_states, attention_mask).unsqueeze(2)

    def forward(
        self, hidden_states: Sequence[torch.Tensor], attention_mask: torch.Tensor | None
    ) -> torch.Tensor:
        return self.pool(self.vectors(hidden_states, attention_mask))

    def stream(self, attention_mask: torch.Tensor | None) -> Generator[None, torch.Tensor, torch.Tensor]:
        vectors = []
        for _ in self.layers:
            vectors.append(self.vector((yield), attention_mask))
        return self.pool(torch.stack(vectors, dim=1))

    @abstractmethod
    def pool(self, vectors: torch.Tensor) -> torch.Tensor:
        """Maps `[B, L, H]` to `[B, H]`."""


class LSTMPooling(LayerPooling):
    """o = h_L of an LSTM over the layers, from abstract to specific (BERT-LSTM)."""

    def __init__(self, depth: int, hidden_size: int, token_pooling: Literal["cls", "mean"] = "cls"):
        super().__init__(depth, hidden_size, token_pooling)
        self.lstm = nn.LSTM(hidden_size, hidden_size, batch_first=True)

    def pool(self, vectors: torch.Tensor) -> torch.Tensor:
        return self.lstm(vectors)[0][:, -1]


class AttentionPooling(LayerPooling):
    """o = W_hᵀ softmax(q h_CLSᵀ) h_CLS with q and W_h learned (BERT-Attention)."""

    def __init__(self, depth: int, hidden_size: int, token_pooling: Literal["cls", "mean"] = "cls"):
        super().__init__(depth, hidden_size, token_pooling)
        self.query = nn.Parameter(torch.empty(hidden_size))
        self.projection = nn.Linear(hidden_size, hidden_size, bias=False)

    def reset_parameters(self) -> None:
        init.normal_(self.query, std=0.02)

    def attention(self, vectors: torch.Tensor) -> torch.Tensor:
        """Weight of each layer, `[B, L]`, adding up to 1."""
        return (vectors @ self.query).softmax(dim=1)

    def layer_weights(
        self, hidden_states: Sequence[torch.Tensor], attention_mask: torch.Tensor | None
    ) -> torch.Tensor:
        return self.attention(self.vectors(hidden_states, attention_mask))

    def pool(self, vectors: torch.Tensor) -> torch.Tensor:
        return self.projection((self.attention(vectors).unsqueeze(1) @ vectors).squeeze(1))


class LastLayer(LayerPooling):
    """o = h_L, the canonical fine-tuning."""

    @property
    def layers(self) -> tuple[int, ...]:
        return (self.depth - 1,)

    def pool(self, vectors: torch.Tensor) -> torch.Tensor:
        return vectors[:, 0]


class MaxPooling(LayerPooling):
    """The largest value of each feature over the layers."""

    def pool(self, vectors: torch.Tensor) -> torch.Tensor:
        return vectors.amax(dim=1)


class MeanPooling(LayerPooling):
    """The mean over the layers."""

    def pool(self, vectors: torch.Tensor) -> torch.Tensor:
        return vectors.mean(dim=1)


class ScalarMixPooling(LayerPooling):
    """A learned average of the layers (ELMo's scalar mix)."""

    def __init__(self, depth: int, hidden_size: int, token_pooling: Literal["cls", "mean"] = "cls"):
        super().__init__(depth, hidden_size, token_pooling)
        self.mix = ScalarMix(depth)

    def layer_weights(
        self, hidden_states: Sequence[torch.Tensor], attention_mask: torch.Tensor | None
    ) -> torch.Tensor:
        return self.mix.weights.expand(len(hidden_states[0]), -1)

    def pool(self, vectors: torch.Tensor) -> torch.Tensor:
        return self.mix(list(vectors.unbind(dim=1)))


SENTENCE_FUSERS: dict[str, type[LayerPooling]] = {
    "lstm": LSTMPooling,
    "attention": AttentionPooling,
    "last": LastLayer,
    "max": MaxPooling,
    "mean": MeanPooling,
    "scalar_mix": ScalarMixPooling,
}
