"""Adam in place of AdamW, which `--optim` does not know."""

from typing import Any

import torch
from torch.optim import Optimizer
from transformers import Trainer

from hf_layerfusion.errors import UserError
from hf_layerfusion.recipes.recipe_arguments import RunTrainingArguments


def chosen_optimizer(arguments: RunTrainingArguments) -> tuple[type[Optimizer], dict[str, Any]] | None:
    """A Trainer's `optimizer_cls_and_kwargs`: Adam where `decoupled_weight_decay` is False, whose decay is L2 in the
    gradient and not AdamW's rate × weight_decay; otherwise `None`, for what `--optim` says.

    Raises:
        UserError: another optimizer than AdamW to be made Adam of.
    """
    if arguments.decoupled_weight_decay:
        return None
    optimizer_class, options = Trainer.get_optimizer_cls_and_kwargs(arguments)
    if optimizer_class is not torch.optim.AdamW:
        raise UserError(
            f"--decoupled_weight_decay False makes Adam of AdamW, found --optim {arguments.optim.value}; set one "
            "of them to its default."
        )
    return torch.optim.Adam, options
