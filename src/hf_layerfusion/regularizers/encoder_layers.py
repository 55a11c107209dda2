"""Access to the encoders inside a model and to their layers, with activation checkpointing and replaced
forward passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from hf_layerfusion.errors import UserError


def get_encoders(model: nn.Module) -> list[PreTrainedModel]:
    """Return the pretrained encoders in `model`: the transformers models that contain no other transformers model.

    This is `model.bert` in a `BertForSequenceClassification`, and the wrapped encoder in a model that nests one two
    levels deep. A stack of embeddings (`is_encoder_stack`) is one encoder.
    """
    models = [module for module in model.modules() if isinstance(module, PreTrainedModel)]
    stacks = [module for module in models if getattr(module, "is_encoder_stack", False)]
    members = {inner for stack in stacks for inner in stack.modules() if inner is not stack}
    return [
        module
        for module in models
        if module in stacks or (module not in members and not _holds(module, PreTrainedModel))
    ]


def get_layers(encoder: nn.Module) -> nn.ModuleList | None:
    """Return the list of an encoder's L layers, or `None` if they are not in exactly one list."""
    depth = getattr(getattr(encoder, "config", None), "num_hidden_layers", None)
    lists = [found for found in _outermost_lists(encoder) if len(found) == depth]
    return lists[0] if len(lists) == 1 else None


def require_encoders(model: nn.Module) -> list[PreTrainedModel]:
    """Return the pretrained encoders in `model`; see `get_encoders`.

    Raises:
        UserError: If there is none.
    """
    inner = get_encoders(model)
    if not inner:
        raise UserError(
            f"further passes need a transformers PreTrainedModel, found {type(model).__name__} without one inside; "
            "wrap the encoder in one"
        )
    return inner


def require_layers(encoder: PreTrainedModel) -> nn.ModuleList:
    """Return the list of an encoder's L layers; see `get_layers`.

    Raises:
        UserError: If they are not in exactly one list.
    """
    layers = get_layers(encoder)
    if layers is None:
        raise UserError(
            f"noise behind a layer needs an encoder whose {encoder.config.num_hidden_layers} layers stand in one list, "
            f"found '{encoder.config.model_type}'; set the layer to 0, the word embeddings"
        )
    return layers


@contextmanager
def checkpointed(model: nn.Module) -> Iterator[None]:
    """Context in which the layers of all encoders keep no activations except their inputs, and are recomputed in the
    backward pass.

    Layers that the model checkpoints itself are left alone.
    """
    with ExitStack() as stack:
        for encoder in require_encoders(model):
            for layer in _to_checkpoint(encoder):
                forward = partial(checkpoint, layer.forward, use_reentrant=False)
                stack.enter_context(replaced_forward(layer, forward))
        yield


@contextmanager
def replaced_forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Context in which `module` runs `forward` in place of its own; its hooks still run."""
    before = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before


def _to_checkpoint(encoder: nn.Module) -> list[nn.Module]:
    marked = [module for module in encoder.modules() if isinstance(module, GradientCheckpointingLayer)]
    if marked:
        return [layer for layer in marked if not layer.gradient_checkpointing]
    return [layer for layers in _outermost_lists(encoder) for layer in layers]


def _outermost_lists(encoder: nn.Module) -> list[nn.ModuleList]:
    lists = [module for module in encoder.modules() if isinstance(module, nn.ModuleList)]
    nested = {inner for outer in lists for inner in outer.modules() if inner is not outer}
    return [found for found in lists if found not in nested]


def _holds(module: nn.Module, kind: type) -> bool:
    return any(isinstance(inner, kind) for inner in module.modules() if inner is not module)
