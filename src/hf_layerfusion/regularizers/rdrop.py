"""R-Drop: consistency between two passes with different dropout masks."""

from __future__ import annotations

from dataclasses import dataclass

from hf_layerfusion.regularizers.forward_passes import ForwardPasses
from hf_layerfusion.regularizers.regularizer import Penalty, Regularizer
from hf_layerfusion.regularizers.task_outputs import divergence


@dataclass(kw_only=True)
class RDrop(Regularizer):
    """R-Drop (Liang et al. 2021, equations 2 to 4), with the squared error in place of the KL divergence for
    regression.

    The resulting loss is ½(L₁ + L₂) + α · ½ (KL(p₁‖p₂) + KL(p₂‖p₁)). This is half of the paper's sum of losses, so that
    the learning rate keeps its meaning; α is therefore half of the paper's.

    Args:
        weight: Factor α.
        every: See `Regularizer`.

    Logs:
        `rdrop` (`rdrop_<task>` for a named task): The divergence ½(…), without weight.
    """

    def penalty(self, passes: ForwardPasses) -> Penalty:
        """Compute the second loss and the divergence between the two passes."""
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
