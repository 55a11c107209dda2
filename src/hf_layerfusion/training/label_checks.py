"""Checks of the labels of tasks' data sets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset as ArrowDataset

from hf_layerfusion.errors import UserError
from hf_layerfusion.metric_registry import IGNORED
from hf_layerfusion.regularizers.task_outputs import ONE_TASK
from hf_layerfusion.training.class_balance import RowClasses, class_labels, value_bins
from hf_layerfusion.training.task_data import LABELS, MultitaskDataset, TaskDataset


def with_labels(datasets: Mapping[str, TaskDataset], needed: bool = True) -> dict[str, TaskDataset]:
    """Return the evaluation data that have labels.

    Raises:
        UserError: none has, and some are `needed`.
    """
    found = {task: dataset for task, dataset in datasets.items() if dataset.has_labels}
    if needed and not found:
        raise UserError(
            "eval_dataset must have labels for one task at least, found none; call predict, which needs none"
        )
    return found


def check_labels(dataset: TaskDataset, task: Any, role: str) -> None:
    """Check each label of a data set, unless it computes its rows on access.

    Args:
        dataset: the rows of one task, with labels.
        task: what the model's configuration says of the task: `problem_type`, `num_labels`, `value_range`, `loss`.
        role: "training" or "evaluation", for messages.

    Raises:
        UserError: the first label that is no class of the task, no finite number within its range, or no list of
            numbers from 0 to 1, with its row, counted from 0.
    """
    if not isinstance(dataset.rows, ArrowDataset | Sequence):
        return
    labels = list(dataset.column(LABELS))
    if not _fit(labels, task):
        row = next((row for row, label in enumerate(labels) if not _fit([label], task)), 0)
        rule = {
            "single_label_classification": f"a class from 0 to {task.num_labels - 1}, or {IGNORED} for none",
            "multi_label_classification": f"a list of {task.num_labels} numbers from 0 to 1",
            "regression": f"a finite number{f' within {task.value_range}' if task.value_range else ''}",
        }[task.problem_type]
        raise UserError(
            f"{role} data of task '{dataset.task}': row {row}: the label must be {rule}, found {labels[row]!r}; "
            "correct the data or what the model's configuration says of the task"
        )


def _fit(labels: Sequence[Any], task: Any) -> bool:
    """Return whether all labels, as an array like that of a batch, are the task's."""
    try:
        values = np.array(labels)
    except ValueError:  # lists of different lengths
        return False
    kinds = "biu" if task.loss == "cross_entropy" else "biuf"
    shape = (task.num_labels,) if task.problem_type == "multi_label_classification" else ()
    if values.dtype.kind not in kinds or values.shape[1:] not in (shape, shape or (1,)):
        return False
    low, high = 0.0, 1.0
    if task.problem_type == "single_label_classification":
        high = task.num_labels - 1
        values = values[values != IGNORED]
    elif task.problem_type == "regression":
        low, high = task.value_range or (-math.inf, math.inf)
    return bool(np.all((low <= values) & (values <= high) & np.isfinite(values)))


def classes_of_tasks(train_dataset: Any, option: str, bins: int | None = None) -> dict[str, RowClasses]:
    """Return what the training rows are balanced by, for each task that has classes or values in bins; that of one task
    is under `ONE_TASK`.

    Args:
        train_dataset: The training data of one task or of several; None for none.
        option: The value of `class_balance`, for the message.
        bins: Number of bins of a regression's values; None leaves regressions out.

    Raises:
        UserError: No task can be balanced, or there are bins and no regression.
    """
    if train_dataset is None:
        return {}
    if isinstance(train_dataset, MultitaskDataset):
        datasets = train_dataset.tasks
    else:
        datasets = {ONE_TASK: TaskDataset("one", train_dataset, "training")}
    classes: dict[str, RowClasses] = {}
    for task, dataset in datasets.items():
        column = next((name for name in (LABELS, "label") if name in dataset.columns), None)
        if column is None:
            continue
        labels = dataset.column(column)
        if (found := class_labels(labels)) is not None:
            classes[task] = RowClasses(found)
        elif bins is not None and (binned := value_bins(labels, bins)) is not None:
            classes[task] = binned
    if bins is not None and all(of_task.edges is None for of_task in classes.values()):
        raise UserError(
            f"balance_bins={bins} needs a task whose labels are single numbers with decimals, found none; leave it out"
        )
    if not classes:
        raise UserError(
            f"class_balance={option} needs a task whose labels are single whole numbers, found none; set "
            "class_balance=none"
        )
    return classes
