"""Pooling one vector a layer over all layers (Song et al. 2020, "Utilizing BERT Intermediate Layers", section 2.2)."""

from abc import abstractmethod
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init

from .fusion_base import LayerFuser, TokensRead
from .fusion_mix import ScalarMix
from .heads import first_token, last_token, reduce_tokens
from .pair_features import VectorPairs

TokenPooling = Literal["cls", "last", "mean", "cls_mean", "last_mean"]

_TOKEN_VECTORS: dict[str, Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]] = {
    "cls": first_token,
    "last": last_token,
    "mean": partial(reduce_tokens, reduction="mean"),
}


class LayerPooling(LayerFuser):
    """Base of the sentence fusers, which take one vector of the text from each layer and pool the L vectors.

    Args:
        depth: number L of layers.
        hidden_size: width H of the encoder.
        token_pooling: the text's vector at a layer: `"cls"`, the first token's state (the paper's); `"mean"`, the mean
            over the real tokens; `"last"`, the last real token's state; `"cls_mean"` or `"last_mean"`, two of them side
            by side.
        pair_features: names of features in `PAIR_FEATURES`. The states are then those of pairs whose texts were encoded
            separately, `[2B, T, H]`, and the vector of a layer is made of its features of the two texts' vectors.

    Attributes:
        vector_size: width V of a layer's vector: H, 2H where there are two, or that of the features of a pair.
    """

    def __init__(
        self,
        depth: int,
        hidden_size: int,
        token_pooling: TokenPooling = "cls",
        pair_features: Sequence[str] = (),
    ):
        super().__init__()
        self.depth = depth
        self.token_pooling = token_pooling
        text_size = len(token_pooling.split("_")) * hidden_size
        self.pairs = VectorPairs(pair_features, text_size) if pair_features else None
        self.vector_size = text_size if self.pairs is None else self.pairs.output_size
        self.output_size = self.vector_size

    @property
    def layers(self) -> tuple[int, ...]:
        return tuple(range(self.depth))

    def text_vector(self, state: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """Return each text's vector at a layer of state `[B, T, H]`: `[B, H]`, or `[B, 2H]` where there are two."""
        vectors = [_TOKEN_VECTORS[name](state, attention_mask) for name in self.token_pooling.split("_")]
        return torch.cat(vectors, dim=-1)

    def vector(self, state: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """Return the vector `[B, V]` of a text at a layer of state `[B, T, H]`, or of a pair at `[2B, T, H]`."""
        vectors = self.text_vector(state, attention_mask)
        return vectors if self.pairs is None else self.pairs(vectors)

    def vectors(
        self, hidden_states: Sequence[torch.Tensor], attention_mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Return the vector of a text or pair at each of `layers`, `[B, len(layers), V]`."""
        return torch.stack([self.vector(hidden_states[i], attention_mask) for i in self.layers], dim=1)

    @property
    def tokens_read(self) -> TokensRead:
        return self.token_pooling

    def read(
        self, hidden_states: Sequence[torch.Tensor], attention_mask: torch.Tensor | None
    ) -> torch.Tensor:
        states = [hidden_states[layer] for layer in self.layers]
        vectors = torch.stack([self.text_vector(state, attention_mask) for state in states], dim=1)
        if "_" not in self.token_pooling:
            # The first token of one vector is that vector, and so are its last one and its mean.
            return vectors.unsqueeze(2)
        token, mean = vectors.chunk(2, dim=-1)
        # Two tokens of which this is the first (the last) and this the mean.
        both = [token, 2 * mean - token]
        return torch.stack(both if self.token_pooling == "cls_mean" else both[::-1], dim=2)

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
        """Pool the layers' vectors `[B, L, V]` into `[B, output_size]`."""


class LSTMPooling(LayerPooling):
    """o = h_L of an LSTM over the layers, from abstract to specific (BERT-LSTM)."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.lstm = nn.LSTM(self.vector_size, self.vector_size, batch_first=True)

    def pool(self, vectors: torch.Tensor) -> torch.Tensor:
        return self.lstm(vectors)[0][:, -1]


class AttentionPooling(LayerPooling):
    """o = W_hᵀ softmax(q h_CLSᵀ) h_CLS with q and W_h learned (BERT-Attention)."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.query = nn.Parameter(torch.empty(self.vector_size))
        self.projection = nn.Linear(self.vector_size, self.vector_size, bias=False)

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

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.mix = ScalarMix(self.depth)

    def layer_weights(
        self, hidden_states: Sequence[torch.Tensor], attention_mask: torch.Tensor | None
    ) -> torch.Tensor:
        return self.mix.weights.expand(len(hidden_states[0]), -1)

    def pool(self, vectors: torch.Tensor) -> torch.Tensor:
        return self.mix(list(vectors.unbind(dim=1)))


class StandardizedPooling(LayerPooling):
    """Base of the poolings that standardise each feature of each layer before they pool.

    The buffers `mean` and `scale` are 0 and 1, which changes nothing, until `standardize` sets them from training data.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.mean: torch.Tensor
        self.scale: torch.Tensor
        self.register_buffer("mean", torch.zeros(self.depth, self.vector_size))
        self.register_buffer("scale", torch.ones(self.depth, self.vector_size))

    def reset_parameters(self) -> None:
        init.zeros_(self.mean)
        init.ones_(self.scale)

    @torch.no_grad()
    def standardize(self, mean: torch.Tensor, deviation: torch.Tensor) -> None:
        """Set what is subtracted from each feature and what it is then divided by.

        Args:
            mean: `[L, V]`, over the training texts.
            deviation: standard deviation `[L, V]`; a feature that does not vary is not divided.
        """
        self.mean.copy_(mean)
        self.scale.copy_(torch.where(deviation > 0, deviation, 1.0))

    def forward(
        self, hidden_states: Sequence[torch.Tensor], attention_mask: torch.Tensor | None
    ) -> torch.Tensor:
        return self.pool((self.vectors(hidden_states, attention_mask) - self.mean) / self.scale)

    def stream(self, attention_mask: torch.Tensor | None) -> Generator[None, torch.Tensor, torch.Tensor]:
        vectors = []
        for _ in self.layers:
            vectors.append(self.vector((yield), attention_mask))
        return self.pool((torch.stack(vectors, dim=1) - self.mean) / self.scale)


class ConcatPooling(StandardizedPooling):
    """The layers' vectors side by side, so that a linear head on a frozen encoder is a linear probe of all layers."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.output_size = self.depth * self.vector_size

    def pool(self, vectors: torch.Tensor) -> torch.Tensor:
        return vectors.flatten(1)


class AttentivePooling(StandardizedPooling):
    """One learned query that attends to the layers by several heads, with learned keys and values (after the attentive
    probe over layers of Ciernik et al. 2026, arXiv 2601.09322)."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.num_heads = next(heads for heads in (8, 4, 2, 1) if self.vector_size % heads == 0)
        self.query = nn.Parameter(torch.empty(self.vector_size))
        self.layer_embeddings = nn.Parameter(torch.empty(self.depth, self.vector_size))
        self.key = nn.Linear(self.vector_size, self.vector_size)
        self.value = nn.Linear(self.vector_size, self.vector_size)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        init.normal_(self.query, std=0.02)
        init.normal_(self.layer_embeddings, std=0.02)

    def attention(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return each head's weight of each layer, `[B, heads, L]`, adding up to 1."""
        keys = self.key(vectors + self.layer_embeddings).unflatten(-1, (self.num_heads, -1))
        query = self.query.view(self.num_heads, -1)
        scores = torch.einsum("hd,blhd->bhl", query, keys) / query.shape[-1] ** 0.5
        return scores.softmax(dim=-1)

    def layer_weights(
        self, hidden_states: Sequence[torch.Tensor], attention_mask: torch.Tensor | None
    ) -> torch.Tensor:
        vectors = (self.vectors(hidden_states, attention_mask) - self.mean) / self.scale
        return self.attention(vectors).mean(dim=1)

    def pool(self, vectors: torch.Tensor) -> torch.Tensor:
        values = self.value(vectors).unflatten(-1, (self.num_heads, -1))
        return torch.einsum("bhl,blhd->bhd", self.attention(vectors), values).flatten(1)


class LayerGraphPooling(StandardizedPooling):
    """A graph network over the layers: one round of messages on the complete graph, then the mean over the layers
    (after Ulanovski et al. 2026, arXiv 2603.22665, whose plain graph network is a GIN: Xu et al. 2019, eq. 4.1).

    Layer l becomes MLP(sum over k of a_lk h_k). The weights a of the edges are learned; they start at 1/L, plus 1 from
    a layer to itself, as the GIN's with its sum divided by the number of layers.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.edges = nn.Parameter(torch.empty(self.depth, self.depth))
        self.first = nn.Linear(self.vector_size, self.vector_size)
        self.second = nn.Linear(self.vector_size, self.vector_size)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        init.copy_(self.edges, torch.eye(self.depth) + 1 / self.depth)

    def pool(self, vectors: torch.Tensor) -> torch.Tensor:
        return self.second(F.relu(self.first(self.edges @ vectors))).mean(dim=1)


SENTENCE_FUSERS: dict[str, type[LayerPooling]] = {
    "lstm": LSTMPooling,
    "attention": AttentionPooling,
    "last": LastLayer,
    "max": MaxPooling,
    "mean": MeanPooling,
    "scalar_mix": ScalarMixPooling,
    "concat": ConcatPooling,
    "attentive": AttentivePooling,
    "layer_graph": LayerGraphPooling,
}
