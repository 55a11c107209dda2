"""Modes of SMART, which differ in the scaling of perturbations and the divergence between outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

from hf_layerfusion.regularizers.task_outputs import checked_logits, divergence


class SmartMode(NamedTuple):
    """Settings in which the modes of SMART differ.

    Attributes:
        ascent: Function of a problem type and the logits `[B, C]` of the perturbed and the clean pass. It returns the
            scalar whose gradient the perturbation follows.
        distance: Function of the same arguments that returns R_s.
        same_dropout: Whether the passes of a batch share their dropout masks by default.
        is_by_token: Whether the norm of a perturbation is computed per token instead of per text.
    """

    ascent: Callable[[str, Tensor, Tensor], Tensor]
    distance: Callable[[str, Tensor, Tensor], Tensor]
    same_dropout: bool
    is_by_token: bool


def _paper_ascent(problem_type: str, perturbed: Tensor, clean: Tensor) -> Tensor:
    return divergence(problem_type, perturbed, clean).sum()


def _paper_distance(problem_type: str, perturbed: Tensor, clean: Tensor) -> Tensor:
    return divergence(problem_type, perturbed, clean).mean()


def _public_ascent(problem_type: str, perturbed: Tensor, clean: Tensor) -> Tensor:
    """Return KL(clean ‖ perturbed), the mean over the texts; for regression the mean squared error."""
    perturbed, clean = checked_logits(perturbed, clean)
    if problem_type == "regression":
        return F.mse_loss(perturbed, clean)
    if problem_type == "multi_label_classification":
        # The cross-entropy differs from the divergence by the entropy of `clean`, which no noise changes.
        loss = F.binary_cross_entropy_with_logits(perturbed, clean.sigmoid(), reduction="sum")
        return loss / len(clean)
    return F.kl_div(perturbed.log_softmax(-1), clean.log_softmax(-1), reduction="batchmean", log_target=True)


def _public_distance(problem_type: str, perturbed: Tensor, clean: Tensor) -> Tensor:
    """Return KL(clean ‖ perturbed) + KL(perturbed ‖ clean), summed over the texts; for regression the mean squared
    error.

    Gradients are taken with respect to the second argument of each divergence. Σ (p − q)(log p − log q) with a constant
    p − q has this value and these gradients.
    """
    perturbed, clean = checked_logits(perturbed, clean)
    if problem_type == "regression":
        return F.mse_loss(perturbed, clean)
    if problem_type == "multi_label_classification":
        difference = perturbed.sigmoid() - clean.sigmoid()
    else:
        perturbed, clean = perturbed.log_softmax(-1), clean.log_softmax(-1)
        difference = perturbed.exp() - clean.exp()
    return (difference.detach() * (perturbed - clean)).sum()


SMART_MODES = {
    "paper": SmartMode(_paper_ascent, _paper_distance, same_dropout=True, is_by_token=False),
    "smart-pytorch": SmartMode(_public_ascent, _public_distance, same_dropout=False, is_by_token=True),
}
"""Modes by name."""
