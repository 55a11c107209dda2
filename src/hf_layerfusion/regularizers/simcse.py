"""SimCSE: a text must be nearer to itself under another dropout mask than to the other texts of its batch."""

import torch
import torch.nn.functional as F
from torch import Tensor


def simcse_loss(first: Tensor, second: Tensor, temperature: float = 0.05) -> Tensor:
    """The mean over a batch of −log (exp(sim(z_i, z'_i) / τ) / Σ_j exp(sim(z_i, z'_j) / τ)), sim being the cosine (Gao
    et al. 2021, equation 1 of unsupervised SimCSE).

    Args:
        first: `[B, H]`, the texts' vectors z under one draw of dropout masks.
        second: `[B, H]`, their vectors z' under another.
        temperature: τ.

    Returns:
        A scalar; 0 for a single text, which has no others to be told from.
    """
    cosines = F.normalize(first, dim=-1) @ F.normalize(second, dim=-1).T
    return F.cross_entropy(cosines / temperature, torch.arange(len(first), device=first.device))
