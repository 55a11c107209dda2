"""SMART: consistency of a model's outputs under small adversarial perturbations of its input."""

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
    """Smoothness-inducing adversarial regularization (Jiang et al. 2020, section 3.1 and Algorithm 1).

    R_s = mean over texts of max over ‖x̃ − x‖_p ≤ ε of ℓ_s(f(x̃), f(x)), where x is the embedded text.

    ℓ_s is the symmetric KL divergence for classes (summed over the labels of a multi-label task) and the squared error
    for regression. The maximum is approximated by gradient ascent from Gaussian noise of standard deviation σ. The
    defaults are those of SerBERTus (section 4.3.5).

    `mode="paper"` is the method above. `mode="smart-pytorch"` is the implementation that SerBERTus used (its footnote
    4), which differs in these points:

    - Sum: R_s for classes is the sum over the texts of a pass instead of their mean, so that λ scales with
      `per_device_train_batch_size`. For regression it is the mean in both modes.
    - Gradient: that of KL(p‖q) is taken with respect to q alone; p is constant.
    - Ascent: it follows the gradient of KL(clean‖perturbed), averaged over the texts, with its own length. The paper's
      mode uses the symmetric divergence and scales each text's gradient to norm 1.
    - Perturbation: that of each token is scaled to norm 1, and ε only guards the division. The paper's mode keeps the
      perturbation of each text inside the ball.
    - Dropout: each pass draws its own masks. In the paper's mode all passes use those of the clean pass.

    This is `SMARTLoss` of archinetai/smart-pytorch 0.0.4 with `kl_loss` in the ascent and `sym_kl_loss` at the end, and
    the mean squared error for both in a regression. It does not support multi-label tasks; here each label is then a
    distribution of its own. MT-DNN's public code is a third variant: it averages over texts and moves each token by η
    along its own gradient, scaled to norm 1.

    The paper's radius of 1e-6 is below the resolution of bf16 and fp16: train in fp32 or choose a larger epsilon. A
    logged `smart` of 0 indicates that the perturbation was lost.

    Args:
        weight: Factor λ_s.
        every: See `Regularizer`.
        steps: Number of ascent steps.
        epsilon: Radius ε.
        sigma: Standard deviation σ of the initial noise.
        eta: Step size η.
        norm: Order p of the norm: 2 or infinity.
        mode: `"paper"` or `"smart-pytorch"`.
        layer: 0 perturbs the word embeddings. Any other index perturbs the output of that layer, and the layers up to
            it are not run again.
        same_dropout: Whether all passes of a batch have the same dropout masks; None depends on the mode.

    Logs:
        `smart` (`smart_<task>` for a named task): R_s, without weight.
        `smart_radius`: Largest norm of a perturbation.

    Raises:
        UserError: If a setting is out of range.
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
        """Layer whose output is perturbed."""
        return self.layer

    def penalty(self, passes: ForwardPasses) -> Penalty:
        """Compute the divergence between the clean pass and a perturbed one."""
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
        """Return the perturbation `[N, T, H]` after a step of ascent along `gradient`."""
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
        """Return the p-norm of each text's values, or of each token's, depending on the mode."""
        dims = 2 if SMART_MODES[self.mode].is_by_token else (1, 2)
        return torch.linalg.vector_norm(values, self.norm, dim=dims, keepdim=True)
