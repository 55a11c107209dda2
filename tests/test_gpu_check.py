"""The check of a GPU: its code runs on the CPU, and without a GPU it says so."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from hf_layerfusion.training.launch_checks import runs_lstms_in_bf16

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def gpu_check(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu_check

    return gpu_check


def test_without_a_gpu_it_says_so(gpu_check, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu_check.py"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu_check.main() == 0
    assert capsys.readouterr().out == "No GPU was found, so nothing was checked.\n"


@pytest.mark.skipif(not runs_lstms_in_bf16(), reason="this CPU runs no LSTM in bf16")
def test_its_code_runs_on_the_cpu(gpu_check, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", "--device", "cpu", "--quick"])
    assert gpu_check.main() == 0
    out = capsys.readouterr().out
    assert "FAIL" not in out
    for part in (
        "share-gru, float16",
        "concat pooling, bfloat16",
        "surgery_step",
        "smart_step",
        "2 recurrences",
    ):
        assert part in out


def test_a_difference_fails_it(gpu_check, capsys) -> None:
    report = gpu_check.Report()
    report.check("equal", 0.0, 1e-3)
    assert report.passed
    report.check("not a number", float("nan"), 1e-3)
    assert not report.passed
    assert "FAIL not a number" in capsys.readouterr().out
