"""The part of a model that each parameter belongs to: embeddings, a layer, the fuser or the head."""

from __future__ import annotations

from typing import Any, NamedTuple

from peft import PeftModel
from torch import nn

from hf_layerfusion.errors import UserError
from hf_layerfusion.regularizers.encoder_layers import get_encoders, get_layers

EMBEDDINGS, LAYER, TOP, FUSION, HEAD = "embeddings", "layer", "encoder", "fusion", "head"


class ParameterPart(NamedTuple):
    """The part of a model that a parameter belongs to.

    Attributes:
        part: `EMBEDDINGS` (by name, or a table outside the layers, such as GPT-2's `wte`), `LAYER`, `TOP` (what an
            encoder has beside these: a pooler, a last norm), `FUSION` (what is not the pretrained encoder) or `HEAD`
            (of that, what stands outside the base model).
        layer: the number of its layer, from 0 at the input; `None` elsewhere.
    """

    part: str
    layer: int | None = None

    @property
    def in_encoder(self) -> bool:
        """True if it belongs to the pretrained encoder."""
        return self.part in (EMBEDDINGS, LAYER, TOP)


def base_model_of(model: Any) -> Any:
    """Return the model below its adapters; a model without adapters as it is."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def parameter_parts(model: nn.Module) -> dict[int, ParameterPart]:
    """Return the part of each parameter of `model`, by the parameter's `id`. An adapter belongs to the layer that it
    changes."""
    whole = base_model_of(model)
    base = getattr(whole, "base_model", whole)
    inside_base = {id(parameter) for parameter in base.parameters()}
    places = {
        id(parameter): ParameterPart(FUSION if id(parameter) in inside_base else HEAD)
        for parameter in model.parameters()
    }
    for encoder in _encoders_of(model):
        # Not MPNet's `relative_attention_bias`, which every layer reads.
        tables = {
            id(module.weight)
            for name, module in encoder.named_modules()
            if isinstance(module, nn.Embedding) and not name.endswith("bias")
        }
        for name, parameter in encoder.named_parameters():
            embeds = "embed" in name or id(parameter) in tables
            places[id(parameter)] = ParameterPart(EMBEDDINGS if embeds else TOP)
        for number, layer in enumerate(get_layers(encoder) or ()):
            places |= {id(parameter): ParameterPart(LAYER, number) for parameter in layer.parameters()}
    return places


def depth_of(model: nn.Module) -> int:
    """Return the number of layers of the encoders of `model`.

    Raises:
        UserError: an encoder whose layers do not stand in one list.
    """
    depths = []
    for encoder in _encoders_of(model):
        layers = get_layers(encoder)
        if layers is None:
            raise UserError(
                f"layer_decay, frozen_layers and unfreeze_per_epoch need an encoder whose layers stand in one list, "
                f"found {type(encoder).__name__}; leave them out"
            )
        depths.append(len(layers))
    return max(depths)


def _encoders_of(model: nn.Module) -> list[nn.Module]:
    # A model that nests none is an encoder as a whole.
    return [*get_encoders(model)] or [model]
