"""A run is refused whose launcher started other processes than it was asked for."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from transformers.utils import logging as transformers_logging

from hf_layerfusion.errors import UserError
from hf_layerfusion.training.launch_checks import check_processes
from tests.training.small import small_arguments

# What `accelerate launch` sets for `distributed_type: MULTI_CPU` and for `--cpu --num_processes 2`, accelerate 1.15.
ALONE = {"ACCELERATE_USE_CPU": "True", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "ACCELERATE_USE_FSDP", *ALONE):
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


def test_fsdp_on_the_cpu_is_said_to_be_ddp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(transformers_logging.get_logger("transformers"), "propagate", True)
    with caplog.at_level(logging.WARNING):
        small_arguments(tmp_path)
        assert not caplog.messages
        monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
        small_arguments(tmp_path)
        small_arguments(tmp_path)
    (message,) = caplog.messages
    assert message.startswith("FSDP does not run on the CPU: the processes train by DDP")
