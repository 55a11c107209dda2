"""GRUBERT's grouped fusion: the layers of a group as concatenated features of a recurrence along the tokens."""

from collections.abc import Generator, Sequence
from typing import Any

import torch
from torch import nn

from .fusion_base import LayerFuser, collect_states
from .recurrence import TOKEN_CELLS, repeat_mask


def consecutive_groups(depth: int, num_groups: int) -> tuple[tuple[int, ...], ...]:
    """Split layers `0 … depth - 1` into `num_groups` consecutive groups of equal size (GRUBERT, Table 1).

    Raises:
        ValueError: If `num_groups` does not divide `depth`.
    """
    if depth % num_groups:
        divisors = [c for c in range(1, depth + 1) if depth % c == 0]
        raise ValueError(
            f"`num_groups` must divide the encoder's depth, found {num_groups} groups for {depth} layers; "
            f"choose one of {divisors}."
        )
    size = depth // num_groups
    return tuple(tuple(range(start, start + size)) for start in range(0, depth, size))


class GroupedFuser(LayerFuser):
    """Embedding cell along the tokens for each group of layers, with the outputs of all groups concatenated (GRUBERT,
    section 2.2 and Figure 1).

    Args:
        groups: Layers of each group; all groups have the same size.
        hidden_size: Width H of the encoder.
        fusion_hidden_size: Units per direction.
        cell: Name in `TOKEN_CELLS`.
        shared: Whether all groups share one cell (BERT-share-c) or each has its own (BERT-cat-c).
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
        self.hidden_size = hidden_size
        input_size = len(groups[0]) * hidden_size
        self.cells = nn.ModuleList(
            TOKEN_CELLS[cell](input_size, fusion_hidden_size) for _ in range(1 if shared else len(groups))
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
        parts = [[hidden_states[layer] for layer in group] for group in self.groups]
        first: Any = self.cells[0]
        if first.takes_parts(parts[0][0].device):
            # All groups at once, and no layer is copied.
            fused: torch.Tensor = first.run_parts(self.cells, parts, attention_mask)
            return fused
        inputs = [torch.cat(each, dim=-1) for each in parts]
        if not self.shared:
            return torch.cat(
                [cell(x, attention_mask) for cell, x in zip(self.cells, inputs, strict=True)], dim=-1
            )
        # Run the cell over all groups at once: a batch c times as large takes the same number of steps.
        count = len(self.groups)
        mask = None if attention_mask is None else repeat_mask(attention_mask, count)
        outputs = self.cells[0](torch.cat(inputs), mask)
        return outputs.unflatten(0, (count, -1)).permute(1, 2, 0, 3).flatten(2)

    def stream(self, attention_mask: torch.Tensor | None) -> Generator[None, torch.Tensor, torch.Tensor]:
        """Fuse each group as soon as its last layer has been sent."""
        fused = []
        for index, group in enumerate(self.groups):
            cell: Any = self.cells[0 if self.shared else index]
            # Until the group's last layer arrives, keep its states or their projections, whichever is smaller.
            is_less = (len(group) - 1) * self.hidden_size <= cell.projected_size
            fuse = read_side_by_side if is_less else read_in_parts
            fused.append((yield from fuse(cell, len(group), attention_mask)))
        return torch.cat(fused, dim=-1)


def read_side_by_side(
    cell: Any, count: int, attention_mask: torch.Tensor | None
) -> Generator[None, torch.Tensor, torch.Tensor]:
    """Run a cell on `count` states `[B, T, H]` that are sent one at a time, keeping all of them until the last: `[B, T,
    D]`.
    """
    states = yield from collect_states(count)
    inputs = torch.cat(states, dim=-1)
    states.clear()
    return cell(inputs, attention_mask)


def read_in_parts(
    cell: Any, count: int, attention_mask: torch.Tensor | None
) -> Generator[None, torch.Tensor, torch.Tensor]:
    """Run a cell as `read_side_by_side` does, keeping only the sum of the states' projections, `[B, T, G]`."""
    start, projected = 0, 0.0
    for _ in range(count):
        part = yield
        projected = projected + cell.project(part, start)
        start += part.shape[-1]
        del part  # otherwise it is kept until the next one arrives
    return cell.run_projected(projected, attention_mask)
