"""What a head sees of two texts that were encoded each by itself: a new feature is one class and one row in the table.

u and v are the texts' vectors, `[B, D]`.
"""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from .heads import reduce_tokens


class Text(NamedTuple):
    """One side of a batch of pairs.

    Attributes:
        vector: `[B, D]`.
        tokens: states of the tokens, `[B, T, W]`.
        attention_mask: `[B, T]`, 1 for real tokens, or `None`.
    """

    vector: torch.Tensor
    tokens: torch.Tensor
    attention_mask: torch.Tensor | None


class PairFeature(nn.Module, ABC):
    """Turns two texts into `[B, output_size]`.

    Args:
        vector_size: width D of the texts' vectors.
        token_size: width W of their tokens' states.
    """

    output_size: int

    def __init__(self, vector_size: int, token_size: int):
        super().__init__()
        self.output_size = vector_size

    @abstractmethod
    def forward(self, first: Text, second: Text) -> torch.Tensor:
        """Computes the feature, `[B, output_size]`."""


class Concatenation(PairFeature):
    """(u, v) side by side (ExTraBERT, section 4)."""

    def __init__(self, vector_size: int, token_size: int):
        super().__init__(vector_size, token_size)
        self.output_size = 2 * vector_size

    def forward(self, first: Text, second: Text) -> torch.Tensor:
        return torch.cat([first.vector, second.vector], dim=-1)


class SquaredSum(PairFeature):
    """(u + v)² (ExTraBERT, section 4)."""

    def forward(self, first: Text, second: Text) -> torch.Tensor:
        return (first.vector + second.vector).square()


class SquaredDifference(PairFeature):
    """(u − v)² (ExTraBERT, section 4)."""

    def forward(self, first: Text, second: Text) -> torch.Tensor:
        return (first.vector - second.vector).square()


class AbsoluteDifference(PairFeature):
    """|u − v| (Reimers and Gurevych 2019, section 3)."""

    def forward(self, first: Text, second: Text) -> torch.Tensor:
        return (first.vector - second.vector).abs()


class NormalizedDifference(PairFeature):
    """|u − v| / ‖u − v‖ (SerBERTus, section 3); 0 for equal vectors."""

    def forward(self, first: Text, second: Text) -> torch.Tensor:
        return F.normalize((first.vector - second.vector).abs(), dim=-1)


class Cosine(PairFeature):
    """u·v / (‖u‖ ‖v‖) (ExTraBERT, section 4)."""

    def __init__(self, vector_size: int, token_size: int):
        super().__init__(vector_size, token_size)
        self.output_size = 1

    def forward(self, first: Text, second: Text) -> torch.Tensor:
        return F.cosine_similarity(first.vector, second.vector, dim=-1).unsqueeze(-1)


class CrossAttention(PairFeature):
    """Each text's tokens attend to the other's, one head, the same weights both ways; what they gather is averaged over
    the real tokens, both texts side by side (SerBERTus, section 6, as future work)."""

    def __init__(self, vector_size: int, token_size: int):
        super().__init__(vector_size, token_size)
        self.output_size = 2 * token_size
        self.query = nn.Linear(token_size, token_size)
        self.key = nn.Linear(token_size, token_size)
        self.value = nn.Linear(token_size, token_size)

    def gather(self, reader: Text, read: Text) -> torch.Tensor:
        """The mean over `reader`'s tokens of what they attend to in `read`, `[B, W]`."""
        visible = None if read.attention_mask is None else read.attention_mask.bool().unsqueeze(1)
        gathered = F.scaled_dot_product_attention(
            self.query(reader.tokens), self.key(read.tokens), self.value(read.tokens), attn_mask=visible
        )
        return reduce_tokens(gathered, reader.attention_mask, "mean")

    def forward(self, first: Text, second: Text) -> torch.Tensor:
        return torch.cat([self.gather(first, second), self.gather(second, first)], dim=-1)


PAIR_FEATURES: dict[str, type[PairFeature]] = {
    "concat": Concatenation,
    "squared_sum": SquaredSum,
    "squared_difference": SquaredDifference,
    "abs_difference": AbsoluteDifference,
    "normalized_difference": NormalizedDifference,
    "cosine": Cosine,
    "cross_attention": CrossAttention,
}
