"""Cosines and shares of steps in conflict, by hand."""

import math

import pytest
import torch

from hf_layerfusion.gradient_surgery.conflicts import ConflictStatistics, cosines


def test_cosines():
    gradients = torch.tensor([[1.0, 0.0], [-2.0, 2.0], [0.0, 0.0]], dtype=torch.float64)
    half = math.sqrt(0.5)
    expected = torch.tensor([[1, -half, 0], [-half, 1, 0], [0, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(cosines(gradients @ gradients.T), expected)


def test_means_over_steps_since_the_last_entry():
    statistics = ConflictStatistics()
    statistics.update(["sts", "sst"], torch.tensor([[4.0, -1.0], [-1.0, 1.0]]))
    statistics.update(
        ["sst", "sts", "quora"], torch.tensor([[1.0, 1.0, 0.0], [1.0, 4.0, -2.0], [0.0, -2.0, 4.0]])
    )
    statistics.update(["quora", "sst"], torch.eye(2))
    assert statistics.logs() == pytest.approx(
        {
            "cosine_sst_sts": 0.0,
            "conflict_sst_sts": 0.5,
            "cosine_quora_sts": -0.5,
            "conflict_quora_sts": 1.0,
            "cosine_quora_sst": 0.0,
            "conflict_quora_sst": 0.0,
            "conflict": 2 / 3,
        }
    )
    assert statistics.logs() == {}
