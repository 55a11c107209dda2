"""Balancing of classes of unequal size, and of the ranges of a regression's values, by sampling or by weights.

ExTraBERT, section 7, names "more equal representation of all classes in tasks" as future work, and section 6 the peaks
of STS's values as what to balance.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hf_layerfusion.errors import UserError
from hf_layerfusion.metric_registry import IGNORED
from hf_layerfusion.regularizers.task_outputs import task_inputs


def balanced_rows(classes: Sequence[int], generator: torch.Generator) -> list[int]:
    """Draw as many rows as there are, each class equally often to within one row.

    Rows of a rare class come several times, each as often as the others to within one; of a frequent one, those
    that come are drawn at random.

    Args:
        classes: class of each row; rows of class -100 are left out.
        generator: the source of chance.
    """
    rows_of: dict[int, list[int]] = {}
    for row, label in enumerate(classes):
        if label != IGNORED:
            rows_of.setdefault(label, []).append(row)
    share, rest = divmod(len(classes), len(rows_of))
    favoured = set(torch.randperm(len(rows_of), generator=generator)[:rest].tolist())
    chosen: list[int] = []
    for index, label in enumerate(sorted(rows_of)):
        rows = rows_of[label]
        times, more = divmod(share + (index in favoured), len(rows))
        drawn = torch.randperm(len(rows), generator=generator)[:more].tolist()
        chosen += rows * times + [rows[place] for place in drawn]
    return chosen


def class_weights(classes: Sequence[int]) -> Tensor:
    """Return the weight `[C]` of each class, N / (C · n_c); their mean over all rows is 1.

    Args:
        classes: class of each row, 0 to C - 1; rows of class -100 do not count. A class without rows weighs 1 and
            is none of the C.
    """
    counts = Counter(label for label in classes if label != IGNORED)
    weights = torch.ones(max(counts) + 1)
    for label, count in counts.items():
        weights[label] = counts.total() / (len(counts) * count)
    return weights


def weighted_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
    """Return the mean over the rows of the cross-entropy times the weight of the row's class.

    The sum is divided by the number of rows, not by that of their weights, so that the means of the parts of a batch
    make up that of the whole.

    Args:
        logits: `[B, C]`.
        labels: `[B]`; rows of label -100 do not count.
        weights: `[C]`; None weighs every class as 1.
    """
    total = F.cross_entropy(logits.float(), labels, weights, ignore_index=IGNORED, reduction="sum")
    return total / (labels != IGNORED).sum()


def class_labels(labels: Sequence[Any]) -> list[int] | None:
    """Return the class of each row, or None if labels are not single whole numbers or no row has one."""
    if not all(isinstance(label, Integral) for label in labels):
        return None
    classes = [int(label) for label in labels]
    return classes if any(label != IGNORED for label in classes) else None


class RowClasses(NamedTuple):
    """Classes, or bins of values, by which the rows of a task are balanced.

    Attributes:
        classes: class of each row, or the bin of its value.
        edges: of a regression, the values `[bins - 1]` at which a next bin begins; None for classes.
    """

    classes: list[int]
    edges: Tensor | None = None


def value_bins(labels: Sequence[Any], bins: int) -> RowClasses | None:
    """Return the bin of each row's value, of bins of equal width between the lowest and the highest value (as in Yang
    et al. 2021, *Delving into deep imbalanced regression*), or None if labels are not single finite numbers.

    Args:
        labels: value of each row.
        bins: number of bins; those without a row take no part.
    """
    values = np.asarray(labels, dtype=object)
    if values.ndim != 1 or not all(isinstance(value, Real) for value in labels):
        return None
    values = values.astype(np.float32)
    if not np.isfinite(values).all():
        return None
    edges = torch.from_numpy(np.histogram_bin_edges(values, bins)[1:-1].astype(np.float32))
    return RowClasses(bins_of(torch.from_numpy(values), edges).tolist(), edges)


def bins_of(values: Tensor, edges: Tensor) -> Tensor:
    """Return the bin of each value; a value that is an edge belongs to the bin above."""
    return torch.bucketize(values.float(), edges.to(values.device), right=True)


def weighted_squared_error(values: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Return the mean over the rows of the squared error times the weight of the row.

    Args:
        values: `[B]` or `[B, 1]`.
        labels: `[B]` or `[B, 1]`.
        weights: `[B]`.
    """
    errors = F.mse_loss(values.float().view(-1), labels.float().view(-1), reduction="none")
    return (weights * errors).mean()


class ClassWeights:
    """Weighs each task's loss by class or bin in place of the model's own loss, which must be cross-entropy, or of a
    regression the mean squared error.

    Args:
        classes: of each task that is balanced, the classes of its training rows.
    """

    def __init__(self, classes: Mapping[str, RowClasses]) -> None:
        self.weights = {task: class_weights(of_task.classes) for task, of_task in classes.items()}
        self.edges = {task: of_task.edges for task, of_task in classes.items()}
        self._checked: set[str] = set()

    def weigh(self, inputs: dict[str, Any], outputs: Any, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the losses of a batch's tasks, weighed where they are balanced.

        Args:
            inputs: The batch, of one task or of several.
            outputs: The model's output for it.
            losses: The model's own losses, by task.

        Raises:
            UserError: As `weighed`.
        """
        batches = task_inputs(inputs) if self.weights else {}
        for task in losses.keys() & self.weights.keys():
            logits = outputs["logits"]
            of_task = logits[task] if isinstance(logits, Mapping) else logits
            losses[task] = self.weighed(task, losses[task], of_task, batches[task]["labels"])
        return losses

    def weighed(self, task: str, loss: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of a task's batch, weighed by class or bin; a task that is not balanced keeps its loss.

        Args:
            task: the task's name.
            loss: the model's own loss; it is compared with the unweighed one at the task's first batch.
            logits: `[B, C]`; of a regression `[B, 1]` or `[B]`.
            labels: `[B]`.

        Raises:
            UserError: the model's loss is not the cross-entropy, or the squared error, of its logits.
        """
        if task not in self.weights:
            return loss
        if task not in self._checked:
            self._check(task, loss.detach(), logits.detach(), labels)
        weights, edges = self.weights[task], self.edges[task]
        if edges is not None:
            weights = F.pad(weights, (0, len(edges) + 1 - len(weights)), value=1.0).to(labels.device)
            return weighted_squared_error(logits, labels, weights[bins_of(labels.view(-1), edges)])
        absent = logits.shape[-1] - len(weights)  # classes of the model above the last that the data have
        return weighted_cross_entropy(
            logits, labels, F.pad(weights, (0, absent), value=1.0).to(logits.device)
        )

    def _check(self, task: str, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        is_regression = self.edges[task] is not None
        expected = None
        if is_regression and logits.numel() == labels.numel():
            expected = weighted_squared_error(logits, labels, torch.ones_like(labels.view(-1)))
        elif not is_regression and logits.ndim == 2 and logits.shape[1] > 1:
            expected = weighted_cross_entropy(logits, labels, None)
        if expected is not None and torch.isclose(
            loss.float(), expected, rtol=0.02, atol=1e-3, equal_nan=True
        ):
            self._checked.add(task)
            return
        raise UserError(
            f"class_balance=weights: the loss of {f'task {task!r}' if task else 'the model'} must be "
            f"{'the mean squared error' if is_regression else 'cross-entropy'}, found another (logits "
            f"{list(logits.shape)}, loss {float(loss):.4g}); take class_balance=sampling"
        )
