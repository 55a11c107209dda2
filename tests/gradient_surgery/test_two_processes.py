"""Two processes with half the batch each have the gradient of one with the whole: SMART, and PCGrad with SMART."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hf_layerfusion.regularizers.regularizer import regularized_pass
from tests.gradient_surgery.two_process_script import (
    model_and_batches,
    projected,
    same_noise_on_every_row,
    smart,
)
from tests.regularizers.small import gradients

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two-processes")
    script = Path(__file__).with_name("two_process_script.py")
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), str(folder), str(rank)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "src")))},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=180)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    return [torch.load(folder / f"found-{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.fixture(autouse=True)
def _same_noise(monkeypatch):
    monkeypatch.setattr(torch, "randn_like", torch.randn_like)  # comes back after the test
    same_noise_on_every_row()


@pytest.mark.parametrize("low_memory", [False, True])
def test_smart(found, low_memory):
    model, batches = model_and_batches()
    expected = gradients(model, regularized_pass(model, batches["a"], [smart(low_memory)]).losses[""])
    plain = gradients(model, model(**batches["a"]).loss)
    assert not torch.allclose(plain["classifier.weight"], expected["classifier.weight"], atol=1e-3)
    for name, gradient in expected.items():
        first, second = (each[low_memory][name] for each in found)
        assert torch.equal(first, second)
        torch.testing.assert_close(first, gradient, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_pcgrad(found, micro_batches):
    model, batches = model_and_batches()
    gramian = projected(model, batches, micro_batches)
    assert (gramian < 0).any()  # else there is nothing to project
    torch.testing.assert_close(found[0]["gramian"], gramian, rtol=1e-8, atol=1e-10)
    assert torch.equal(found[0]["gramian"], found[1]["gramian"])
    for name, parameter in model.named_parameters():
        first, second = (each["projected"][name] for each in found)
        assert torch.equal(first, second)
        torch.testing.assert_close(first, parameter.grad, rtol=1e-8, atol=1e-10)


def test_surgery_sends_the_gradient_of_each_task(found):
    """Bytes that a process hands to all-reduce in a step: 8 for a parameter in float64, times the number of tasks."""
    model, _ = model_and_batches()
    gradient = 8 * sum(parameter.numel() for parameter in model.parameters())
    for each in found:
        assert sum(each["plain bytes"]) == gradient
        assert sum(each["surgery bytes"]) == 3 * gradient
