"""Tests that damaged layer states are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hf_layerfusion.errors import UserError
from hf_layerfusion.recipes.layer_state_plots import read_states
from hf_layerfusion.run_layout import LAYER_STATES, records


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = records(tmp_path) / LAYER_STATES / "epoch-1.npz"
    path.parent.mkdir(parents=True)
    states = np.random.default_rng(0).normal(size=(2, 3, 4))
    np.savez_compressed(path, title="a run", states=states, labels=[0, 1, 0], layers=[1, 2])
    np.testing.assert_array_equal(read_states(tmp_path)["a run"]["states"], states)
    content = path.read_bytes()
    refusals = []
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        try:
            np.testing.assert_array_equal(read_states(tmp_path)["a run"]["states"], states)
        except UserError as error:
            refusals.append(str(error))
    assert len(refusals) > len(content) / 2
    assert all(
        "epoch-1.npz: must hold the states of --plot_layers, found a damaged" in text for text in refusals
    )
    for length in (100, 0):
        path.write_bytes(content[:length])
        with pytest.raises(UserError, match="found a damaged file"):
            read_states(tmp_path)
