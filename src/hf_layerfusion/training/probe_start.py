"""Initialization of a head on a frozen encoder from a linear probe."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging

from hf_layerfusion.errors import UserError
from hf_layerfusion.evaluation.linear_probe import fit_linear_probe
from hf_layerfusion.training.class_balance import IGNORED

logger = logging.get_logger(__name__)


class ProbeStart(TrainerCallback):
    """Standardises a fuser's layers and, with `init_from_probe`, fits the head, before the first step of a run.

    A resumed run has both from its checkpoint.

    Args:
        batches: makes an iterator over the training data, in which the encoder's states stand in place of ids.
    """

    def __init__(self, batches: Callable[[], Iterable[Mapping[str, Any]]]) -> None:
        self.batches = batches

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Standardise the fuser's layers and fit the head, unless the run resumes."""
        if state.global_step > 0:
            return
        model = kwargs["model"]
        standardize_layers(model, self.batches())
        if getattr(args, "init_from_probe", False):
            strength = start_from_probe(model, self.batches(), args.seed)
            logger.info(f"init_from_probe: the head starts from a linear probe of strength {strength:g}")


def check_probe_start(model: Any) -> None:
    """Check that a model's head can start from a probe.

    Raises:
        UserError: a head that does not end in one dense layer, or labels of several classes a text.
    """
    if _last_layer(model) is None:
        raise UserError(
            f"init_from_probe needs a model whose head ends in one dense layer on a vector of the text, found "
            f"{type(model).__name__}; use BertWithPoolingModule or a residual_head, or leave it out"
        )
    if model.config.problem_type == "multi_label_classification":
        raise UserError(
            "init_from_probe needs one class or value a text, found problem_type='multi_label_classification'; leave "
            "it out"
        )


@torch.no_grad()
def standardize_layers(model: PreTrainedModel, batches: Iterable[Mapping[str, Any]]) -> None:
    """Set the mean and the scale of a fuser that standardises its layers' vectors, from the texts of `batches`.

    Models whose fuser does not standardise are left as they are.

    Args:
        model: the model, on a frozen encoder.
        batches: its inputs, `labels` are not used.
    """
    fuser: Any = getattr(model.base_model, "fuser", None)
    if not hasattr(fuser, "standardize"):
        return
    count, total, squares = 0, torch.zeros(()), torch.zeros(())

    def add(module: nn.Module, args: tuple[Any, ...]) -> None:
        nonlocal count, total, squares
        # On the CPU, as not every device knows float64.
        vectors = module.vectors(*args).float().cpu().double()  # type: ignore[operator]
        count += len(vectors)
        total, squares = total + vectors.sum(0), squares + vectors.square().sum(0)

    _run(model, fuser, add, batches)
    mean = total / count
    deviation = (squares / count - mean.square()).clamp(min=0).sqrt()
    fuser.standardize(mean, deviation)


@torch.no_grad()
def start_from_probe(model: PreTrainedModel, batches: Iterable[Mapping[str, Any]], seed: int) -> float:
    """Give the head's last layer the weights of a linear probe on what that layer reads.

    Dropout is off meanwhile, so that the model then answers as the probe. What stands between the encoder and the last
    layer stays as it is.

    Args:
        model: the model, on a frozen encoder.
        batches: its inputs, with `labels`.
        seed: of the probe's cross-validation.

    Returns:
        The strength of the penalty that cross-validation chose.

    Raises:
        UserError: as `check_probe_start`; labels on which no probe can be fitted.
    """
    check_probe_start(model)
    last: Any = _last_layer(model)
    features: list[Tensor] = []
    labels: list[Tensor] = []

    def keep(module: nn.Module, args: tuple[Any, ...]) -> None:
        features.append(args[0].float().cpu())

    def with_labels_kept() -> Iterator[Mapping[str, Any]]:
        for batch in batches:
            labels.append(batch["labels"])
            yield batch

    _run(model, last, keep, with_labels_kept())
    targets = torch.cat(labels).cpu().numpy()
    is_labelled = np.isfinite(targets) & (targets != IGNORED)
    is_labelled = is_labelled.reshape(len(targets), -1).all(axis=1)
    targets = targets[is_labelled]
    is_regression = last.out_features == 1 or np.issubdtype(targets.dtype, np.floating)
    try:
        probe = fit_linear_probe(
            torch.cat(features).numpy()[is_labelled],
            targets.reshape(len(targets)),
            "regression" if is_regression else "single_label_classification",
            num_classes=last.out_features,
            seed=seed,
        )
    except ValueError as error:
        raise UserError(f"init_from_probe: {error}, or leave init_from_probe out") from error
    last.weight.copy_(torch.from_numpy(probe.weight))
    last.bias.copy_(torch.from_numpy(probe.bias))
    return probe.strength


def _last_layer(model: Any) -> nn.Linear | None:
    """Return the dense layer that makes logits of a text's vector: of a residual head, where there is one."""
    residual = getattr(model, "residual", None)
    if residual is None and hasattr(model.config, "token_reduction"):
        return None  # logits are of tokens
    head = getattr(model, "classifier", None) if residual is None else residual.head
    last = getattr(head, "out_proj", None)
    return last if isinstance(last, nn.Linear) else None


def _run(model: PreTrainedModel, module: nn.Module, hook: Any, batches: Iterable[Mapping[str, Any]]) -> None:
    """Run batches in evaluation mode, with a hook on what `module` is given."""
    was_training = model.training
    model.eval()
    handle = module.register_forward_pre_hook(hook)
    try:
        for batch in batches:
            model(**{n: v.to(model.device) for n, v in batch.items() if n != "labels" and torch.is_tensor(v)})
    finally:
        handle.remove()
        model.train(was_training)
