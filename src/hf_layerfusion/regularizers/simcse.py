"""SimCSE loss: a text must be closer to itself under another dropout mask than to the other texts of its batch."""

import torch
import torch.nn.functional as F
from torch import Tensor


def simcse_loss(first: Tensor, second: Tensor, temperature: float = 0.05) -> Tensor:
    """Return the mean over a batch of −log (exp(sim(z_i, z'_i) / τ) / Σ_j exp(sim(z_i, z'_j) / τ)), where sim is the
    cosine.

    Source: Gao et al. 2021, equation 1 of unsupervised SimCSE.

    Args:
        first: Vectors z of the texts under one draw of dropout masks, `[B, H]`.
        second: Vectors z' of the texts under another draw, `[B, H]`.
        temperature: Temperature τ.

    Returns:
        A scalar; 0 for a single text, which has no others to compare with.
    """
    cosines = F.normalize(first, dim=-1) @ F.normalize(second, dim=-1).T
    return F.cross_entropy(cosines / temperature, torch.arange(len(first), device=first.device))
