"""R-Drop: two passes with different dropout masks must agree."""

from __future__ import annotations

from dataclasses import dataclass

from hf_layerfusion.regularizers.forward_passes import ForwardPasses
from hf_layerfusion.regularizers.regularizer import Penalty, Regularizer
from hf_layerfusion.regularizers.task_outputs import divergence


@dataclass(kw_only=True)
class RDrop(Regularizer):
    """R-Drop (Liang et al. 2021, equations 2 to 4), for regression with the squared error in place of the KL
    divergence.

    With it the loss is ½(L₁ + L₂) + α · ½ (KL(p₁‖p₂) + KL(p₂‖p₁)): half of the paper's sum of losses, so that the
    learning rate keeps its meaning. α is then half of the paper's.

    Args:
        weight: α.
        every: see `Regularizer`.

    Logs:
        `rdrop` (`rdrop_<task>` for a named task): the divergence ½(…), without weight.
    """

    def penalty(self, passes: ForwardPasses) -> Penalty:
        second = passes.rerun(same_dropout=False)
        first_losses, second_losses = passes.losses(passes.outputs), passes.losses(second)
        second_logits = passes.logits(second)
        kinds = passes.problem_types()
        losses, logs = {}, {}
        for task, logits in passes.logits(passes.outputs).items():
            distance = divergence(kinds[task], logits, second_logits[task]).mean() / 2
            losses[task] = (second_losses[task] - first_losses[task]) / 2 + self.weight * distance
            logs[f"rdrop_{task}" if task else "rdrop"] = distance.detach()
        return Penalty(losses, logs)
