"""Initialization of a head on a frozen encoder from a linear probe."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import has_length
from transformers.utils import logging

from hf_layerfusion.errors import UserError
from hf_layerfusion.evaluation.linear_probe import ProbeProblem, check_targets, fit_linear_probe
from hf_layerfusion.metric_registry import IGNORED
from hf_layerfusion.regularizers.task_outputs import ONE_TASK
from hf_layerfusion.training.task_data import LABELS, TASK, TaskDataset

logger = logging.get_logger(__name__)


Batches = Iterable[Mapping[str, Any]]


class ProbeStart(TrainerCallback):
    """Standardizes a fuser's layers and, with `init_from_probe`, fits the head, before the first step of a run; with
    several tasks, those of each.

    A resumed run has both from its checkpoint.

    Args:
        batches: makes, by task, an iterator over the training data, in which the encoder's states stand in place of
            ids.
    """

    def __init__(self, batches: Callable[[], Mapping[str, Batches]]) -> None:
        self.batches = batches

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Standardize the fuser's layers and fit the head, unless the run resumes."""
        if state.global_step > 0:
            return
        model = kwargs["model"]
        starts_anew = getattr(args, "init_from_probe", False)
        for task, batches in self.batches().items():
            # A head that has been trained reads vectors as they were standardized then.
            if starts_anew or not _is_standardized(_fuser(model, task)):
                standardize_layers(model, batches, task)
        if starts_anew:
            for task, batches in self.batches().items():
                strength = start_from_probe(model, batches, args.seed, task)
                logger.info(
                    f"init_from_probe: the head{f' of {task}' if task else ''} starts from a linear probe of strength "
                    f"{strength:g}"
                )


def check_probe_start(model: Any, tasks: Iterable[str] = (ONE_TASK,)) -> None:
    """Check that the heads of a model can start from a probe.

    Args:
        model: the model.
        tasks: the tasks that are trained.

    Raises:
        UserError: a head that does not end in one dense layer, or labels of several classes a text.
    """
    for task in tasks:
        where = _place(task)
        if _last_layer(model, task) is None:
            raise UserError(
                f"{where}init_from_probe needs a head that ends in one dense layer on a vector of the text, found "
                + (
                    "head='cosine'; use the linear head with features"
                    if task
                    else f"that of {type(model).__name__}; use BertWithPoolingModule, CerbertusForMultitask or a "
                    "residual_head"
                )
                + ", or leave it out"
            )
        if _task_config(model, task).problem_type == "multi_label_classification":
            raise UserError(
                f"{where}init_from_probe, which the recipes frozen and tuned set, needs one class or value a text, "
                "found problem_type='multi_label_classification'; leave it out, or set it to False"
            )


def check_probe_labels(model: Any, rows: Mapping[str, Any]) -> None:
    """Check that a probe can be fitted to the labels of training data, before texts are encoded.

    Args:
        model: the model, which has passed `check_probe_start`.
        rows: the training data of each task, or of `ONE_TASK`; streams and rows without `labels` are not checked.

    Raises:
        UserError: labels on which no probe can be fitted.
    """
    for task, of_task in rows.items():
        if has_length(of_task) and len(of_task):
            dataset = TaskDataset(task or "one", of_task, "training")
            if dataset.has_labels:
                _probe_targets(model, task, np.asarray(dataset.column(LABELS)))


@torch.no_grad()
def standardize_layers(model: PreTrainedModel, batches: Batches, task: str = ONE_TASK) -> None:
    """Set the mean and the scale of a fuser that standardizes its layers' vectors, from the texts of `batches`.

    Models whose fuser does not standardize are left as they are.

    Args:
        model: the model, on a frozen encoder.
        batches: its inputs, `labels` are not used.
        task: the task whose fuser it is.
    """
    fuser = _fuser(model, task)
    if not hasattr(fuser, "standardize"):
        return
    count, total, squares = 0, torch.zeros(()), torch.zeros(())

    def add(module: nn.Module, args: tuple[Any, ...]) -> None:
        nonlocal count, total, squares
        # On the CPU, as not every device knows float64.
        vectors = module.vectors(*args).float().cpu().double()  # type: ignore[operator]
        count += len(vectors)
        total, squares = total + vectors.sum(0), squares + vectors.square().sum(0)

    _run(model, fuser, add, batches, task)
    mean = total / count
    deviation = (squares / count - mean.square()).clamp(min=0).sqrt()
    fuser.standardize(mean, deviation)


