"""Preparation of a model for training: what is frozen, and what the options rule out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from torch import nn
from transformers import Trainer, set_seed
from transformers.trainer_utils import number_of_arguments

from hf_layerfusion.errors import UserError
from hf_layerfusion.training.adapters import check_adapters
from hf_layerfusion.training.frozen_state_cache import check_cacheable
from hf_layerfusion.training.launch_checks import check_lstm_precision
from hf_layerfusion.training.parameter_groups import freeze_encoder, parameter_groups
from hf_layerfusion.training.training_arguments import LayerFusionTrainingArguments


class PreparedModelInit:
    """A `model_init` whose models are frozen as the options say. The seed is set once more after it, so that training
    draws what it would draw for a model made before its Trainer.

    Args:
        model_init: Makes a model, of nothing or of a trial.
        args: The run's options, which a search changes from trial to trial.
    """

    def __init__(self, model_init: Callable[..., Any], args: LayerFusionTrainingArguments) -> None:
        self.model_init, self.args = model_init, args

    def __call__(self, trial: Any) -> Any:
        model = self.model_init(trial) if number_of_arguments(self.model_init) == 1 else self.model_init()
        if model is not None:
            prepare_model(model, self.args)
        set_seed(self.args.seed)
        return model


def prepare_model(model: Any, args: LayerFusionTrainingArguments) -> None:
    """Freeze what the options keep as it is.

    Raises:
        UserError: Options that the model cannot be trained with.
    """
    check_lstm_precision(model, args)
    check_adapters(model, args)
    freeze_encoder(model, args)
    check_cacheable(model, args)
    if args.gradient_surgery is not None and args.freeze_encoder and hasattr(model, "head_of"):
        raise UserError(
            f"gradient_surgery={args.gradient_surgery} needs parameters that tasks share, found freeze_encoder=True, "
            "which trains the head of each alone; leave surgery out"
        )


def group_rows(model: nn.Module, args: LayerFusionTrainingArguments) -> list[list[str]]:
    """Return the rows that `--dry_run` prints of parameter groups: name, rate, weight decay, tensors, parameters.

    The last row is of what is frozen. No Trainer is made, as it would make the output folder.

    Raises:
        UserError: as `prepare_model` and `parameter_groups`.
    """
    prepare_model(model, args)
    decay_names = Trainer.get_decay_parameter_names(cast(Any, None), model)

    def row(name: str, rate: str, decay: str, parameters: list[nn.Parameter]) -> list[str]:
        total = sum(parameter.numel() for parameter in parameters)
        return [name, rate, decay, f"{len(parameters)}", f"{total:,}"]

    groups = parameter_groups(model, args, decay_names)
    rows = [row(g["name"], f"{g['lr']:.3g}", f"{g['weight_decay']:g}", g["params"]) for g in groups]
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    return [*rows, row("frozen", "0", "", frozen)] if frozen else rows
