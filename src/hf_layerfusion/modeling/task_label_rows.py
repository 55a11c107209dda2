"""Output layers of several tasks whose rows follow the names of their labels; see `label_rows`."""

from collections.abc import Mapping
from typing import Any

from transformers.utils import logging

from .heads import ClassificationHead
from .label_rows import output_layers, replace_rows, rows_by_name, set_rows
from .task_config import TaskConfig
from .task_heads import CosineHead, TaskHead
from .task_losses import TASK_LOSSES

logger = logging.get_logger(__name__)


def set_tasks(model: Any, tasks: Mapping[str, Mapping[str, Any]]) -> None:
    """Change the tasks of a multi-task model that was loaded with the labels of its checkpoint.

    The rows of each head follow the names of the labels, as in `label_rows.set_labels`. A regression with another
    `value_range` gets a new head too.

    Raises:
        ValueError: If the two classes of a cosine head are in another order.
    """
    for name, fields in tasks.items():
        wanted = TaskConfig(**fields)
        for head in _task_heads(model, name):
            if head.task != wanted:
                _set_task(model, head, wanted, f"task '{name}'")
    model.config.tasks = {name: dict(fields) for name, fields in tasks.items()}
    model.config.check()
    model.num_labels = model.config.num_labels


def rename_only_task(model: Any, names: list[str], problem_type: str | None) -> None:
    """Set the labels of the head of a model that declares no tasks."""
    for name in model.heads:
        for head in _task_heads(model, name):
            labels = [] if head.task.is_regression and len(names) == 1 else names
            kind = problem_type or ("regression" if len(names) == 1 else "single_label_classification")
            task = TaskConfig(problem_type=kind, labels=labels)  # type: ignore[arg-type]
            head.task, head.loss = task, TASK_LOSSES[str(task.loss)](task)


def _task_heads(model: Any, name: str) -> list[TaskHead]:
    return [module for module in model.heads[name].modules() if isinstance(module, TaskHead)]


def _set_task(model: Any, head: TaskHead, wanted: TaskConfig, what: str) -> None:
    stored, before = head.task, head.loss
    after = TASK_LOSSES[str(wanted.loss)](wanted)
    rows = rows_by_name(stored.labels, wanted.labels)
    if wanted.head == "cosine":
        if wanted.labels and rows == [1, 0]:
            raise ValueError(
                f"{what}: the classes of a cosine head must keep their order, {stored.labels}, found {wanted.labels}: "
                "its cosine is the second one's probability; give them in that order."
            )
        head.task, head.loss, head.head = wanted, after, CosineHead(wanted.value_range)
        return
    head.task, head.loss = wanted, after
    heads = [module for module in head.modules() if isinstance(module, ClassificationHead)]
    layers = [layer for each in heads for layer in output_layers(each)]
    if after.num_outputs == len(wanted.labels):
        if before.num_outputs != len(stored.labels):
            rows = [None] * len(wanted.labels)
        if rows != list(range(before.num_outputs)):
            replace_rows(model, layers, rows, wanted.labels, what)
        return
    # One output: a value, or the second of two classes.
    ranges = [task.value_range for task in (stored, wanted) if task.value_range is not None]
    is_same = type(after) is type(before) and stored.is_regression == wanted.is_regression
    if is_same and rows == [1, 0]:
        # A probability becomes 1 - p, a logit its negative.
        for layer in layers:
            set_rows(model, layer, [0], sign=-1.0, shift=1.0 if wanted.loss == "mse" else 0.0)
    elif not is_same or any(each != ranges[0] for each in ranges) or rows != list(range(len(stored.labels))):
        logger.warning(
            f"{what} was trained on other labels, another value_range or another loss: its output layer is "
            "initialized at random; train it."
        )
        for layer in layers:
            set_rows(model, layer, [None])
