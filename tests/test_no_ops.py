"""A method that does nothing at its defaults is a fault: each differs from doing nothing on a small fixed model, by at
least what is stated here."""

import math

import pytest
import torch

from hf_layerfusion.gradient_surgery.registry import AGGREGATORS, task_weights
from hf_layerfusion.regularizers.registry import REGULARIZERS
from hf_layerfusion.regularizers.regularizer import regularized_pass
from hf_layerfusion.regularizers.smart import Smart
from tests.modeling.test_contracts import CASES, build_fuser, states
from tests.regularizers.small import DROPOUT, batch, classifier, gradients

# By how much the loss changes relative to the plain one. SMART in the paper's ball of radius 1e-6 does next to nothing,
# which its documentation and docs/paper-results.md say: it is here so that nobody takes it for more.
OF_LOSS = {
    "smart, paper": (1e-15, 1e-6),
    "smart, smart-pytorch": (1e-3, math.inf),
    "bregman": (1e-6, math.inf),
    "rdrop": (1e-3, math.inf),
    "freelb": (1e-3, math.inf),
}


@pytest.mark.parametrize("name", OF_LOSS)
def test_regularizers(name: str) -> None:
    torch.manual_seed(0)
    model, inputs = classifier(**DROPOUT).double(), batch()
    kind, _, mode = name.partition(", ")
    made = Smart(mode=mode) if mode else REGULARIZERS[kind]()
    made.after_step(model)  # Bregman's teacher is the model of before
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    torch.manual_seed(1)
    plain = model(**inputs).loss
    before = gradients(model, plain)
    torch.manual_seed(1)
    loss = regularized_pass(model, inputs, [made]).losses[""]
    after = gradients(model, loss)
    least, most = OF_LOSS[name]
    assert least < abs(loss.item() / plain.item() - 1) < most
    assert max((after[each] - before[each]).abs().max() for each in before) > least


def test_every_regularizer_is_here() -> None:
    assert {name.partition(",")[0] for name in OF_LOSS} == set(REGULARIZERS)


@pytest.mark.parametrize("name", [name for name in AGGREGATORS if name != "sum"])
def test_surgery(name: str) -> None:
    """Two gradients in conflict, a cosine of -0.5: a weight is at least a tenth away from that of the sum."""
    gramian = torch.tensor([[1.0, -1.0], [-1.0, 4.0]], dtype=torch.float64)
    if name != "pcgrad":
        pytest.importorskip("torchjd.aggregation")
    weights = task_weights(name, gramian, torch.Generator().manual_seed(0))
    assert (weights - task_weights("sum", gramian, torch.Generator())).abs().max() > 0.1


NOTHING = ("last-cls", "last-mean")
"""The pooling that is the last layer's vector, which the others stand beside."""


@pytest.mark.parametrize("case", [case for case in CASES if case not in NOTHING])
def test_fusers(case: str) -> None:
    """Doing nothing is the last layer's states, or for a pooling its first token or mean: a fuser as it is drawn is at
    least a tenth of their size away."""
    torch.manual_seed(0)
    hidden_states = states()
    fused, last = build_fuser(case)(hidden_states, None), hidden_states[-1]
    for nothing in [last] if fused.dim() == 3 else [last[:, 0], last.mean(dim=1)]:
        if fused.shape == nothing.shape:
            assert (fused - nothing).abs().mean() > 0.1 * nothing.abs().mean()
    assert fused.std() > 1e-3
