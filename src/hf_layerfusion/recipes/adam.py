"""Adam as an alternative to AdamW, which `--optim` does not offer."""

from typing import Any

import torch
from torch.optim import Optimizer
from transformers import Trainer

from hf_layerfusion.errors import UserError
from hf_layerfusion.recipes.recipe_arguments import RunTrainingArguments


def chosen_optimizer(arguments: RunTrainingArguments) -> tuple[type[Optimizer], dict[str, Any]] | None:
    """Return the Trainer's `optimizer_cls_and_kwargs` for Adam, or None to follow `--optim`.

    Adam is chosen by `decoupled_weight_decay=False`: weight decay is then an L2 term in the gradient instead of
    AdamW's learning rate × weight_decay.

    Raises:
        UserError: `--optim` names an optimizer other than AdamW.
    """
    if arguments.decoupled_weight_decay:
        return None
    optimizer_class, options = Trainer.get_optimizer_cls_and_kwargs(arguments)
    if optimizer_class is not torch.optim.AdamW:
        raise UserError(
            f"--decoupled_weight_decay False replaces AdamW by Adam, found --optim {arguments.optim.value}; set one "
            "of them to its default."
        )
    return torch.optim.Adam, options