@torch.no_grad()
def start_from_probe(model: PreTrainedModel, batches: Batches, seed: int, task: str = ONE_TASK) -> float:
    """Give the head's last layer the weights of a linear probe on what that layer reads.

    Dropout is off meanwhile, so that the model then answers as the probe. What stands between the encoder and the last
    layer stays as it is.

    Args:
        model: the model, on a frozen encoder.
        batches: its inputs, with `labels`.
        seed: of the probe's cross-validation.
        task: the task whose head it is.

    Returns:
        The strength of the penalty that cross-validation chose.

    Raises:
        UserError: labels on which no probe can be fitted.
    """
    last: Any = _last_layer(model, task)
    features: list[Tensor] = []
    labels: list[Tensor] = []

    def keep(module: nn.Module, args: tuple[Any, ...]) -> None:
        features.append(args[0].float().cpu())

    def with_labels_kept() -> Iterator[Mapping[str, Any]]:
        for batch in batches:
            labels.append(batch["labels"])
            yield batch

    _run(model, last, keep, with_labels_kept(), task)
    targets, is_labelled, problem = _probe_targets(model, task, torch.cat(labels).cpu().numpy())
    is_logit = _has_one_logit(model, task)
    try:
        probe = fit_linear_probe(
            torch.cat(features).numpy()[is_labelled],
            targets,
            problem,
            num_classes=2 if is_logit else last.out_features,
            seed=seed,
        )
    except ValueError as error:
        raise _refusal(task, error) from error
    weight, bias = probe.weight, probe.bias
    if is_logit:
        weight, bias = weight[1:] - weight[:1], bias[1:] - bias[:1]
    last.weight.copy_(torch.from_numpy(weight))
    last.bias.copy_(torch.from_numpy(bias))
    return probe.strength


def _probe_targets(
    model: Any, task: str, labels: npt.NDArray[Any]
) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_], ProbeProblem]:
    """Return what a probe is fitted to: the labels that there are, which rows have one, and the problem.

    Raises:
        UserError: labels on which no probe can be fitted.
    """
    last: Any = _last_layer(model, task)
    is_value = last.out_features == 1 or np.issubdtype(labels.dtype, np.floating)
    is_regression = is_value and not _has_one_logit(model, task)
    is_labelled = np.isfinite(labels) if is_regression else np.isfinite(labels) & (labels != IGNORED)
    is_labelled = is_labelled.reshape(len(labels), -1).all(axis=1)
    targets = labels[is_labelled].reshape(int(is_labelled.sum()))
    problem: ProbeProblem = "regression" if is_regression else "single_label_classification"
    try:
        check_targets(targets, problem)
    except ValueError as error:
        raise _refusal(task, error) from error
    return targets, is_labelled, problem


def _refusal(task: str, error: ValueError) -> UserError:
    return UserError(f"{_place(task)}init_from_probe: {error}, or leave init_from_probe out")


def _place(task: str) -> str:
    return f"task '{task}': " if task else ""


def _has_one_logit(model: Any, task: str) -> bool:
    """Return whether a head puts out the logit of the second of two classes alone."""
    return getattr(_task_config(model, task), "loss", None) == "binary_cross_entropy"


def _is_standardized(fuser: Any) -> bool:
    """Return whether a fuser has a mean and a scale, from training or from its checkpoint."""
    if not hasattr(fuser, "standardize"):
        return True
    return bool(fuser.mean.any()) or not bool((fuser.scale == 1).all())


def _task_config(model: Any, task: str) -> Any:
    """Return the configuration of a task, which for `ONE_TASK` is that of the model."""
    return model.config.task_configs[task] if task else model.config


def _task_head(model: Any, task: str) -> Any:
    """Return the head of a task of several, or None."""
    return model.head_of(task or model.config.default_task) if hasattr(model, "head_of") else None


def _fuser(model: Any, task: str) -> Any:
    head = _task_head(model, task)
    if head is None:
        return getattr(model.base_model, "fuser", None)
    return next(iter(head.readers.values())).fuser


def _last_layer(model: Any, task: str) -> nn.Linear | None:
    """Return the dense layer that makes logits of a text's vector: of a residual head, where there is one."""
    of_task = _task_head(model, task)
    residual = getattr(model, "residual", None)
    if of_task is not None:
        head = getattr(of_task.head, "classifier", None)
    elif residual is not None:
        head = residual.head
    elif hasattr(model.config, "token_reduction"):
        return None  # logits are of tokens
    else:
        head = getattr(model, "classifier", None)
    last = getattr(head, "out_proj", None)
    return last if isinstance(last, nn.Linear) else None


def _run(model: PreTrainedModel, module: nn.Module, hook: Any, batches: Batches, task: str) -> None:
    """Run batches in evaluation mode, with a hook on what `module` is given."""
    was_training = model.training
    named = {TASK: task} if task else {}
    model.eval()
    handle = module.register_forward_pre_hook(hook)
    try:
        for batch in batches:
            tensors = {
                n: v.to(model.device) for n, v in batch.items() if n != "labels" and torch.is_tensor(v)
            }
            model(**tensors, **named)
    finally:
        handle.remove()
        model.train(was_training)
