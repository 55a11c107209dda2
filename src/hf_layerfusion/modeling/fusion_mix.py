"""Fixed and learned averages of layers, followed by one embedding cell."""

from collections.abc import Generator, Sequence

import torch
from torch import nn
from transformers import initialization as init

from .fusion_base import LayerFuser
from .recurrence import TOKEN_CELLS


class ScalarMix(nn.Module):
    """γ Σ softmax(s)_l h_l with one learned scalar per layer and a learned scale (ELMo: Peters et al. 2018, eq. 1).

    It is initialized to the plain mean: s = 0, γ = 1.
    """

    def __init__(self, depth: int):
        super().__init__()
        self.scalars = nn.Parameter(torch.zeros(depth))
        self.scale = nn.Parameter(torch.ones(1))

    @property
    def weights(self) -> torch.Tensor:
        """Normalized weights of the layers `[L]`, with a sum of 1."""
        return self.scalars.softmax(dim=0)

    def reset_parameters(self) -> None:
        """Initialize to the plain mean."""
        init.zeros_(self.scalars)
        init.ones_(self.scale)

    def forward(self, hidden_states: list[torch.Tensor]) -> torch.Tensor:
        """Mix L tensors of the same shape into one."""
        weights = self.weights.unbind()
        mixed = weights[0] * hidden_states[0]
        for weight, state in zip(weights[1:], hidden_states[1:], strict=True):
            mixed = torch.addcmul(mixed, weight, state)
        return self.scale * mixed


class MixedFuser(LayerFuser):
    """Average of layers, followed by one embedding cell along the tokens (GRUBERT, sections 2.2 and 3: the baselines
    have "one embedding bi-GRU" before the downstream one).

    Args:
        layers: Layers to average.
        learned: Whether the average is a `ScalarMix` (ELMo) instead of the plain mean.
        hidden_size: Width H of the encoder.
        fusion_hidden_size: Units per direction.
        cell: Name in `TOKEN_CELLS`.
    """

    def __init__(
        self, layers: tuple[int, ...], learned: bool, hidden_size: int, fusion_hidden_size: int, cell: str
    ):
        super().__init__()
        self._layers = layers
        self.mix = ScalarMix(len(layers)) if learned else None
        self.cell = TOKEN_CELLS[cell](hidden_size, fusion_hidden_size)
        self.output_size = 2 * fusion_hidden_size

    @property
    def layers(self) -> tuple[int, ...]:
        """Indices of the averaged layers."""
        return self._layers

    def layer_weights(
        self, hidden_states: Sequence[torch.Tensor], attention_mask: torch.Tensor | None
    ) -> torch.Tensor | None:
        """Return the weights of the learned average for each text, or `None` for the plain mean."""
        if self.mix is None:
            return None
        return self.mix.weights.expand(len(hidden_states[self._layers[0]]), -1)

    def forward(
        self, hidden_states: Sequence[torch.Tensor], attention_mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Return `[B, T, 2 * fusion_hidden_size]`."""
        states = [hidden_states[layer] for layer in self._layers]
        mixed = self.mix(states) if self.mix is not None else torch.stack(states).mean(dim=0)
        return self.cell(mixed, attention_mask)

    def stream(self, attention_mask: torch.Tensor | None) -> Generator[None, torch.Tensor, torch.Tensor]:
        """Add up the weighted layers as they are sent."""
        count = len(self._layers)
        weights = (
            self.mix.scale * self.mix.weights if self.mix is not None else torch.full((count,), 1 / count)
        )
        mixed: torch.Tensor | float = 0.0
        for weight in weights.unbind():
            mixed = weight * (yield) + mixed
        return self.cell(mixed, attention_mask)
