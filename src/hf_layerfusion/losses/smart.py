"""SMART: the model's answer must not change much where its input changes a little."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hf_layerfusion.losses.noise import Place
from hf_layerfusion.losses.outputs import ByTask, divergence
from hf_layerfusion.losses.passes import Passes
from hf_layerfusion.losses.regularizer import Penalty, Regularizer

MODES = ("paper", "mtdnn")


@dataclass(kw_only=True)
class Smart(Regularizer):
    """Smoothness-inducing adversarial regularization (Jiang et al. 2020, section 3.1 and Algorithm 1):

    R_s = mean over texts of max over ‖x̃ − x‖_p ≤ ε of ℓ_s(f(x̃), f(x)), x the embedded text.

    ℓ_s is the symmetric KL divergence for classes, summed over labels where a text may have several, and the squared
    error for regression. The maximum is sought from Gaussian noise by `steps` of ascent along the gradient, scaled to
    norm 1. The defaults are SerBERTus' (section 4.3.5).

    The paper's radius of 1e-6 is below what bf16 and fp16 arithmetic tell apart: train in fp32, choose a larger
    epsilon, or `mode="mtdnn"`; the logged `smart` shows when nothing is left of it.

    Args:
        weight: λ_s.
        every: see `Regularizer`.
        steps: steps of ascent.
        epsilon: radius ε of the ball.
        sigma: standard deviation of the noise at the start.
        eta: step size η.
        norm: p, 2 or infinity.
        mode: `"paper"` keeps each text's perturbation inside the ball. `"mtdnn"` does as the public codes: adds the
            gradient unscaled, then scales each token's perturbation to norm 1 (ε then only guards the division).
        layer: 0 perturbs the word embeddings. Another number perturbs the output of that layer instead, and the layers
            up to it are not run again.
        same_dropout: all passes of a batch have the same dropout masks.

    Logs:
        `smart` (`smart_<task>` for a named task): R_s, without weight. `smart_radius`: the largest norm of a
        perturbation.

    Raises:
        UserError: a setting out of its range.
    """

    steps: int = 1
    epsilon: float = 1e-6
    sigma: float = 1e-5
    eta: float = 1e-3
    norm: float = math.inf
    mode: str = "paper"
    layer: int = 0
    same_dropout: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check(self.steps >= 1, "steps", "be 1 or more")
        for name in ("epsilon", "sigma", "eta"):
            self._check(0 < getattr(self, name) < math.inf, name, "be a finite number above 0")
        self._check(self.norm in (2, math.inf), "norm", "be 2 or inf")
        self._check(self.mode in MODES, "mode", f"be one of {', '.join(MODES)}")
        self._check(self.layer >= 0, "layer", "be 0, the word embeddings, or the number of a layer")

    @property
    def noise_layer(self) -> int:
        return self.layer

    def penalty(self, passes: Passes) -> Penalty:
        clean = passes.logits(passes.outputs)
        kinds = passes.problem_types()
        fixed = {task: logits.detach() for task, logits in clean.items()}

        def distances(outputs: Any, targets: ByTask) -> ByTask:
            logits = passes.logits(outputs)
            return {task: divergence(kinds[task], logits[task], targets[task]) for task in targets}

        def objective(outputs: Any) -> Tensor:
            return torch.stack([each.sum() for each in distances(outputs, fixed).values()]).sum()

        places = passes.point(self.layer).places
        noise = [self.sigma * torch.randn_like(place.state) * place.mask for place in places]
        for _ in range(self.steps):
            gradients = passes.noise_gradient(noise, objective, self.layer, self.same_dropout)
            noise = [self.ascended(*each) for each in zip(noise, gradients, places, strict=True)]
        found = distances(passes.again(noise, self.layer, self.same_dropout), clean)
        values = {task: each.mean() for task, each in found.items()}
        logs = {f"smart_{task}" if task else "smart": value.detach() for task, value in values.items()}
        logs["smart_radius"] = torch.stack([self._norm(each).amax() for each in noise]).amax()
        return Penalty({task: self.weight * value for task, value in values.items()}, logs)

    def ascended(self, noise: Tensor, gradient: Tensor, place: Place) -> Tensor:
        """The perturbation `[N, T, H]` after a step of ascent along `gradient`."""
        gradient = gradient * place.mask
        if self.mode == "mtdnn":
            noise = noise + self.eta * gradient
            return noise / (self._norm(noise) + self.epsilon)
        size = self._norm(gradient)
        noise = noise + self.eta * torch.where(size > 0, gradient / size, 0)
        if self.norm == math.inf:
            return noise.clamp(-self.epsilon, self.epsilon)
        return noise * (self.epsilon / self._norm(noise)).clamp(max=1)

    def _norm(self, values: Tensor) -> Tensor:
        """p-norm of each text's values, in `mode="mtdnn"` of each token's."""
        dims = 2 if self.mode == "mtdnn" else (1, 2)
        return torch.linalg.vector_norm(values, self.norm, dim=dims, keepdim=True)
