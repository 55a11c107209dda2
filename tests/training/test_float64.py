"""Nothing of training makes float64 on a device that has none, as Apple's MPS."""

from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import DynamicOutputShapeException
from torch.utils.data import DataLoader

from hf_layerfusion.gradient_surgery.gramian import TaskGradients
from hf_layerfusion.regularizers.registry import REGULARIZERS
from hf_layerfusion.regularizers.regularizer import regularized_pass
from hf_layerfusion.regularizers.smart import Smart
from hf_layerfusion.training.sharded_evaluation import ShardedEvaluation
from tests.float64 import device_without_float64, without_float64
from tests.regularizers.small import batch, classifier


def test_float64_is_refused():
    with device_without_float64() as device:
        assert torch.zeros(3, device=device).cpu().double().dtype == torch.float64
        with pytest.raises(AssertionError, match="float64"):
            torch.zeros(3, device=device).double()
    with without_float64(), pytest.raises(AssertionError, match="float64"):
        torch.zeros(3).double()


def test_gradient_surgery():
    with device_without_float64() as device:
        shared, own = (torch.nn.Parameter(torch.zeros(4, 3, device=device)) for _ in range(2))
        gradients = TaskGradients([shared, own])
        for task in ("a", "b"):
            with gradients.of(task):
                shared.grad = torch.randn(4, 3, device=device)
                own.grad = torch.randn(4, 3, device=device) if task == "a" else None
        gramian = gradients.gramian()
        assert gramian.dtype == torch.float64 and gramian.device.type == "cpu"


@pytest.mark.parametrize("regularizer", [*REGULARIZERS, "smart-pytorch"])
def test_regularizers(regularizer):
    made = Smart(mode=regularizer) if regularizer == "smart-pytorch" else REGULARIZERS[regularizer]()
    model, inputs = classifier(attn_implementation="eager"), batch()
    with without_float64():
        regularized_pass(model, inputs, [made]).losses[""].backward()
        made.after_step(model)


def test_the_loss_of_an_evaluation():
    accelerator = SimpleNamespace(gather=lambda tensor: tensor)
    evaluation = ShardedEvaluation(DataLoader([]), accelerator, ["labels"])
    # As far as it looks at values, which such tensors have none of.
    with device_without_float64() as device:
        evaluation.add_loss(torch.ones((), device=device), torch.ones((), device=device))
        with pytest.raises(DynamicOutputShapeException):
            evaluation.loss()
