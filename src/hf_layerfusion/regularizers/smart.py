"""SMART: the model's answer must not change much where its input changes a little."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hf_layerfusion.regularizers.forward_passes import ForwardPasses
from hf_layerfusion.regularizers.noise_sites import NoiseSite
from hf_layerfusion.regularizers.regularizer import Penalty, Regularizer
from hf_layerfusion.regularizers.smart_modes import SMART_MODES


@dataclass(kw_only=True)
class Smart(Regularizer):
    """Smoothness-inducing adversarial regularization (Jiang et al. 2020, section 3.1 and Algorithm 1):

    R_s = mean over texts of max over ‖x̃ − x‖_p ≤ ε of ℓ_s(f(x̃), f(x)), x the embedded text.

    ℓ_s is the symmetric KL divergence for classes, summed over labels where a text may have several, and the squared
    error for regression. The maximum is sought from Gaussian noise of standard deviation σ by steps of ascent along
    the gradient. The defaults are SerBERTus' (section 4.3.5).

    `mode="paper"` is that. `mode="smart-pytorch"` is the function that SerBERTus ran (its footnote 4), which differs in

    - the sum: R_s of classes is the sum over the texts of a pass, not their mean, so that λ grows with
      `per_device_train_batch_size`; a regression's is the mean in both;
    - the gradient: of KL(p‖q) it is taken by q alone, p is a constant;
    - the ascent: along the gradient of KL(clean‖perturbed), the mean over the texts, with its own length, where the
      paper's mode takes the symmetric divergence and scales each text's gradient to norm 1;
    - the perturbation: each token's is scaled to norm 1, and ε only guards that division, where the paper's mode keeps
      each text's inside the ball;
    - dropout: each pass draws its own masks, where the paper's mode has those of the clean pass in all.

    That is `SMARTLoss` of archinetai/smart-pytorch 0.0.4 with its `kl_loss` in the ascent and its `sym_kl_loss` at the
    end, and the mean squared error for both of a regression. It has no function for several labels a text; here each
    label is then a distribution of its own. MT-DNN's public code is a third way: it averages over texts, and moves each
    token by η along its own gradient, scaled to norm 1.

    The paper's radius of 1e-6 is below what bf16 and fp16 arithmetic tell apart: train in fp32 or choose a larger
    epsilon; the logged `smart` shows when nothing is left of it.

    Args:
        weight: λ_s.
        every: see `Regularizer`.
        steps: steps of ascent.
        epsilon: ε.
        sigma: standard deviation σ of the noise at the start.
        eta: step size η.
        norm: p, 2 or infinity.
        mode: `"paper"` or `"smart-pytorch"`.
        layer: 0 perturbs the word embeddings. Another number perturbs the output of that layer instead, and the layers
            up to it are not run again.
        same_dropout: whether all passes of a batch have the same dropout masks; None leaves it to the mode.

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
    same_dropout: bool | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check(self.steps >= 1, "steps", "be 1 or more")
        for name in ("epsilon", "sigma", "eta"):
            self._check(0 < getattr(self, name) < math.inf, name, "be a finite number above 0")
        self._check(self.norm in (2, math.inf), "norm", "be 2 or inf")
        self._check(self.mode in SMART_MODES, "mode", f"be one of {', '.join(SMART_MODES)}")
        self._check(self.layer >= 0, "layer", "be 0, the word embeddings, or the number of a layer")

    @property
    def noise_layer(self) -> int:
        return self.layer

    def penalty(self, passes: ForwardPasses) -> Penalty:
        mode = SMART_MODES[self.mode]
        same_dropout = mode.same_dropout if self.same_dropout is None else self.same_dropout
        clean = passes.logits(passes.outputs)
        kinds = passes.problem_types()
        fixed = {task: logits.detach() for task, logits in clean.items()}

        def objective(outputs: Any) -> Tensor:
            found = passes.logits(outputs)
            return torch.stack([mode.ascent(kinds[task], found[task], fixed[task]) for task in fixed]).sum()

        sites = passes.injector(self.layer).sites
        noise = [self.sigma * torch.randn_like(site.state) * site.mask for site in sites]
        for _ in range(self.steps):
            gradients = passes.noise_gradient(noise, objective, self.layer, same_dropout)
            noise = [self.ascent_step(*each) for each in zip(noise, gradients, sites, strict=True)]
        found = passes.logits(passes.rerun(noise, self.layer, same_dropout))
        values = {task: mode.distance(kinds[task], found[task], clean[task]) for task in clean}
        logs = {f"smart_{task}" if task else "smart": value.detach() for task, value in values.items()}
        logs["smart_radius"] = torch.stack([self._norm(each).amax() for each in noise]).amax()
        return Penalty({task: self.weight * value for task, value in values.items()}, logs)

    def ascent_step(self, noise: Tensor, gradient: Tensor, site: NoiseSite) -> Tensor:
        """The perturbation `[N, T, H]` after a step of ascent along `gradient`."""
        gradient = gradient * site.mask
        if self.mode == "smart-pytorch":
            noise = noise + self.eta * gradient
            return noise / (self._norm(noise) + self.epsilon)
        size = self._norm(gradient)
        noise = noise + self.eta * torch.where(size > 0, gradient / size, 0)
        if self.norm == math.inf:
            return noise.clamp(-self.epsilon, self.epsilon)
        return noise * (self.epsilon / self._norm(noise)).clamp(max=1)

    def _norm(self, values: Tensor) -> Tensor:
        """p-norm of each text's values, or of each token's, by the mode."""
        dims = 2 if SMART_MODES[self.mode].is_by_token else (1, 2)
        return torch.linalg.vector_norm(values, self.norm, dim=dims, keepdim=True)
