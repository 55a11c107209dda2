"""Features of two texts that were encoded separately: a new feature is one class and one row in the registry.

u and v are the texts' vectors, `[B, D]`, or `[B, L, D]` for the vectors of L layers.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from .choices import unknown_name
from .heads import reduce_tokens


class EncodedText(NamedTuple):
    """One side of a batch of pairs.

    Attributes:
        vector: Vectors of the texts, `[B, D]`.
        tokens: States of the tokens, `[B, T, W]`.
        attention_mask: `[B, T]`, 1 for real tokens, or `None`.
    """

    vector: torch.Tensor
    tokens: torch.Tensor
    attention_mask: torch.Tensor | None


class PairFeature(nn.Module, ABC):
    """Base class of the features, which map two texts to `[B, output_size]`.

    Args:
        vector_size: Width D of the texts' vectors.
        token_size: Width W of their tokens' states.
    """

    output_size: int
    reads_tokens = False
    """True if the feature needs the states of the tokens in addition to the texts' vectors."""

    def __init__(self, vector_size: int, token_size: int):
        super().__init__()
        self.output_size = vector_size

    @abstractmethod
    def forward(self, first: EncodedText, second: EncodedText) -> torch.Tensor:
        """Compute the feature, `[B, output_size]`."""


class Concatenation(PairFeature):
    """(u, v), concatenated (ExTraBERT, section 4)."""

    def __init__(self, vector_size: int, token_size: int):
        super().__init__(vector_size, token_size)
        self.output_size = 2 * vector_size

    def forward(self, first: EncodedText, second: EncodedText) -> torch.Tensor:
        """Return `[B, 2D]`."""
        return torch.cat([first.vector, second.vector], dim=-1)


class SquaredSum(PairFeature):
    """(u + v)² (ExTraBERT, section 4)."""

    def forward(self, first: EncodedText, second: EncodedText) -> torch.Tensor:
        """Return `[B, D]`."""
        return (first.vector + second.vector).square()


class SquaredDifference(PairFeature):
    """(u − v)² (ExTraBERT, section 4)."""

    def forward(self, first: EncodedText, second: EncodedText) -> torch.Tensor:
        """Return `[B, D]`."""
        return (first.vector - second.vector).square()


class AbsoluteDifference(PairFeature):
    """|u − v| (Reimers and Gurevych 2019, section 3)."""

    def forward(self, first: EncodedText, second: EncodedText) -> torch.Tensor:
        """Return `[B, D]`."""
        return (first.vector - second.vector).abs()


class Product(PairFeature):
    """u ∘ v (Conneau et al. 2017, section 3.1)."""

    def forward(self, first: EncodedText, second: EncodedText) -> torch.Tensor:
        """Return `[B, D]`."""
        return first.vector * second.vector


class NormalizedDifference(PairFeature):
    """|u − v| / ‖u − v‖ (SerBERTus, section 3); 0 for equal vectors."""

    def forward(self, first: EncodedText, second: EncodedText) -> torch.Tensor:
        """Return `[B, D]`."""
        return F.normalize((first.vector - second.vector).abs(), dim=-1)


class Cosine(PairFeature):
    """u·v / (‖u‖ ‖v‖) (ExTraBERT, section 4)."""

    def __init__(self, vector_size: int, token_size: int):
        super().__init__(vector_size, token_size)
        self.output_size = 1

    def forward(self, first: EncodedText, second: EncodedText) -> torch.Tensor:
        """Return `[B, 1]`."""
        return F.cosine_similarity(first.vector, second.vector, dim=-1).unsqueeze(-1)


class CrossAttention(PairFeature):
    """Cross-attention between the tokens of two texts, averaged over the real tokens (SerBERTus, section 6, as future
    work).

    One head with the same weights attends in both directions; the two averages are concatenated.
    """

    reads_tokens = True

    def __init__(self, vector_size: int, token_size: int):
        super().__init__(vector_size, token_size)
        self.output_size = 2 * token_size
        self.query = nn.Linear(token_size, token_size)
        self.key = nn.Linear(token_size, token_size)
        self.value = nn.Linear(token_size, token_size)

    def gather(self, reader: EncodedText, read: EncodedText) -> torch.Tensor:
        """Return the mean over the tokens of `reader` of their attention outputs on `read`, `[B, W]`."""
        visible = None if read.attention_mask is None else read.attention_mask.bool().unsqueeze(1)
        gathered = F.scaled_dot_product_attention(
            self.query(reader.tokens), self.key(read.tokens), self.value(read.tokens), attn_mask=visible
        )
        return reduce_tokens(gathered, reader.attention_mask, "mean")

    def forward(self, first: EncodedText, second: EncodedText) -> torch.Tensor:
        """Return `[B, 2W]`."""
        return torch.cat([self.gather(first, second), self.gather(second, first)], dim=-1)


PAIR_FEATURES: dict[str, type[PairFeature]] = {
    "concat": Concatenation,
    "squared_sum": SquaredSum,
    "squared_difference": SquaredDifference,
    "abs_difference": AbsoluteDifference,
    "product": Product,
    "normalized_difference": NormalizedDifference,
    "cosine": Cosine,
    "cross_attention": CrossAttention,
}


class VectorPairs(nn.Module):
    """Features of the vectors of pairs whose texts were encoded separately, side by side.

    Args:
        names: features in `PAIR_FEATURES` that read vectors only.
        vector_size: width V of a text's vector.

    Attributes:
        output_size: width F of the features.

    Raises:
        ValueError: if a name is unknown, or its feature reads the tokens.
    """

    def __init__(self, names: Sequence[str], vector_size: int):
        super().__init__()
        known = [name for name, feature in PAIR_FEATURES.items() if not feature.reads_tokens]
        for name in names:
            if name not in known:
                raise unknown_name("pair_features", name, known)
        features = [PAIR_FEATURES[name](vector_size, vector_size) for name in names]
        self.features = nn.ModuleList(features)
        self.output_size = sum(feature.output_size for feature in features)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return the features `[B, ..., F]` of vectors `[2B, ..., V]`, the two texts of a pair one after the other."""
        first, second = (EncodedText(vectors[side::2], vectors[side::2], None) for side in (0, 1))
        return torch.cat([feature(first, second) for feature in self.features], dim=-1)
