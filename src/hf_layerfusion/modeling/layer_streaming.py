"""Fusion of layers one at a time: each state goes to the fuser before the next layer runs, and is not kept elsewhere.

`export.inference_copy` uses it; `benchmarks/bench_inference.py` measures the memory that it saves.
"""

from collections.abc import Generator
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from .encoders import length_before_padding
from .fusion_base import LayerFuser
from .layer_routing import find_layers


class LayerStream:
    """Fuser that receives one layer after the other.

    Args:
        fuser: The fuser.
        attention_mask: `[B, T]`, 1 for real tokens, or `None`.
        norm: The encoder's final normalization if all layers go through it before they are fused; otherwise `None`.
        length: Length T of the texts if the encoder's states may be longer; otherwise `None`.

    Attributes:
        fused: Result of `fuser.forward`, available once all of its layers have been received.
    """

    def __init__(
        self,
        fuser: LayerFuser,
        attention_mask: torch.Tensor | None,
        norm: nn.Module | None = None,
        length: int | None = None,
    ):
        self.layers = set(fuser.layers)
        self._norm = norm
        self._length = length
        self.fused: torch.Tensor | None = None
        self._steps: Generator[None, torch.Tensor, torch.Tensor] = fuser.stream(attention_mask)
        next(self._steps)

    def receive_raw(self, layer: int, state: torch.Tensor) -> None:
        """Receive the output of a layer below the last, as it is passed on to the next layer."""
        if layer in self.layers:
            self.receive(layer, state if self._norm is None else self._norm(state))

    def receive(self, layer: int, state: torch.Tensor) -> None:
        """Receive the output `[B, T, H]` of transformer layer `layer`, counted from 0."""
        if layer not in self.layers:
            return
        try:
            self._steps.send(state if self._length is None else state[:, : self._length])
        except StopIteration as end:
            self.fused = end.value


# A context variable, because several threads may use one model.
_STREAM: ContextVar[LayerStream | None] = ContextVar("stream", default=None)


def _hand_on(index: int, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    stream = _STREAM.get()
    if stream is not None:
        stream.receive_raw(index - 1, args[0] if args else kwargs["hidden_states"])


def install_stream(encoder: PreTrainedModel) -> None:
    """Make the encoder's layers pass their inputs to the running stream.

    The input of a layer is the state that transformers records, even if the encoder modifies it between two layers.

    Raises:
        ValueError: If the layers are not in one list.
    """
    for index, layer in enumerate(find_layers(encoder, "`stream_layers` must not be called")):
        if index:
            layer.register_forward_pre_hook(partial(_hand_on, index), with_kwargs=True)


def run_streamed(
    encoder: PreTrainedModel,
    fuser: LayerFuser,
    norm: nn.Module | None,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, Any]:
    """Run an encoder prepared by `install_stream` and fuse its layers on the way.

    Args:
        encoder: The encoder.
        fuser: The fuser.
        norm: The encoder's final normalization if all layers go through it before they are fused; otherwise `None`.
        attention_mask: `[B, T]`, 1 for real tokens, or `None`.
        kwargs: Further arguments of the encoder.

    Returns:
        The fused states, and the encoder's own output.
    """
    stream = LayerStream(fuser, attention_mask, norm, length_before_padding(encoder, kwargs))
    token = _STREAM.set(stream)
    try:
        outputs = encoder(attention_mask=attention_mask, return_dict=True, **kwargs)
    finally:
        _STREAM.reset(token)
    stream.receive(encoder.config.num_hidden_layers - 1, outputs.last_hidden_state)
    if stream.fused is None:
        raise ValueError(
            f"the encoder must run each of its layers once, found fewer in '{encoder.config.model_type}'; load the "
            "model again without `stream_layers`."
        )
    return stream.fused, outputs
