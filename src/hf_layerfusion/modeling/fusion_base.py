"""The interface of every fuser."""

from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from typing import Literal

import torch
from torch import nn

TokenSelection = Literal["all", "cls", "last", "mean", "cls_mean", "last_mean"]


class LayerFuser(nn.Module, ABC):
    """Base class of the fusers, which combine the hidden states of an encoder's L layers into one representation.

    `hidden_states` of `forward` holds the outputs of transformer layers 1 to L, each `[B, T, H]`. The embedding output
    (index 0 of transformers' `hidden_states`) is *not* among them (GRUBERT, section 2.2: "12 hidden layers"). Entries
    that are not in `layers` may be `None`.

    A token fuser returns `[B, T, D]`, a sentence fuser `[B, D]`, with D = `output_size`. The values at padding
    positions never affect the result for real tokens, provided that `attention_mask` marks the padding.

    Notation used for tensor shapes: B batch size, T tokens, H width of the encoder, L its depth, D `output_size`.
    """

    output_size: int

    @property
    @abstractmethod
    def layers(self) -> tuple[int, ...]:
        """Indices into `hidden_states` that the fuser uses; 0 is the first transformer layer."""

    @property
    def token_selection(self) -> TokenSelection:
        """Part of each layer that `select_states` keeps: the states of all tokens, the first or last real token's
        state, the mean over the real tokens, or one of these two and the mean."""
        return "all"

    def select_states(
        self, hidden_states: Sequence[torch.Tensor], attention_mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Return all that `forward` uses of its arguments: `[B, R, T, H]`, R layers in the order of `layers`.

        T is 1 if `token_selection` is one vector (`"cls"`, `"last"` or `"mean"`), and 2 if it is two. `forward` returns
        the same result when these states replace those of `layers`.
        """
        return torch.stack([hidden_states[layer] for layer in self.layers], dim=1)

    @abstractmethod
    def forward(
        self, hidden_states: Sequence[torch.Tensor], attention_mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Fuse the hidden states.

        Args:
            hidden_states: L entries `[B, T, H]`.
            attention_mask: `[B, T]`, 1 for real tokens, or `None` if every position is a real token.
        """

    def stream(self, attention_mask: torch.Tensor | None) -> Generator[None, torch.Tensor, torch.Tensor]:
        """Return a generator that computes `forward` from layers sent one at a time, in ascending order of `layers`.

        It returns the fused states after the last layer. Subclasses override it if they need not keep every state until
        then.
        """
        states: dict[int, torch.Tensor] = {}
        for layer in sorted(self.layers):
            states[layer] = yield
        return self([states.get(layer) for layer in range(max(states) + 1)], attention_mask)

    def layer_weights(
        self, hidden_states: Sequence[torch.Tensor], attention_mask: torch.Tensor | None
    ) -> torch.Tensor | None:
        """Return the learned weight of each of `layers` for each text, `[B, len(layers)]`, with a sum of 1.

        The arguments are those of `forward`. Fusers without such weights return `None`.
        """
        return None

    def reset_parameters(self) -> None:
        """Initialize the parameters that belong to the fuser itself, with `transformers.initialization` only.

        Linear and recurrent submodules are initialized by the model.
        """


def collect_states(count: int) -> Generator[None, torch.Tensor, list[torch.Tensor]]:
    """Collect the next `count` states sent to a `stream`."""
    states = []
    for _ in range(count):
        states.append((yield))
    return states
