"""A text's vector from its tokens' states: a new one is one class and one row in the table."""

from abc import ABC, abstractmethod

import torch
from torch import nn

from .heads import first_token, last_token, reduce_tokens


class SentenceVector(nn.Module, ABC):
    """Turns the states of a text's tokens `[B, T, W]` into one vector `[B, W]`, whatever stands at padding.

    Args:
        size: width W.
    """

    def __init__(self, size: int):
        super().__init__()

    @abstractmethod
    def forward(self, states: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """Reads `states` `[B, T, W]`; `attention_mask` is `[B, T]`, 1 for real tokens, or `None`."""


class FirstToken(SentenceVector):
    """The state of the first real token, `[CLS]`."""

    def forward(self, states: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        return first_token(states, attention_mask)


class LastToken(SentenceVector):
    """The state of the last real token: the one that has seen the whole text in an encoder whose tokens see only what
    stands before them."""

    def forward(self, states: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        return last_token(states, attention_mask)


class Pooler(SentenceVector):
    """tanh of a dense layer on `[CLS]` (BERT's pooler; SerBERTus, section 3). Starts with the pretrained pooler's
    weights where the encoder's checkpoint has one."""

    def __init__(self, size: int):
        super().__init__(size)
        self.dense = nn.Linear(size, size)

    def forward(self, states: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        return self.dense(first_token(states, attention_mask)).tanh()


class TokenMean(SentenceVector):
    """The mean over the real tokens."""

    def forward(self, states: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        return reduce_tokens(states, attention_mask, "mean")


class DotAttention(SentenceVector):
    """Σ softmax(e)_i h_i with e_i = sᵀh_i and s learned (ExTraBERT, section 4, where the formula stands under the name
    of multiplicative attention)."""

    def __init__(self, size: int):
        super().__init__(size)
        self.query = nn.Linear(size, 1, bias=False)

    def scores(self, states: torch.Tensor) -> torch.Tensor:
        """e, `[B, T]`."""
        return self.query(states).squeeze(-1)

    def forward(self, states: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        scores = self.scores(states)
        if attention_mask is not None:
            scores = scores.masked_fill(~attention_mask.bool(), torch.finfo(scores.dtype).min)
        return (scores.softmax(dim=1).unsqueeze(1) @ states).squeeze(1)


class MultiplicativeAttention(DotAttention):
    """As `DotAttention` with e_i = sᵀW h_i, W learned too (Luong et al. 2015, whom ExTraBERT cites)."""

    def __init__(self, size: int):
        super().__init__(size)
        self.projection = nn.Linear(size, size, bias=False)

    def scores(self, states: torch.Tensor) -> torch.Tensor:
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
    """`num_layers` dense layers of one width with ReLU between them; none is the identity."""
    layers: list[nn.Module] = []
    for index in range(num_layers):
        layers += [nn.ReLU()] * bool(index) + [nn.Linear(size, size)]
    return nn.Sequential(*layers)
