"""Plain classifier whose logits are added to those of a fusion branch, so that training starts from plain
fine-tuning.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutput

from .heads import ClassificationHead
from .pair_features import VectorPairs
from .sentence_vectors import SENTENCE_VECTORS


@dataclass
class FusionOutput(BaseModelOutput):
    """Output of a model that fuses its encoder's layers.

    Attributes:
        encoder_last_hidden_state: The encoder's own output `[B, T, H]`; None unless a residual head uses it.
    """

    encoder_last_hidden_state: torch.Tensor | None = None


class ResidualHead(nn.Module):
    """Plain classifier: dropout and one dense layer on a vector of the encoder's last layer.

    Its logits are added to those of the branch over all layers, whose last projection is initialized to zero. Before
    the first step the model is exactly the plain classifier, and the branch can only add to it (as in ReZero,
    Bachlechner et al. 2020, and the zero-initialized residual branches of Goyal et al. 2017).

    Args:
        vector: Name of the vector of the last layer, in `SENTENCE_VECTORS`.
        hidden_size: Width H of the encoder.
        num_labels: Width of the logits.
        dropout: Dropout probability.
        pair_features: Names of features in `PAIR_FEATURES` if the texts of pairs are encoded separately.
    """

    def __init__(
        self,
        vector: str,
        hidden_size: int,
        num_labels: int,
        dropout: float,
        pair_features: Sequence[str] = (),
    ):
        super().__init__()
        self.vector = SENTENCE_VECTORS[vector](hidden_size)
        self.pairs = VectorPairs(pair_features, hidden_size) if pair_features else None
        size = hidden_size if self.pairs is None else self.pairs.output_size
        self.head = ClassificationHead(size, 0, num_labels, dropout)

    def forward(self, last_state: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """Return logits `[B, num_labels]` from the last layer's states `[B, T, H]`, or `[2B, T, H]` for pairs."""
        vector = self.vector(last_state, attention_mask)
        return self.head(vector if self.pairs is None else self.pairs(vector))
