"""Classification head, classification loss and reductions over tokens."""

import torch
from torch import nn
from torch.nn import functional as F


def classification_loss(
    logits: torch.Tensor, labels: torch.Tensor, problem_type: str | None, num_labels: int
) -> torch.Tensor:
    """Return the loss of transformers' sequence classifiers, a scalar.

    It is the cross-entropy, the mean squared error or the binary cross-entropy, by `problem_type`. `None` is resolved
    as in transformers: one label means regression, integer labels mean one class per text, other labels several. Unlike
    `ForSequenceClassificationLoss` of transformers, the function leaves the configuration unchanged and computes in
    float32.

    Args:
        logits: `[B, num_labels]`.
        labels: `[B]` class indices, `[B]` or `[B, num_labels]` targets, or `[B, num_labels]` zeros and ones.
        problem_type: `"single_label_classification"`, `"regression"`, `"multi_label_classification"` or `None`.
        num_labels: Width of the logits.

    Raises:
        ValueError: If `problem_type` is unknown.
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
    """Dense layer whose weight and bias are initialized to zero (`LayerFusionPreTrainedModel._init_weights`)."""


class ClassificationHead(nn.Module):
    """Vectors to logits: [dense, ReLU,] dropout, linear. Applies to `[B, D]` and, token by token, to `[B, T, D]`.

    Args:
        input_size: Width D of the vectors.
        dense_size: Units of the dense layer; 0 omits it.
        num_labels: Width of the logits.
        dropout: Dropout probability.
        starts_at_zero: Whether the last layer is initialized to zero, and with it the logits.
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
        """Return logits `[..., num_labels]` of vectors `[..., D]`."""
        if self.dense is not None:
            vectors = F.relu(self.dense(vectors))
        return self.out_proj(self.dropout(vectors))


def first_token(values: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """Return the values of the first real token, `[B, D]`, from `[B, T, D]`; padding may be on the left."""
    if attention_mask is None:
        return values[:, 0]
    first = attention_mask.long().argmax(dim=1)
    return values[torch.arange(first.shape[0], device=first.device), first]


def last_token(values: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """Return the values of the last real token, `[B, D]`, from `[B, T, D]`; padding may be on either side."""
    if attention_mask is None:
        return values[:, -1]
    last = attention_mask.shape[1] - 1 - attention_mask.long().flip(1).argmax(dim=1)
    return values[torch.arange(last.shape[0], device=last.device), last]


def reduce_tokens(values: torch.Tensor, attention_mask: torch.Tensor | None, reduction: str) -> torch.Tensor:
    """Reduce `[B, T, D]` over the real tokens to `[B, D]`.

    Args:
        values: `[B, T, D]`.
        attention_mask: `[B, T]`, 1 for real tokens; `None` uses every position.
        reduction: `"sum"`, `"mean"` or `"max"`.
    """
    if attention_mask is None:
        return values.amax(dim=1) if reduction == "max" else getattr(values, reduction)(dim=1)
    real = attention_mask.bool().unsqueeze(-1)
    if reduction == "max":
        return values.masked_fill(~real, torch.finfo(values.dtype).min).amax(dim=1)
    total = values.masked_fill(~real, 0.0).sum(dim=1)
    return total if reduction == "sum" else total / real.sum(dim=1).clamp(min=1)
