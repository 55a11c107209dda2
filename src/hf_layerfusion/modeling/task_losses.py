"""Losses of the tasks, saved as part of the model; a new one is one class and one row in the registry."""

from abc import ABC, abstractmethod

import torch
from torch.nn import functional as F

from .task_config import TaskConfig

IGNORED = -100  # label of a row without a label, as in torch


def binary_logits(values: torch.Tensor) -> torch.Tensor:
    """Return logits `[B, 2]` from the logit `[B, 1]` of the second class: their softmax is its sigmoid."""
    return torch.cat([torch.zeros_like(values), values], dim=-1)


def mean_of_labelled(losses: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean of `losses` over the entries that have a label, as `F.cross_entropy` does."""
    has_label = labels != IGNORED
    return losses.where(has_label, 0).sum() / has_label.sum()


class TaskLoss(ABC):
    """Loss of a task, with the output width that it requires and its conversion of outputs to logits.

    Args:
        task: Configuration of the task.

    Raises:
        ValueError: If the task lacks what the loss requires.
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
        """Return whether the task has what the loss requires."""

    @property
    def num_outputs(self) -> int:
        """Width of the head's output."""
        return 1

    def logits(self, values: torch.Tensor) -> torch.Tensor:
        """Convert the head's output `[B, num_outputs]` to logits `[B, num_labels]`."""
        return values

    @abstractmethod
    def __call__(self, values: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the mean loss of the batch, a scalar.

        Args:
            values: Output of the head, `[B, num_outputs]`.
            labels: `[B]` classes or values, or `[B, num_labels]` zeros and ones for several labels per text. Labels of
                -100 are ignored, except in a regression.
        """


class CrossEntropy(TaskLoss):
    """Cross-entropy for one class per text."""

    needs = "one class a text and the linear head"

    def fits(self) -> bool:
        """Return whether the task has one class per text and a linear head."""
        return self.task.problem_type == "single_label_classification" and self.task.head == "linear"

    @property
    def num_outputs(self) -> int:
        """Number of classes."""
        return self.task.num_labels

    def __call__(self, values: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(values.float(), labels.view(-1))


class BinaryCrossEntropy(TaskLoss):
    """Binary cross-entropy: on one logit for two classes (SerBERTus, section 3), or on one logit per label for several
    labels per text.

    The logit of a cosine head is the cosine.
    """

    needs = "two classes, or several labels a text and the linear head"

    def fits(self) -> bool:
        """Return whether the task has two classes, or several labels per text and a linear head."""
        several = self.task.problem_type == "multi_label_classification" and self.task.head == "linear"
        return self.task.is_binary or several

    @property
    def num_outputs(self) -> int:
        """One for two classes, otherwise the number of labels."""
        return 1 if self.task.is_binary else self.task.num_labels

    def logits(self, values: torch.Tensor) -> torch.Tensor:
        """Return logits of both classes, or of all labels."""
        return binary_logits(values) if self.task.is_binary else values

    def __call__(self, values: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        targets = labels.float().view_as(values)
        losses = F.binary_cross_entropy_with_logits(values.float(), targets, reduction="none")
        return mean_of_labelled(losses, targets)


class ProbabilityLoss(TaskLoss):
    """Base class of the losses whose head directly estimates the probability of the second of two classes."""

    def logits(self, values: torch.Tensor) -> torch.Tensor:
        """Convert the probability of the second class to logits of both classes."""
        return binary_logits(values.float().logit(eps=1e-6)) if self.task.is_binary else values


class MeanSquaredError(ProbabilityLoss):
    """Mean squared error to the value, or for two classes to 0 and 1 (Iterative ensembles, section 6.1.1)."""

    needs = "a regression or two classes"

    def fits(self) -> bool:
        """Return whether the task is a regression or has two classes."""
        return self.task.is_regression or self.task.is_binary

    def __call__(self, values: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        targets = labels.float().view_as(values)
        losses = F.mse_loss(values.float(), targets, reduction="none")
        return losses.mean() if self.task.is_regression else mean_of_labelled(losses, targets)


class CosineEmbedding(ProbabilityLoss):
    """Cosine embedding loss: 1 − cos(u, v) for pairs of the second class, max(0, cos(u, v)) for pairs of the first
    (Iterative ensembles, section 3, for paraphrases and STS).

    For a regression, whose pairs have no class, it is t (1 − cos(u, v)) + (1 − t) max(0, cos(u, v)), where t is the
    label scaled to [0, 1] by the task's range: the expected loss of a pair that is similar with probability t. The
    paper leaves open how STS's values become the classes that the loss is defined for.
    """

    needs = "the cosine head and two classes or a regression"

    def fits(self) -> bool:
        """Return whether the task has a cosine head, and two classes or values."""
        return self.task.head == "cosine" and (self.task.is_binary or self.task.is_regression)

    def __call__(self, values: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        cosine, targets = values.float(), labels.float().view_as(values)
        if self.task.value_range is not None:
            low, high = self.task.value_range
            cosine, targets = (cosine - low) / (high - low), (targets - low) / (high - low)
        losses = targets * (1 - cosine) + (1 - targets) * cosine.clamp(min=0)
        return losses.mean() if self.task.is_regression else mean_of_labelled(losses, targets)


TASK_LOSSES: dict[str, type[TaskLoss]] = {
    "cross_entropy": CrossEntropy,
    "binary_cross_entropy": BinaryCrossEntropy,
    "mse": MeanSquaredError,
    "cosine_embedding": CosineEmbedding,
}
