"""Vector of a text from the states of its tokens; a new one is one class and one row in the registry."""

from abc import ABC, abstractmethod

import torch
from torch import nn

from .fusion_base import TokenSelection
from .heads import first_token, last_token, reduce_tokens


class SentenceVector(nn.Module, ABC):
    """Base class of the reductions of token states `[B, T, W]` to one vector `[B, W]`, whatever the values at padding.

    Args:
        size: Width W.
    """

    token_selection: TokenSelection = "all"
    """Tokens that are read: those of a text whose selected states give the same vector."""

    def __init__(self, size: int):
        super().__init__()

    @abstractmethod
    def forward(self, states: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """Reduce `states` `[B, T, W]`; `attention_mask` is `[B, T]`, 1 for real tokens, or `None`."""


class FirstToken(SentenceVector):
    """State of the first real token, `[CLS]`."""

    token_selection = "cls"

    def forward(self, states: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """Return the state of the first real token, `[B, W]`."""
        return first_token(states, attention_mask)


class LastToken(SentenceVector):
    """State of the last real token, the one that has seen the whole text in a causal encoder."""

    token_selection = "last"

    def forward(self, states: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """Return the state of the last real token, `[B, W]`."""
        return last_token(states, attention_mask)


class Pooler(SentenceVector):
    """tanh of a dense layer on `[CLS]` (BERT's pooler; SerBERTus, section 3).

    It is initialized with the weights of the pretrained pooler if the encoder's checkpoint has one.
    """

    token_selection = "cls"

    def __init__(self, size: int):
        super().__init__(size)
        self.dense = nn.Linear(size, size)

    def forward(self, states: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """Return the pooled first token, `[B, W]`."""
        return self.dense(first_token(states, attention_mask)).tanh()


class TokenMean(SentenceVector):
    """Mean over the real tokens."""

    token_selection = "mean"

    def forward(self, states: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """Return the mean over the real tokens, `[B, W]`."""
        return reduce_tokens(states, attention_mask, "mean")


class DotAttention(SentenceVector):
    """Σ softmax(e)_i h_i with e_i = sᵀh_i and s learned (ExTraBERT, section 4, where the formula is called
    multiplicative attention).
    """

    def __init__(self, size: int):
        super().__init__(size)
        self.query = nn.Linear(size, 1, bias=False)

    def scores(self, states: torch.Tensor) -> torch.Tensor:
        """Return the scores e, `[B, T]`."""
        return self.query(states).squeeze(-1)

    def forward(self, states: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """Return the attention-weighted sum of the token states, `[B, W]`."""
        scores = self.scores(states)
        if attention_mask is not None:
            scores = scores.masked_fill(~attention_mask.bool(), torch.finfo(scores.dtype).min)
        return (scores.softmax(dim=1).unsqueeze(1) @ states).squeeze(1)


class MultiplicativeAttention(DotAttention):
    """Attention as in `DotAttention` with e_i = sᵀW h_i and W learned too (Luong et al. 2015, cited by ExTraBERT)."""

    def __init__(self, size: int):
        super().__init__(size)
        self.projection = nn.Linear(size, size, bias=False)

    def scores(self, states: torch.Tensor) -> torch.Tensor:
        """Return the scores e, `[B, T]`."""
        return super().scores(self.projection(states))


SENTENCE_VECTORS: dict[str, type[SentenceVector]] = {
    "cls": FirstToken,
    "last": LastToken,
    "pooler": Pooler,
    "mean": TokenMean,
    "dot_attention": DotAttention,
    "multiplicative_attention": MultiplicativeAttention,
}


def feed_forward(size: int, num_layers: int) -> nn.Sequential:
    """Return `num_layers` dense layers of the same width with ReLU between them; none is the identity."""
    layers: list[nn.Module] = []
    for index in range(num_layers):
        layers += [nn.ReLU()] * bool(index) + [nn.Linear(size, size)]
    return nn.Sequential(*layers)
