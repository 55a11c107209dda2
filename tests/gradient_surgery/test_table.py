"""Rules by name; TorchJD's give what its own aggregators make of the whole gradients."""

import pytest
import torch

from hf_layerfusion.errors import UserError
from hf_layerfusion.gradient_surgery.registry import AGGREGATORS, task_weights

TORCHJD = {
    "upgrad": "UPGrad",
    "mgda": "MGDA",
    "dualproj": "DualProj",
    "imtl_g": "IMTLG",
    "aligned_mtl": "AlignedMTL",
}


def conflicting(tasks=3):
    return torch.randn(tasks, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", TORCHJD)
def test_torchjd_by_its_own_aggregators(name):
    aggregation = pytest.importorskip("torchjd.aggregation")
    try:
        aggregator = getattr(aggregation, TORCHJD[name])()
    except ImportError as error:
        pytest.skip(str(error))
    gradients = conflicting()
    weights = task_weights(name, gradients @ gradients.T, torch.Generator(), reduction="mean")
    torch.testing.assert_close(weights @ gradients, aggregator(gradients), rtol=1e-6, atol=1e-8)
    assert weights.dtype == torch.float64


def test_cagrad_by_its_own_aggregator():
    pytest.importorskip("cvxpy")
    aggregation = pytest.importorskip("torchjd.aggregation")
    gradients = conflicting()
    weights = task_weights("cagrad", gradients @ gradients.T, torch.Generator(), reduction="mean")
    torch.testing.assert_close(
        weights @ gradients, aggregation.CAGrad(c=0.5)(gradients), rtol=1e-4, atol=1e-5
    )


def test_every_rule_is_tested():
    assert AGGREGATORS.keys() == {"sum", "pcgrad", "cagrad", *TORCHJD}


def test_what_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torchjd.aggregation", None)
    with pytest.raises(
        UserError, match=r'UPGradWeighting of the package torchjd.*pip install "hf_layerfusion\[surgery\]"'
    ):
        task_weights("upgrad", torch.eye(2), torch.Generator())


@pytest.mark.parametrize("name", AGGREGATORS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
def test_what_cannot_be_compared_is_summed(name, value):
    gramian = torch.full((3, 3), value, dtype=torch.float64)
    assert torch.equal(task_weights(name, gramian, torch.Generator()), torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize("name", ["sum", "pcgrad", "mgda", "imtl_g", "aligned_mtl"])
def test_a_task_that_shares_nothing_has_no_part_in_it(name):
    if name not in ("sum", "pcgrad"):
        pytest.importorskip("torchjd.aggregation")
    two = torch.tensor([[1.0, -0.3], [-0.3, 2.0]], dtype=torch.float64)
    three = torch.zeros(3, 3, dtype=torch.float64)
    three[::2, ::2] = two
    expected = task_weights(name, two, torch.Generator())
    found = task_weights(name, three, torch.Generator())
    torch.testing.assert_close(found[::2], expected)
    assert found[1] == 1


@pytest.mark.parametrize(
    ("arguments", "found"), [({"name": "pcgard"}, "pcgard"), ({"name": "sum", "reduction": "max"}, "max")]
)
def test_unknown_names(arguments, found):
    with pytest.raises(UserError, match=f"must be one of .*, found '{found}'"):
        task_weights(gramian=torch.eye(2), generator=torch.Generator(), **arguments)
