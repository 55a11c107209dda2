"""Parameter groups: the learning rate and weight decay of each parameter, and what is frozen."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch import nn
from transformers.trainer_optimizer import is_optimizer_factory
from transformers.training_args import OptimizerNames

from hf_layerfusion.errors import UserError
from hf_layerfusion.training.parameter_parts import (
    EMBEDDINGS,
    FUSION,
    HEAD,
    TOP,
    ParameterPart,
    depth_of,
    parameter_parts,
)
from hf_layerfusion.training.training_arguments import LayerFusionTrainingArguments

GROUP_OPTIONS = ("fusion_learning_rate", "head_learning_rate", "embedding_learning_rate", "layer_decay")
"""Options that only an optimizer with parameter groups can honour."""


def freeze_encoder(model: nn.Module, args: LayerFusionTrainingArguments) -> None:
    """Switch off the gradients of what the arguments freeze.

    With `freeze_encoder` that is the whole pretrained encoder, with `frozen_layers` its embeddings and that many
    layers, with an embedding rate of 0 its embeddings.

    Raises:
        UserError: `frozen_layers` beyond the depth, or on an encoder whose layers do not stand in one list.
    """
    if args.frozen_layers and args.frozen_layers > (depth := depth_of(model)):
        raise UserError(
            f"frozen_layers must be at most the encoder's depth {depth}, found {args.frozen_layers}"
        )
    places = parameter_parts(model)
    for parameter in model.parameters():
        place = places[id(parameter)]
        lowest = place.part == EMBEDDINGS and (args.frozen_layers > 0 or args.embedding_learning_rate == 0)
        below = place.layer is not None and place.layer < args.frozen_layers
        if lowest or below or (args.freeze_encoder and place.in_encoder):
            parameter.requires_grad_(False)


def parameter_groups(
    model: nn.Module, args: LayerFusionTrainingArguments, decay_names: Collection[str]
) -> list[dict[str, Any]]:
    """Split the trainable parameters of `model` into groups for a `torch.optim.Optimizer`.

    Args:
        model: Any model; see `parameter_parts` for what counts as its encoder.
        args: Gives the rates, `layer_decay` and `weight_decay`.
        decay_names: Names of the parameters that weight decay applies to
            (`Trainer.get_decay_parameter_names(model)`); to all with `decay_all`.

    Returns:
        Groups, none of them empty, each with `name`, `params`, `lr` and `weight_decay`: `encoder`, `encoder_no_decay`,
        `fusion`, `fusion_no_decay`. Where layers or embeddings have rates of their own, these come before `encoder` as
        `embeddings`, `layer_0`, …; where heads have one, `head` comes last. Each trainable parameter is in one.

    Raises:
        UserError: no parameter is trainable, or `layer_decay` on an encoder whose layers do not stand in one list.
    """
    places = parameter_parts(model)
    depth = depth_of(model) if args.layer_decay != 1 else 0
    fusion_rate = args.learning_rate if args.fusion_learning_rate is None else args.fusion_learning_rate
    head_rate = fusion_rate if args.head_learning_rate is None else args.head_learning_rate

    def name_and_rate(place: ParameterPart) -> tuple[int, str, float]:
        """Return order, name and rate of a part of the model."""
        if place.part == EMBEDDINGS and args.embedding_learning_rate is not None:
            return 0, EMBEDDINGS, args.embedding_learning_rate
        if place.part == EMBEDDINGS and args.layer_decay != 1:
            return 0, EMBEDDINGS, args.learning_rate * args.layer_decay**depth
        if place.layer is not None and args.layer_decay != 1:
            return (
                1 + place.layer,
                f"layer_{place.layer}",
                args.learning_rate * args.layer_decay ** (depth - 1 - place.layer),
            )
        if place.in_encoder:
            return 1 + depth, TOP, args.learning_rate
        if place.part == HEAD and args.head_learning_rate is not None:
            return 3 + depth, HEAD, head_rate
        return 2 + depth, FUSION, fusion_rate

    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        order, part, rate = name_and_rate(places[id(parameter)])
        decays = args.decay_all or name in decay_names
        group: dict[str, Any] = {
            "name": part + ("" if decays else "_no_decay"),
            "params": [],
            "lr": rate,
            "weight_decay": args.weight_decay if decays else 0.0,
        }
        groups.setdefault((order, not decays), group)["params"].append(parameter)
    if not groups:
        raise UserError(
            f"model: {type(model).__name__} has no trainable parameter, all have requires_grad=False; "
            "unfreeze the head at least"
        )
    return [groups[key] for key in sorted(groups)]


def takes_groups(
    optimizer_class: Any, options: Mapping[str, Any], args: LayerFusionTrainingArguments
) -> bool:
    """Return whether an optimizer takes parameter groups, rather than making its own.

    Args:
        optimizer_class: The optimizer's class, or a factory of transformers.
        options: Its arguments.
        args: Names it in messages, and may ask for rates of some parameters.

    Raises:
        UserError: Rates of some parameters, and it makes its own groups.
    """
    if not is_optimizer_factory(optimizer_class) and not options.keys() & {
        "params",
        "model",
        "optimizer_dict",
    }:
        return True
    asked = [name for name in GROUP_OPTIONS if getattr(args, name) not in (None, 1)]
    if asked:
        raise UserError(
            f"{', '.join(asked)} needs an optimizer that takes parameter groups, and "
            f"optim={OptimizerNames(args.optim).value} makes its own; "
            "choose another, such as adamw_torch, or leave the option out"
        )
    return False
