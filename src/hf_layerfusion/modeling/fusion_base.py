"""What every fuser promises."""

from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from typing import Literal

import torch
from torch import nn

TokensRead = Literal["all", "cls", "last", "mean", "cls_mean", "last_mean"]


class LayerFuser(nn.Module, ABC):
    """Turns the hidden states of an encoder's L layers into one representation.

    `hidden_states` of `forward` holds the outputs of transformer layers 1 to L, each `[B, T, H]`. The embedding output
    (index 0 of transformers' `hidden_states`) is *not* among them, here or in any fuser (GRUBERT, section 2.2: "12
    hidden layers"). An entry that the fuser does not name in `layers` may be `None`.

    A token fuser returns `[B, T, D]`, a sentence fuser `[B, D]`; `output_size` is D. Whatever stands at padding
    positions never changes what a real token gets, as long as `attention_mask` says where padding is.

    Notation used for tensor shapes: B batch, T tokens, H width of the encoder, L its depth, D `output_size`.
    """

    output_size: int

    @property
    @abstractmethod
    def layers(self) -> tuple[int, ...]:
        """Indices into `hidden_states` that the fuser reads; 0 is the first transformer layer."""

    @property
    def tokens_read(self) -> TokensRead:
        """The part of a layer that `read` keeps: all tokens' states, the first or last real token's, the mean over the
        real tokens, or one of these two and the mean."""
        return "all"

    def read(
        self, hidden_states: Sequence[torch.Tensor], attention_mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Return all that `forward` takes from its arguments: `[B, R, T, H]`, R layers in the order of `layers`.

        T is 1 if `tokens_read` is one vector (`"cls"`, `"last"` or `"mean"`), and 2 if it is two. Put in the places of
        these layers, the result makes `forward` return the same."""
        return torch.stack([hidden_states[layer] for layer in self.layers], dim=1)

    @abstractmethod
    def forward(
        self, hidden_states: Sequence[torch.Tensor], attention_mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Fuses `hidden_states` (L entries `[B, T, H]`); `attention_mask` is `[B, T]`, 1 for real tokens, or `None`
        where every position is a real token."""

    def stream(self, attention_mask: torch.Tensor | None) -> Generator[None, torch.Tensor, torch.Tensor]:
        """As `forward`, but sent one layer of `layers` after the other, in ascending order, and returning what is fused
        after the last. Overridden where a state need not be kept until then."""
        states: dict[int, torch.Tensor] = {}
        for layer in sorted(self.layers):
            states[layer] = yield
        return self([states.get(layer) for layer in range(max(states) + 1)], attention_mask)

    def layer_weights(
        self, hidden_states: Sequence[torch.Tensor], attention_mask: torch.Tensor | None
    ) -> torch.Tensor | None:
        """Learned weight of each of `layers` in each text, `[B, len(layers)]`, adding up to 1; `None` for fusers that
        have none. The arguments are those of `forward`."""
        return None

    def reset_parameters(self) -> None:
        """Initialises bare parameters of the fuser itself, with `transformers.initialization` only. Linear and
        recurrent children are initialised by the model."""


def take(count: int) -> Generator[None, torch.Tensor, list[torch.Tensor]]:
    """The next `count` states that are sent to a `stream`."""
    states = []
    for _ in range(count):
        states.append((yield))
    return states
