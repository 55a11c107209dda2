"""The recurrence that GRUBERT's text describes: along depth, for each token."""

from collections.abc import Generator, Sequence

import torch
from torch import nn

from .fusion_base import LayerFuser, take
from .recurrence import CELLS


class DepthFuser(LayerFuser):
    """Runs a bidirectional recurrence over the layers of each group, token by token, and concatenates the last states
    of both directions and of all groups (GRUBERT, section 2.2: "the sequential information flow between subsequent
    layers"; the public code runs along the tokens instead).

    Args:
        groups: the layers of each group; groups are of one size.
        hidden_size: width H of the encoder.
        fusion_hidden_size: units a direction.
        cell: `"gru"` or `"lstm"`.
        shared: one cell for all groups instead of one each.
    """

    def __init__(
        self,
        groups: tuple[tuple[int, ...], ...],
        hidden_size: int,
        fusion_hidden_size: int,
        cell: str,
        shared: bool,
    ):
        super().__init__()
        self.groups = groups
        self.shared = shared
        self.cells = nn.ModuleList(
            CELLS[cell](hidden_size, fusion_hidden_size, batch_first=True, bidirectional=True)
            for _ in range(1 if shared else len(groups))
        )
        self.output_size = 2 * fusion_hidden_size * len(groups)

    @property
    def layers(self) -> tuple[int, ...]:
        return tuple(layer for group in self.groups for layer in group)

    def forward(
        self, hidden_states: Sequence[torch.Tensor], attention_mask: torch.Tensor | None
    ) -> torch.Tensor:
        fused = [
            self.fuse(index, [hidden_states[layer] for layer in group])
            for index, group in enumerate(self.groups)
        ]
        return torch.cat(fused, dim=-1)

    def stream(self, attention_mask: torch.Tensor | None) -> Generator[None, torch.Tensor, torch.Tensor]:
        fused = []
        for index, group in enumerate(self.groups):
            fused.append(self.fuse(index, (yield from take(len(group)))))
        return torch.cat(fused, dim=-1)

    def fuse(self, index: int, states: list[torch.Tensor]) -> torch.Tensor:
        """Fuses the states of group `index`, each `[B, T, H]`, to `[B, T, 2 * fusion_hidden_size]`, and empties the
        list."""
        stacked = torch.stack(states, dim=2)  # [B, T, L / c, H]
        states.clear()
        _, last = self.cells[0 if self.shared else index](stacked.flatten(0, 1))
        hidden = last[0] if isinstance(last, tuple) else last  # an LSTM returns (hidden, cell)
        return hidden.transpose(0, 1).reshape(*stacked.shape[:2], -1)
