"""One launch of two processes on the CPU; see two_process_script.py for what they run."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.small import rows, small_trainer
from tests.training.two_process_script import ROWS, WHOLE_BATCH

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("two-processes")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = (
        "-m accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no"
    )
    launch += f" --dynamo_backend no --main_process_port {port}"
    script = Path(__file__).with_name("two_process_script.py")
    with subprocess.Popen(
        [sys.executable, *launch.split(), str(script), str(folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "src")))},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=180)
        except subprocess.TimeoutExpired:
            process.terminate()  # the launcher then ends the two
            output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output[-4000:]
    return [torch.load(folder / f"found-{rank}.pt", weights_only=False) for rank in range(2)]


def test_there_are_two(found: list[dict[str, Any]]) -> None:
    assert [each["world_size"] for each in found] == [2, 2]


@pytest.mark.parametrize("accumulation", [1, 2])
def test_equal_to_one_process_on_the_whole_batch(
    found: list[dict[str, Any]], accumulation: int, tmp_path: Path
) -> None:
    alone = small_trainer(tmp_path, train=rows(ROWS), per_device_train_batch_size=8, **WHOLE_BATCH)
    alone.train()
    losses = [entry["loss"] for entry in alone.state.log_history if "loss" in entry]
    first, second = (each[f"weights-{accumulation}"] for each in found)
    for name, expected in alone.model.state_dict().items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], expected, rtol=0, atol=1e-6)
    assert found[0][f"losses-{accumulation}"] == pytest.approx(losses, abs=1e-6)


def test_every_example_is_seen_in_every_epoch(found: list[dict[str, Any]]) -> None:
    everything = {tuple(row["input_ids"]) for row in rows(ROWS)}
    assert all(len(each["seen"]) == 9 for each in found)
    for epoch in range(3):
        batches = [batch for each in found for batch in each["seen"][3 * epoch : 3 * epoch + 3]]
        assert {row for batch in batches for row in batch} == everything


def test_a_resumed_run_ends_in_the_same_weights(found: list[dict[str, Any]]) -> None:
    assert [each["resumed_from"] for each in found] == [4, 4]
    assert len({each[run] for each in found for run in ("straight", "resumed")}) == 1
