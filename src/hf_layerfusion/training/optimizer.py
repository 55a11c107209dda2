"""Which parameter learns at which rate."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel

from hf_layerfusion.errors import UserError
from hf_layerfusion.training.arguments import LayerFusionTrainingArguments


def encoder_parameter_ids(model: nn.Module) -> set[int]:
    """The `id` of each parameter of the pretrained encoder: of the innermost `PreTrainedModel`s in `model`.

    That is `model.bert` in a `BertForSequenceClassification`, and the wrapped encoder in a model that nests
    one two levels deep. A model that nests none is an encoder as a whole.
    """
    nested = [module for module in model.modules() if isinstance(module, PreTrainedModel)]
    innermost = [
        module
        for module in nested
        if not any(isinstance(inner, PreTrainedModel) for inner in module.modules() if inner is not module)
    ]
    return {id(parameter) for encoder in innermost or [model] for parameter in encoder.parameters()}


def freeze_encoder(model: nn.Module) -> None:
    """Switch off the gradients of the pretrained encoder of `model`; see `encoder_parameter_ids`."""
    encoder = encoder_parameter_ids(model)
    for parameter in model.parameters():
        if id(parameter) in encoder:
            parameter.requires_grad_(False)


def parameter_groups(
    model: nn.Module, args: LayerFusionTrainingArguments, decay_names: Collection[str]
) -> list[dict[str, Any]]:
    """Split the trainable parameters of `model` into groups for a `torch.optim.Optimizer`.

    Args:
        model: Any model; see `encoder_parameter_ids` for what counts as its encoder.
        args: Gives `learning_rate`, `fusion_learning_rate` and `weight_decay`.
        decay_names: Names of the parameters that weight decay applies to
            (`Trainer.get_decay_parameter_names(model)`).

    Returns:
        Up to four groups, none of them empty, each with `name`, `params`, `lr` and `weight_decay`, in the
        order `encoder`, `encoder_no_decay`, `fusion`, `fusion_no_decay`. Each trainable parameter is in one.

    Raises:
        UserError: no parameter is trainable.
    """
    encoder = encoder_parameter_ids(model)
    fusion_rate = args.learning_rate if args.fusion_learning_rate is None else args.fusion_learning_rate
    groups: dict[tuple[bool, bool], dict[str, Any]] = {
        (in_encoder, decays): {
            "name": ("encoder" if in_encoder else "fusion") + ("" if decays else "_no_decay"),
            "params": [],
            "lr": args.learning_rate if in_encoder else fusion_rate,
            "weight_decay": args.weight_decay if decays else 0.0,
        }
        for in_encoder in (True, False)
        for decays in (True, False)
    }
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[id(parameter) in encoder, name in decay_names]["params"].append(parameter)
    filled = [group for group in groups.values() if group["params"]]
    if not filled:
        raise UserError(
            f"model: {type(model).__name__} has no trainable parameter, all have requires_grad=False; "
            "unfreeze the head at least"
        )
    return filled


def epoch_decay_schedule(optimizer: Optimizer, decay: float, steps_per_epoch: int) -> LambdaLR:
    """Multiply every rate by `decay` after each `steps_per_epoch` optimizer steps (GRUBERT, section 2.3)."""
    return LambdaLR(optimizer, lambda step: decay ** (step // steps_per_epoch))
