"""Pooling over the layers of one vector per layer (Song et al. 2020, "Utilizing BERT Intermediate Layers", section
2.2).
"""

from abc import abstractmethod
from collections.abc import Generator, Sequence
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init

from .encoder_states import select_tokens, text_vector
from .fusion_base import LayerFuser, TokenSelection
from .fusion_mix import ScalarMix
from .pair_features import VectorPairs

TokenPooling = Literal["cls", "last", "mean", "cls_mean", "last_mean"]


class LayerPooling(LayerFuser):
    """Base class of the sentence fusers, which take one vector of the text from each layer and pool the L vectors.

    Args:
        depth: Number L of layers.
        hidden_size: Width H of the encoder.
        token_pooling: Vector of the text at a layer: `"cls"`, the state of the first token (as in the paper); `"mean"`,
            the mean over the real tokens; `"last"`, the state of the last real token; `"cls_mean"` or `"last_mean"`,
            two of them concatenated.
        pair_features: Names of features in `PAIR_FEATURES`. The states are then those of pairs of separately encoded
            texts, `[2B, T, H]`, and the vector of a layer consists of the features of the two texts' vectors.

    Attributes:
        vector_size: Width V of a layer's vector: H, 2H if there are two, or the width of the pair features.
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
        """Indices of all layers."""
        return tuple(range(self.depth))

    def text_vector(self, state: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """Return each text's vector at a layer with states `[B, T, H]`: `[B, H]`, or `[B, 2H]` if there are two."""
        return text_vector(state, attention_mask, self.token_pooling)

    def vector(self, state: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """Return the vector `[B, V]` of a text at a layer with states `[B, T, H]`, or of a pair with states `[2B, T,
        H]`.
        """
        vectors = self.text_vector(state, attention_mask)
        return vectors if self.pairs is None else self.pairs(vectors)

    def vectors(
        self, hidden_states: Sequence[torch.Tensor], attention_mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Return the vector of a text or pair at each of `layers`, `[B, len(layers), V]`."""
        return torch.stack([self.vector(hidden_states[i], attention_mask) for i in self.layers], dim=1)

    @property
    def token_selection(self) -> TokenSelection:
        """Tokens that the pooling uses, the same as `token_pooling`."""
        return self.token_pooling

    def select_states(
        self, hidden_states: Sequence[torch.Tensor], attention_mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Return the vectors as states of one or two tokens, from which `forward` computes the same result."""
        return select_tokens(
            [hidden_states[layer] for layer in self.layers], attention_mask, self.token_pooling
        )

    def forward(
        self, hidden_states: Sequence[torch.Tensor], attention_mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Return the pooled vector `[B, output_size]`."""
        return self.pool(self.vectors(hidden_states, attention_mask))

    def stream(self, attention_mask: torch.Tensor | None) -> Generator[None, torch.Tensor, torch.Tensor]:
        """Keep only the vectors of the layers that are sent, and pool them after the last."""
        vectors = []
        for _ in self.layers:
            vectors.append(self.vector((yield), attention_mask))
        return self.pool(torch.stack(vectors, dim=1))

    @abstractmethod
    def pool(self, vectors: torch.Tensor) -> torch.Tensor:
        """Pool the layers' vectors `[B, L, V]` into `[B, output_size]`."""


class LSTMPooling(LayerPooling):
    """o = h_L of an LSTM over the layers, from the lowest to the highest (BERT-LSTM)."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.lstm = nn.LSTM(self.vector_size, self.vector_size, batch_first=True)

    def pool(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return the last output of the LSTM."""
        return self.lstm(vectors)[0][:, -1]


class AttentionPooling(LayerPooling):
    """o = W_hᵀ softmax(q h_CLSᵀ) h_CLS with q and W_h learned (BERT-Attention)."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.query = nn.Parameter(torch.empty(self.vector_size))
        self.projection = nn.Linear(self.vector_size, self.vector_size, bias=False)

    def reset_parameters(self) -> None:
        """Initialize the query."""
        init.normal_(self.query, std=0.02)

    def attention(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return the weight of each layer, `[B, L]`, with a sum of 1."""
        return (vectors @ self.query).softmax(dim=1)

    def layer_weights(
        self, hidden_states: Sequence[torch.Tensor], attention_mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Return the attention over the layers, `[B, L]`."""
        return self.attention(self.vectors(hidden_states, attention_mask))

    def pool(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return the projected weighted sum of the layers' vectors."""
        return self.projection((self.attention(vectors).unsqueeze(1) @ vectors).squeeze(1))


class LastLayer(LayerPooling):
    """o = h_L, standard fine-tuning on the last layer."""

    @property
    def layers(self) -> tuple[int, ...]:
        """Index of the last layer."""
        return (self.depth - 1,)

    def pool(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return the vector of the last layer."""
        return vectors[:, 0]


class MaxPooling(LayerPooling):
    """Maximum of each feature over the layers."""

    def pool(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return the element-wise maximum over the layers."""
        return vectors.amax(dim=1)


class MeanPooling(LayerPooling):
    """Mean over the layers."""

    def pool(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return the mean over the layers."""
        return vectors.mean(dim=1)


class ScalarMixPooling(LayerPooling):
    """Learned average of the layers (ELMo's scalar mix)."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.mix = ScalarMix(self.depth)

    def layer_weights(
        self, hidden_states: Sequence[torch.Tensor], attention_mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Return the normalized weights of the scalar mix for each text, `[B, L]`."""
        texts = len(hidden_states[0])
        return self.mix.weights.expand(texts if self.pairs is None else texts // 2, -1)

    def pool(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return the weighted average of the layers' vectors."""
        return self.mix(list(vectors.unbind(dim=1)))


NEGLIGIBLE = 1e-6
"""The share of a layer's largest standard deviation below which a feature counts as constant."""


class StandardizedPooling(LayerPooling):
    """Base class of the poolings that standardize each feature of each layer before pooling.

    The buffers `mean` and `scale` are 0 and 1, the identity, until `standardize` sets them from training data.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.mean: torch.Tensor
        self.scale: torch.Tensor
        self.register_buffer("mean", torch.zeros(self.depth, self.vector_size))
        self.register_buffer("scale", torch.ones(self.depth, self.vector_size))

    def reset_parameters(self) -> None:
        """Reset the standardization to the identity."""
        init.zeros_(self.mean)
        init.ones_(self.scale)

    @torch.no_grad()
    def standardize(self, mean: torch.Tensor, deviation: torch.Tensor) -> None:
        """Set the mean and the scale of the standardization.

        Args:
            mean: Mean over the training texts, `[L, V]`.
            deviation: Standard deviation over the training texts, `[L, V]`. Features that are constant, or vary by
                less than a millionth of the layer's most variable one, are not scaled: with a scale of 1e-33, as one
                feature of all-MiniLM-L6-v2 would have, the gradient of an encoder that is trained later overflows.
        """
        varies = deviation > NEGLIGIBLE * deviation.amax(dim=-1, keepdim=True)
        self.mean.copy_(mean)
        self.scale.copy_(torch.where(varies, deviation, 1.0))

    def forward(
        self, hidden_states: Sequence[torch.Tensor], attention_mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Return the pooled vector `[B, output_size]` of the standardized layers."""
        return self.pool((self.vectors(hidden_states, attention_mask) - self.mean) / self.scale)

    def stream(self, attention_mask: torch.Tensor | None) -> Generator[None, torch.Tensor, torch.Tensor]:
        """Keep only the vectors of the layers that are sent; standardize and pool them after the last."""
        vectors = []
        for _ in self.layers:
            vectors.append(self.vector((yield), attention_mask))
        return self.pool((torch.stack(vectors, dim=1) - self.mean) / self.scale)


class ConcatPooling(StandardizedPooling):
    """Concatenation of the layers' vectors; with a linear head on a frozen encoder, this is a linear probe of all
    layers.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.output_size = self.depth * self.vector_size

    def pool(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return the concatenated vectors, `[B, L * V]`."""
        return vectors.flatten(1)


class AttentivePooling(StandardizedPooling):
    """Multi-head attention of one learned query over the layers, with learned keys and values (after the attentive
    probe over layers of Ciernik et al. 2026, arXiv 2601.09322).
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.num_heads = next(heads for heads in (8, 4, 2, 1) if self.vector_size % heads == 0)
        self.query = nn.Parameter(torch.empty(self.vector_size))
        self.layer_embeddings = nn.Parameter(torch.empty(self.depth, self.vector_size))
        self.key = nn.Linear(self.vector_size, self.vector_size)
        self.value = nn.Linear(self.vector_size, self.vector_size)

    def reset_parameters(self) -> None:
        """Initialize the query, the layer embeddings and the standardization."""
        super().reset_parameters()
        init.normal_(self.query, std=0.02)
        init.normal_(self.layer_embeddings, std=0.02)

    def attention(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return each head's weight of each layer, `[B, heads, L]`, with a sum of 1 over the layers."""
        keys = self.key(vectors + self.layer_embeddings).unflatten(-1, (self.num_heads, -1))
        query = self.query.view(self.num_heads, -1)
        scores = torch.einsum("hd,blhd->bhl", query, keys) / query.shape[-1] ** 0.5
        return scores.softmax(dim=-1)

    def layer_weights(
        self, hidden_states: Sequence[torch.Tensor], attention_mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Return the attention over the layers averaged over the heads, `[B, L]`."""
        vectors = (self.vectors(hidden_states, attention_mask) - self.mean) / self.scale
        return self.attention(vectors).mean(dim=1)

    def pool(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return the heads' weighted sums of the values, concatenated."""
        values = self.value(vectors).unflatten(-1, (self.num_heads, -1))
        return torch.einsum("bhl,blhd->bhd", self.attention(vectors), values).flatten(1)


class LayerGraphPooling(StandardizedPooling):
    """Graph network over the layers: one round of messages on the complete graph, then the mean over the layers (after
    Ulanovski et al. 2026, arXiv 2603.22665, whose plain graph network is a GIN: Xu et al. 2019, eq. 4.1).

    Layer l becomes MLP(Σ_k a_lk h_k). The edge weights a are learned; they are initialized to 1/L, plus 1 from a layer
    to itself, like a GIN whose sum is divided by the number of layers.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.edges = nn.Parameter(torch.empty(self.depth, self.depth))
        self.first = nn.Linear(self.vector_size, self.vector_size)
        self.second = nn.Linear(self.vector_size, self.vector_size)

    def reset_parameters(self) -> None:
        """Initialize the edge weights and the standardization."""
        super().reset_parameters()
        init.copy_(self.edges, torch.eye(self.depth) + 1 / self.depth)

    def pool(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return the mean over the layers after one round of messages."""
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
