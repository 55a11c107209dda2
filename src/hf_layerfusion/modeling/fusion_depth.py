"""Fuser with a recurrence along the depth for each token, as described in the text of the GRUBERT paper."""

from collections.abc import Generator, Sequence

import torch
from torch import nn

from .fusion_base import LayerFuser, collect_states
from .recurrence import CELLS, TOKEN_CELLS, TokenCell


class DepthFuser(LayerFuser):
    """Bidirectional recurrence over the layers of each group, token by token.

    The last states of both directions and of all groups are concatenated (GRUBERT, section 2.2: "the sequential
    information flow between subsequent layers"; the public code runs along the tokens instead).

    Args:
        groups: Layers of each group; all groups have the same size.
        hidden_size: Width H of the encoder.
        fusion_hidden_size: Units per direction.
        cell: Name in `TOKEN_CELLS`, but not `"linear"`.
        shared: Whether all groups share one cell.
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
            if cell in CELLS
            else TOKEN_CELLS[cell](hidden_size, fusion_hidden_size)
            for _ in range(1 if shared else len(groups))
        )
        self.output_size = 2 * fusion_hidden_size * len(groups)

    @property
    def layers(self) -> tuple[int, ...]:
        """Indices of the layers of all groups."""
        return tuple(layer for group in self.groups for layer in group)

    def forward(
        self, hidden_states: Sequence[torch.Tensor], attention_mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Return `[B, T, 2 * fusion_hidden_size * len(groups)]`."""
        fused = [
            self.fuse(index, [hidden_states[layer] for layer in group])
            for index, group in enumerate(self.groups)
        ]
        return torch.cat(fused, dim=-1)

    def stream(self, attention_mask: torch.Tensor | None) -> Generator[None, torch.Tensor, torch.Tensor]:
        """Fuse each group as soon as its last layer has been sent."""
        fused = []
        for index, group in enumerate(self.groups):
            fused.append(self.fuse(index, (yield from collect_states(len(group)))))
        return torch.cat(fused, dim=-1)

    def fuse(self, index: int, states: list[torch.Tensor]) -> torch.Tensor:
        """Fuse the states of group `index`, each `[B, T, H]`, into `[B, T, 2 * fusion_hidden_size]`, and empty the
        list.
        """
        stacked = torch.stack(states, dim=2)  # [B, T, L / c, H]
        states.clear()
        cell = self.cells[0 if self.shared else index]
        layers = stacked.flatten(0, 1)
        outputs = cell(layers, None) if isinstance(cell, TokenCell) else cell(layers)[0]
        onward, backward = outputs.chunk(2, dim=-1)
        last = torch.cat([onward[:, -1], backward[:, 0]], dim=-1)
        return last.unflatten(0, stacked.shape[:2])
