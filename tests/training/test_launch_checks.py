"""A run is refused whose launcher started other processes than it was asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_layerfusion.errors import UserError
from hf_layerfusion.training.launch_checks import check_processes
from tests.training.small import small_arguments

# What `accelerate launch` sets for `distributed_type: MULTI_CPU` and for `--cpu --num_processes 2`, accelerate 1.15.
ALONE = {"ACCELERATE_USE_CPU": "True", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "RANK",
        "LOCAL_RANK",
        "WORLD_SIZE",
        "ACCELERATE_USE_FSDP",
        "ACCELERATE_USE_DEEPSPEED",
        *ALONE,
    ):
        monkeypatch.delenv(name, raising=False)


def test_several_processes_on_the_cpu_of_which_one_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in ALONE.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(
        UserError, match=r"asked for several processes on the CPU .*, found one; start them by"
    ):
        small_arguments(tmp_path)
    monkeypatch.setenv("PMI_RANK", "0")  # by mpirun
    small_arguments(tmp_path)
    monkeypatch.delenv("PMI_RANK")
    monkeypatch.delenv("MASTER_ADDR")  # `--cpu` alone
    small_arguments(tmp_path)


def test_processes_that_would_each_train_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    args = small_arguments(tmp_path)
    check_processes(args)
    monkeypatch.setenv("WORLD_SIZE", "2")  # of the environment alone: accelerate was told nothing of the CPU
    with pytest.raises(UserError, match="2 processes were started, and each would train alone on the cpu"):
        check_processes(args)


@pytest.mark.parametrize("name", ["FSDP", "DeepSpeed"])
def test_what_is_not_tested_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    small_arguments(tmp_path)
    monkeypatch.setenv(f"ACCELERATE_USE_{name.upper()}", "true")
    with pytest.raises(
        UserError, match=f"must train by DDP, found {name}, which is not supported; leave it out"
    ):
        small_arguments(tmp_path)


def test_several_gpus_in_one_process_are_refused(tmp_path: Path) -> None:
    args = small_arguments(tmp_path)
    args._n_gpu = 2
    with pytest.raises(UserError, match=r"a process each, found 2 in one, .*--num_processes 2"):
        check_processes(args)
