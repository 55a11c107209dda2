"""A task's loss, which travels with its model: a new one is one class and one row in the table."""

from abc import ABC, abstractmethod

import torch
from torch.nn import functional as F

from .task_config import TaskConfig

IGNORED = -100  # the label of a row that has none, as in torch


def binary_logits(values: torch.Tensor) -> torch.Tensor:
    """Logits `[B, 2]` from the logit `[B, 1]` of the second class: their softmax is its sigmoid."""
    return torch.cat([torch.zeros_like(values), values], dim=-1)


def mean_of_labelled(losses: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The mean of `losses` over those of `labels`, of the same shape, that are any, as `F.cross_entropy` takes it."""
    has_label = labels != IGNORED
    return losses.where(has_label, 0).sum() / has_label.sum()


class TaskLoss(ABC):
    """What a head has to put out for a task, how its logits come from that, and the loss.

    Args:
        task: the task.

    Raises:
        ValueError: if the task lacks the loss's inputs.
    """

    needs: str

    def __init__(self, task: TaskConfig):
        self.task = task
        if not self.fits():
            raise ValueError(
                f"`loss` '{task.loss}' needs {self.needs}, found '{task.problem_type}' of {task.num_labels} label(s), "
                f"head '{task.head}'; None chooses a loss that fits."
            )

    @abstractmethod
    def fits(self) -> bool:
        """Whether the task has what the loss needs."""

    @property
    def num_outputs(self) -> int:
        """Width of what the head puts out."""
        return 1

    def logits(self, values: torch.Tensor) -> torch.Tensor:
        """`[B, num_labels]` from what the head puts out, `[B, num_outputs]`."""
        return values

    @abstractmethod
    def __call__(self, values: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The mean loss of the batch, a scalar.

        Args:
            values: what the head puts out, `[B, num_outputs]`.
            labels: `[B]` classes or values, `[B, num_labels]` zeros and ones for several labels a text. A label
                of -100 counts for nothing, but in a regression.
        """


class CrossEntropy(TaskLoss):
    """Cross-entropy of one class a text."""

    needs = "one class a text and the linear head"

    def fits(self) -> bool:
        return self.task.problem_type == "single_label_classification" and self.task.head == "linear"

    @property
    def num_outputs(self) -> int:
        return self.task.num_labels

    def __call__(self, values: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(values.float(), labels.view(-1))


class BinaryCrossEntropy(TaskLoss):
    """Binary cross-entropy: on one logit for two classes (SerBERTus, section 3), on one a label for several labels a
    text. The logit of a cosine head is the cosine."""

    needs = "two classes, or several labels a text and the linear head"

    def fits(self) -> bool:
        several = self.task.problem_type == "multi_label_classification" and self.task.head == "linear"
        return self.task.is_binary or several

    @property
    def num_outputs(self) -> int:
        return 1 if self.task.is_binary else self.task.num_labels

    def logits(self, values: torch.Tensor) -> torch.Tensor:
        return binary_logits(values) if self.task.is_binary else values

    def __call__(self, values: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        targets = labels.float().view_as(values)
        losses = F.binary_cross_entropy_with_logits(values.float(), targets, reduction="none")
        return mean_of_labelled(losses, targets)


class ProbabilityLoss(TaskLoss):
    """Base of the losses by which the head of a two-class task estimates the second class's probability itself."""

    def logits(self, values: torch.Tensor) -> torch.Tensor:
        return binary_logits(values.float().logit(eps=1e-6)) if self.task.is_binary else values


class MeanSquaredError(ProbabilityLoss):
    """Mean squared error to the value, or of two classes to 0 and 1 (Iterative ensembles, section 6.1.1)."""

    needs = "a regression or two classes"

    def fits(self) -> bool:
        return self.task.is_regression or self.task.is_binary

    def __call__(self, values: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        targets = labels.float().view_as(values)
        losses = F.mse_loss(values.float(), targets, reduction="none")
        return losses.mean() if self.task.is_regression else mean_of_labelled(losses, targets)


class CosineEmbedding(ProbabilityLoss):
    """1 − cos(u, v) for pairs of the second class, max(0, cos(u, v)) for those of the first (Iterative ensembles,
    section 2)."""

    needs = "two classes and the cosine head"

    def fits(self) -> bool:
        return self.task.is_binary and self.task.head == "cosine"

    def __call__(self, values: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        cosine, labels = values.float(), labels.view_as(values)
        return mean_of_labelled(torch.where(labels.bool(), 1 - cosine, cosine.clamp(min=0)), labels)


TASK_LOSSES: dict[str, type[TaskLoss]] = {
    "cross_entropy": CrossEntropy,
    "binary_cross_entropy": BinaryCrossEntropy,
    "mse": MeanSquaredError,
    "cosine_embedding": CosineEmbedding,
}
