"""Heads: fused states to logits, logits and labels to loss."""

import torch
from torch import nn
from torch.nn import functional as F


def classification_loss(
    logits: torch.Tensor, labels: torch.Tensor, problem_type: str | None, num_labels: int
) -> torch.Tensor:
    """The loss of transformers' sequence classifiers, a scalar: cross-entropy, mean squared error or binary
    cross-entropy by `problem_type`. Where that is `None`, it is guessed as transformers does: one label means
    regression, integer labels mean one class a text, others several.

    Args:
        logits: `[B, num_labels]`.
        labels: `[B]` class indices, `[B]` or `[B, num_labels]` targets, or `[B, num_labels]` zeros and ones.
        problem_type: `"single_label_classification"`, `"regression"`, `"multi_label_classification"` or `None`.
        num_labels: width of the logits.

    Raises:
        ValueError: if `problem_type` is another.
    """
    if problem_type is None:
        if num_labels == 1:
            problem_type = "regression"
        elif labels.dtype in (torch.long, torch.int):
            problem_type = "single_label_classification"
        else:
            problem_type = "multi_label_classification"
    if problem_type == "single_label_classification":
        return F.cross_entropy(logits.float(), labels.view(-1))
    if problem_type == "regression":
        return F.mse_loss(logits.float().view(-1), labels.float().view(-1))
    if problem_type == "multi_label_classification":
        return F.binary_cross_entropy_with_logits(logits.float(), labels.float())
    raise ValueError(
        "`problem_type` must be 'single_label_classification', 'multi_label_classification' or 'regression', found "
        f"{problem_type!r}."
    )


class ZeroLinear(nn.Linear):
    """A dense layer whose weights and bias start at zero (`LayerFusionPreTrainedModel._init_weights`)."""


class ClassificationHead(nn.Module):
    """Vectors to logits: [dense, ReLU,] dropout, linear. Applies to `[B, D]` and, vector by vector, to `[B, T, D]`.

    Args:
        input_size: width D.
        dense_size: units of the dense layer; 0 leaves it out.
        num_labels: width of the logits.
        dropout: probability.
        starts_at_zero: the last layer starts with zeros, so that the logits do.
    """

    def __init__(
        self, input_size: int, dense_size: int, num_labels: int, dropout: float, starts_at_zero: bool = False
    ):
        super().__init__()
        self.dense = nn.Linear(input_size, dense_size) if dense_size else None
        self.dropout = nn.Dropout(dropout)
        linear = ZeroLinear if starts_at_zero else nn.Linear
        self.out_proj = linear(dense_size or input_size, num_labels)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        if self.dense is not None:
            vectors = F.relu(self.dense(vectors))
        return self.out_proj(self.dropout(vectors))


def first_token(values: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """The first real token's of `[B, T, D]`, `[B, D]`: padding may stand on the left."""
    if attention_mask is None:
        return values[:, 0]
    first = attention_mask.long().argmax(dim=1)
    return values[torch.arange(first.shape[0], device=first.device), first]


def last_token(values: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """The last real token's of `[B, T, D]`, `[B, D]`, whichever side the padding stands on."""
    if attention_mask is None:
        return values[:, -1]
    last = attention_mask.shape[1] - 1 - attention_mask.long().flip(1).argmax(dim=1)
    return values[torch.arange(last.shape[0], device=last.device), last]


def reduce_tokens(values: torch.Tensor, attention_mask: torch.Tensor | None, reduction: str) -> torch.Tensor:
    """Reduces `[B, T, D]` over the real tokens to `[B, D]`.

    Args:
        values: `[B, T, D]`.
        attention_mask: `[B, T]`, 1 for real tokens; `None` counts every position.
        reduction: `"sum"`, `"mean"` or `"max"`.
    """
    if attention_mask is None:
        return values.amax(dim=1) if reduction == "max" else getattr(values, reduction)(dim=1)
    real = attention_mask.bool().unsqueeze(-1)
    if reduction == "max":
        return values.masked_fill(~real, torch.finfo(values.dtype).min).amax(dim=1)
    total = values.masked_fill(~real, 0.0).sum(dim=1)
    return total if reduction == "sum" else total / real.sum(dim=1).clamp(min=1)
