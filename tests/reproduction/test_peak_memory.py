"""Tests of a run's peak memory against known allocations."""

import sys

import pytest
import torch

from reproduction import peak_memory as memory
from reproduction.peak_memory import peak_memory, reset_peak_memory


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_peak_is_what_was_held_since_it_was_reset():
    reset_peak_memory()
    before = peak_memory()
    torch.ones(400 * 2**18)  # 400 MiB, freed at once
    assert 380 <= peak_memory() - before <= 420
    reset_peak_memory()
    assert peak_memory() - before < 20


def test_where_a_peak_cannot_be_reset_there_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_PROCESS", tmp_path / "none")
    reset_peak_memory()
    assert peak_memory() is None
