"""Encoder states that a model needs, and their use in place of the encoder's inputs."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn


class StateSpec(NamedTuple):
    """Specification of the encoder states that a model uses.

    Attributes:
        layers: Indices of the layers; 0 is the first.
        tokens: Tokens of each layer: all (`"all"`), the first real one (`"cls"`), the `"last"` real one, their
            `"mean"`, or two of these (`"cls_mean"`, `"last_mean"`).
        width: Width H of the states.
    """

    layers: tuple[int, ...]
    tokens: str
    width: int

    @property
    def vectors(self) -> int:
        """Number of vectors per layer and text, if `tokens` is not `"all"`."""
        return len(self.tokens.split("_"))


def scatter_states(
    encoder_states: torch.Tensor, spec: StateSpec, depth: int, other_inputs: Mapping[str, Any]
) -> list[torch.Tensor | None]:
    """Return a list of all layers with the given states at their places and `None` elsewhere.

    Args:
        encoder_states: Selected states `[B, R, T, H]`, R layers in the order of `spec.layers`.
        spec: Specification of the selected states.
        depth: Number L of layers.
        other_inputs: Other inputs of the encoder by name, which must all be missing.

    Returns:
        L entries: `[B, T, H]` for the selected layers, otherwise `None`.

    Raises:
        ValueError: If the states have the wrong shape, or other inputs are given with them.
    """
    given = [name for name, value in other_inputs.items() if value is not None and value is not False]
    if given:
        raise ValueError(
            f"`encoder_states` must come without other inputs of the encoder, found {', '.join(given)}; leave them out."
        )
    if encoder_states.dim() != 4 or encoder_states.shape[1::2] != (len(spec.layers), spec.width):
        raise ValueError(
            f"`encoder_states` must be [B, {len(spec.layers)}, T, {spec.width}] as returned by `read_states`, found "
            f"{list(encoder_states.shape)}."
        )
    states: list[torch.Tensor | None] = [None] * depth
    for layer, state in zip(spec.layers, encoder_states.unbind(1), strict=True):
        states[layer] = state
    return states


def normalized_states(
    states: Sequence[torch.Tensor], last: torch.Tensor, norm: nn.Module | None, layers: Collection[int]
) -> Sequence[torch.Tensor]:
    """Return the states of all layers on one scale: each after the encoder's final normalisation, as its output is.

    In a pre-norm encoder the states grow from layer to layer, and only the last one is normalised. Applying the same
    normalisation to all layers (as in the logit lens, nostalgebraist 2020) leaves the last state as it is.

    Args:
        states: L entries `[B, T, H]`, as the encoder returns them.
        last: Output of the encoder `[B, T, H]`, which is normalised.
        norm: The encoder's final normalisation; `None` returns `states`.
        layers: Indices of the layers that are used; others stay as they are.
    """
    if norm is None:
        return states
    below = [norm(state) if layer in layers else state for layer, state in enumerate(states[:-1])]
    return [*below, last]


def hidden_state_indices(selection: bool | list[int] | tuple[int, ...] | None, depth: int) -> set[int]:
    """Return the indices selected by `output_hidden_states`: all, none, or those listed, with negative ones counted
    from the end.
    """
    if not selection:
        return set()
    if isinstance(selection, bool):
        return set(range(depth + 1))
    return {index % (depth + 1) for index in selection}
