"""Two machines, three processes, another number of processes, and one that dies: the result is that of one process.

Minutes where processes share two cores, and so not part of `make test`: `python -m pytest -m slow tests/training`.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.launched_script import OPTIONS, ROWS_OF_A_STEP
from tests.training.small import rows, small_trainer
from tests.two_processes import finish, free_port, start

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).with_name("launched_script.py")


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    alone = small_trainer(
        tmp_path_factory.mktemp("one"), train=rows(19), per_device_train_batch_size=ROWS_OF_A_STEP, **OPTIONS
    )
    alone.train()
    return alone.model.state_dict()


def check(folder: Path, expected: dict[str, torch.Tensor], processes: int, start_step: int = 0) -> None:
    found: dict[str, Any] = torch.load(folder / "found.pt")
    assert (found["world_size"], found["start"]) == (processes, start_step)
    for name, value in expected.items():
        torch.testing.assert_close(found["weights"][name], value, rtol=0, atol=1e-6)


def test_two_machines(tmp_path: Path, expected: dict[str, torch.Tensor]) -> None:
    port = free_port()
    machines = [
        start(
            SCRIPT,
            str(tmp_path),
            "",
            "0",
            port=port,
            num_machines=2,
            machine_rank=rank,
            main_process_ip="127.0.0.1",
        )
        for rank in range(2)
    ]
    for machine in machines:
        finish(machine)
    check(tmp_path, expected, 2)


def test_three_processes_and_two_that_go_on(tmp_path: Path, expected: dict[str, torch.Tensor]) -> None:
    finish(start(SCRIPT, str(tmp_path / "three"), "", "0", num_processes=3))
    check(tmp_path / "three", expected, 3)
    finish(start(SCRIPT, str(tmp_path / "two"), str(tmp_path / "three" / "checkpoint-4"), "0"))
    check(tmp_path / "two", expected, 2, start_step=4)


def test_a_process_that_dies_ends_the_others_and_the_run_is_resumed(
    tmp_path: Path, expected: dict[str, torch.Tensor]
) -> None:
    launch = start(SCRIPT, str(tmp_path), "", "5")
    while not (tmp_path / "checkpoint-4" / "checkpoint_manifest.json").exists():
        assert launch.poll() is None
        time.sleep(0.1)
    began = time.monotonic()
    output, _ = launch.communicate(timeout=90)
    assert time.monotonic() - began < 60
    assert launch.returncode != 0
    assert "exitcode  : 9" in output  # of the process that died, by its rank
    finish(start(SCRIPT, str(tmp_path), str(tmp_path / "checkpoint-4"), "0"))
    check(tmp_path, expected, 2, start_step=4)
