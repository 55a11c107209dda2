"""FreeLB: the mean loss along adversarial perturbations of the word embeddings."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hf_layerfusion.regularizers.forward_passes import ForwardPasses
from hf_layerfusion.regularizers.noise_sites import NoiseSite
from hf_layerfusion.regularizers.regularizer import Penalty, Regularizer


@dataclass(kw_only=True)
class FreeLB(Regularizer):
    """Free large-batch adversarial training (Zhu et al. 2020, Algorithm 1, equations 4 and 5), starting from the clean
    input.

    With weight 1 the loss is the mean over K passes t = 0 … K − 1 of the loss at x + δ_t. δ_0 = 0 is the clean pass.
    Each step follows the gradient of the loss, scaled to norm 1, and is projected back into the ball: the Frobenius
    norm of each text's perturbation is at most ε. All passes have the same dropout masks.

    Args:
        weight: λ in L + λ (mean − L).
        every: See `Regularizer`.
        passes: Number K of passes, at least 2, including the clean one.
        eta: Step size α.
        epsilon: Radius ε.

    Logs:
        `freelb` (`freelb_<task>` for a named task): Excess of the mean over the clean loss.
        `freelb_radius`: Largest norm of a perturbation.

    Raises:
        UserError: If a setting is out of range.
    """

    passes: int = 3
    eta: float = 0.1
    epsilon: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check(self.passes >= 2, "passes", "be 2 or more; the first is the clean one")
        for name in ("eta", "epsilon"):
            self._check(0 < getattr(self, name) < math.inf, name, "be a finite number above 0")

    @property
    def noise_layer(self) -> int:
        """The word embeddings, layer 0."""
        return 0

    def penalty(self, passes: ForwardPasses) -> Penalty:
        """Compute the excess of the mean loss over the clean loss."""

        def objective(outputs: Any) -> Tensor:
            return torch.stack(list(passes.losses(outputs).values())).sum()

        clean = passes.losses(passes.outputs)
        excess = {task: torch.zeros_like(loss) for task, loss in clean.items()}
        sites = passes.injector(0).sites
        noise = [torch.zeros_like(site.state) for site in sites]
        for _ in range(self.passes - 1):
            gradients = passes.noise_gradient(noise, objective)
            noise = [self.ascent_step(*each) for each in zip(noise, gradients, sites, strict=True)]
            for task, loss in passes.losses(passes.rerun(noise)).items():
                excess[task] = excess[task] + (loss - clean[task]) / self.passes
        logs = {f"freelb_{task}" if task else "freelb": value.detach() for task, value in excess.items()}
        logs["freelb_radius"] = torch.stack([_frobenius(each).amax() for each in noise]).amax()
        return Penalty({task: self.weight * value for task, value in excess.items()}, logs)

    def ascent_step(self, noise: Tensor, gradient: Tensor, site: NoiseSite) -> Tensor:
        """Return the perturbation `[N, T, H]` after a step of ascent along `gradient`."""
        gradient = gradient * site.mask
        size = _frobenius(gradient)
        noise = noise + self.eta * torch.where(size > 0, gradient / size, 0)
        return noise * (self.epsilon / _frobenius(noise)).clamp(max=1)


def _frobenius(values: Tensor) -> Tensor:
    return torch.linalg.vector_norm(values, dim=(1, 2), keepdim=True)
