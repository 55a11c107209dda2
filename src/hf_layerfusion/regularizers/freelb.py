"""FreeLB: the loss over the path of an ascent in the space of word embeddings."""

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
    """Free large-batch adversarial training (Zhu et al. 2020, Algorithm 1, equations 4 and 5), from the clean input.

    With weight 1 the loss is the mean over K passes t = 0 … K − 1 of the loss at x + δ_t. δ_0 = 0 is the clean pass;
    each step goes along the gradient of the loss, scaled to norm 1, and back into the ball: each text's Frobenius norm
    is at most ε. All passes have the same dropout masks.

    Args:
        weight: λ in L + λ (mean − L).
        every: see `Regularizer`.
        passes: K, 2 or more, the clean one included.
        eta: step size α.
        epsilon: radius ε.

    Logs:
        `freelb` (`freelb_<task>` for a named task): by how much the mean exceeds the clean loss. `freelb_radius`: the
        largest norm of a perturbation.

    Raises:
        UserError: a setting out of its range.
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
        return 0

    def penalty(self, passes: ForwardPasses) -> Penalty:
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
        """The perturbation `[N, T, H]` after a step of ascent along `gradient`."""
        gradient = gradient * site.mask
        size = _frobenius(gradient)
        noise = noise + self.eta * torch.where(size > 0, gradient / size, 0)
        return noise * (self.epsilon / _frobenius(noise)).clamp(max=1)


def _frobenius(values: Tensor) -> Tensor:
    return torch.linalg.vector_norm(values, dim=(1, 2), keepdim=True)
