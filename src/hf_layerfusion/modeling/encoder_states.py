"""Encoder states that a model needs, and their use in place of the encoder's inputs."""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn

from .heads import first_token, last_token, reduce_tokens

_TOKEN_VECTORS: dict[str, Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]] = {
    "cls": first_token,
    "last": last_token,
    "mean": partial(reduce_tokens, reduction="mean"),
}


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


def joined_spec(specs: Collection[StateSpec]) -> StateSpec:
    """Return the specification of the states of one encoder that any of `specs` names; of all tokens where they differ
    in these."""
    layers = sorted({layer for spec in specs for layer in spec.layers})
    tokens = {spec.tokens for spec in specs}
    return StateSpec(tuple(layers), tokens.pop() if len(tokens) == 1 else "all", next(iter(specs)).width)


def text_vector(state: torch.Tensor, attention_mask: torch.Tensor | None, tokens: str) -> torch.Tensor:
    """Return each text's vector at a layer with states `[B, T, H]`: `[B, H]`, or `[B, 2H]` where `tokens` is two, such
    as `"cls_mean"`."""
    vectors = [_TOKEN_VECTORS[name](state, attention_mask) for name in tokens.split("_")]
    return torch.cat(vectors, dim=-1)


def select_tokens(
    states: Sequence[torch.Tensor], attention_mask: torch.Tensor | None, tokens: str
) -> torch.Tensor:
    """Return the selected tokens of R layers' states `[B, T, H]` as `[B, R, T, H]`, with T = 1 or 2 unless `tokens` is
    `"all"`.

    `text_vector` and the same selection give the same vectors of the result as of `states`.
    """
    if tokens == "all":
        return torch.stack(list(states), dim=1)
    vectors = torch.stack([text_vector(state, attention_mask, tokens) for state in states], dim=1)
    if "_" not in tokens:
        # The first token of one vector is that vector, and so are its last one and its mean.
        return vectors.unsqueeze(2)
    token, mean = vectors.chunk(2, dim=-1)
    # Two tokens whose first (or last) is `token` and whose mean is `mean`.
    both = [token, 2 * mean - token]
    return torch.stack(both if tokens == "cls_mean" else both[::-1], dim=2)


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
    """Return the states of all layers on one scale: each after the encoder's final normalization, as its output is.

    In a pre-norm encoder the states grow from layer to layer, and only the last one is normalized. Applying the same
    normalization to all layers (as in the logit lens, nostalgebraist 2020) leaves the last state as it is.

    Args:
        states: L entries `[B, T, H]`, as the encoder returns them.
        last: Output of the encoder `[B, T, H]`, which is normalized.
        norm: The encoder's final normalization; `None` returns `states`.
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
