"""What a model reads of its encoder, and how it takes that back in place of the encoder's inputs."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch


class StatesRead(NamedTuple):
    """What a model reads of its encoder.

    Attributes:
        layers: the layers, 0 the first.
        tokens: of each, every token's state (`"all"`), the first real one's (`"cls"`), the `"last"` real one's, the
            `"mean"` over them, or two of these (`"cls_mean"`, `"last_mean"`).
        width: H of the states.
    """

    layers: tuple[int, ...]
    tokens: str
    width: int

    @property
    def vectors(self) -> int:
        """Number of vectors of a layer and text, where `tokens` is not `"all"`."""
        return len(self.tokens.split("_"))


def spread_states(
    encoder_states: torch.Tensor, read: StatesRead, depth: int, beside: Mapping[str, Any]
) -> list[torch.Tensor | None]:
    """States that were read before, in the places of their layers among all.

    Args:
        encoder_states: `[B, R, T, H]`, R layers in the order of `read.layers`.
        read: what was read.
        depth: number L of layers.
        beside: what else the encoder would be given, by name.

    Returns:
        L entries: `[B, T, H]` for the layers read, else `None`.

    Raises:
        ValueError: if the states have not their shape, or something is given beside them.
    """
    given = [name for name, value in beside.items() if value is not None and value is not False]
    if given:
        raise ValueError(
            f"`encoder_states` must come without what is the encoder's, found {', '.join(given)}; leave it out."
        )
    if encoder_states.dim() != 4 or encoder_states.shape[1::2] != (len(read.layers), read.width):
        raise ValueError(
            f"`encoder_states` must be [B, {len(read.layers)}, T, {read.width}] as `read_states` gives them, found "
            f"{list(encoder_states.shape)}."
        )
    states: list[torch.Tensor | None] = [None] * depth
    for layer, state in zip(read.layers, encoder_states.unbind(1), strict=True):
        states[layer] = state
    return states


def selected_states(asked: bool | list[int] | tuple[int, ...] | None, depth: int) -> set[int]:
    """Indices into the `depth + 1` hidden states that `output_hidden_states` asks for: all, none or those listed,
    negative ones counted from the end."""
    if not asked:
        return set()
    if isinstance(asked, bool):
        return set(range(depth + 1))
    return {index % (depth + 1) for index in asked}
