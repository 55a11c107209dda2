"""A run is refused whose launcher started other processes than it was asked for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch import nn

from hf_layerfusion.errors import UserError
from hf_layerfusion.recipes.pretraining.pretraining_arguments import PretrainingArguments
from hf_layerfusion.recipes.recipe_arguments import RunTrainingArguments
from hf_layerfusion.training import launch_checks
from hf_layerfusion.training.launch_checks import check_processes
from hf_layerfusion.training.model_preparation import prepare_model
from tests.training.small import small_arguments, small_model

ROOT = Path(__file__).parents[2]

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


def test_deepspeed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_arguments(tmp_path)
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(UserError, match=r"by DDP or FSDP2, found DeepSpeed, .*; use .*fsdp2.yaml"):
        small_arguments(tmp_path)


@pytest.fixture
def fsdp(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What `accelerate launch` sets of examples/accelerate/fsdp2.yaml, for a process that is not on the CPU."""
    config = yaml.safe_load((ROOT / "examples/accelerate/fsdp2.yaml").read_text(encoding="utf-8"))[
        "fsdp_config"
    ]
    found = {name.upper(): str(value).lower() for name, value in config.items()} | {
        "ACCELERATE_USE_FSDP": "true"
    }
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(launch_checks, "is_on_the_cpu", lambda args: False)
    return found


def test_fsdp_on_the_cpu_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for changes in ({"fsdp": True}, {}):
        with pytest.raises(
            UserError, match=r"accelerator in each process, found the CPU, .*; leave fsdp out"
        ):
            small_arguments(tmp_path, **changes)
        monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")


def test_the_committed_configuration_is_accepted(tmp_path: Path, fsdp: dict[str, str]) -> None:
    small_arguments(tmp_path)


@pytest.mark.parametrize(
    ("name", "found", "rule"),
    [
        ("FSDP_VERSION", "1", "fsdp_version must be 2, found 1; set 2"),
        (
            "FSDP_STATE_DICT_TYPE",
            "SHARDED_STATE_DICT",
            "must be FULL_STATE_DICT, .* found SHARDED_STATE_DICT",
        ),
        ("FSDP_CPU_RAM_EFFICIENT_LOADING", "true", "loading must be false, .* found true; set false"),
    ],
)
def test_other_kinds_of_fsdp_are_refused(
    tmp_path: Path, fsdp: dict[str, str], monkeypatch: pytest.MonkeyPatch, name: str, found: str, rule: str
) -> None:
    monkeypatch.setenv(name, found)
    with pytest.raises(UserError, match=rule):
        small_arguments(tmp_path)
    monkeypatch.delenv("ACCELERATE_USE_FSDP")
    config = {name.removeprefix("FSDP_").lower(): found}
    args = small_arguments(tmp_path)
    args.fsdp, args.fsdp_config = True, config
    with pytest.raises(UserError, match=rule):
        args.check()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("regularizers", "bregman"),
        ("regularizers", {"smart": {}, "bregman": {}}),
        ("auto_find_batch_size", True),
        ("head_first_epochs", 1),
        ("optim", "sgd"),
    ],
)
def test_options_that_need_whole_weights_are_refused(
    tmp_path: Path, fsdp: dict[str, str], option: str, value: Any
) -> None:
    with pytest.raises(UserError, match=f"FSDP excludes {option}=.*; leave {option} out or train by DDP"):
        small_arguments(tmp_path, **{option: value})


def test_commands_refuse_fsdp(tmp_path: Path, fsdp: dict[str, str]) -> None:
    for kind in (RunTrainingArguments, PretrainingArguments):
        with pytest.raises(
            UserError, match="read the trained model on one process and train by DDP, found FSDP"
        ):
            kind(output_dir=str(tmp_path), use_cpu=True)


def test_several_gpus_in_one_process_are_refused(tmp_path: Path) -> None:
    args = small_arguments(tmp_path)
    args._n_gpu = 2
    with pytest.raises(
        UserError,
        match=r"a process each, found 2 in one, .*--num_processes 2, .*notebook_launcher\(train, num_processes=2\)",
    ):
        check_processes(args)


@pytest.mark.parametrize(
    ("machine", "capability", "bf16", "warned"),
    [
        ("x86_64", "AVX2", True, True),
        ("AMD64", "DEFAULT", True, True),
        ("x86_64", "AVX512", True, False),
        ("arm64", "DEFAULT", True, False),
        ("x86_64", "AVX2", False, False),
    ],
)
def test_a_cpu_that_emulates_bf16_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: str, capability: str, bf16: bool, warned: bool
) -> None:
    shown: list[str] = []
    monkeypatch.setattr(launch_checks.logger, "warning_once", shown.append, raising=False)
    monkeypatch.setattr(launch_checks.platform, "machine", lambda: machine)
    monkeypatch.setattr(launch_checks.torch.backends.cpu, "get_cpu_capability", lambda: capability)
    small_arguments(tmp_path, bf16=bf16, use_cpu=True)
    assert [line.split(" is ")[0] for line in shown] == [
        "bf16=True on a CPU without instructions for bf16"
    ] * warned


def test_an_lstm_in_bf16_on_a_cpu_that_cannot_run_it_is_refused(tmp_path: Path) -> None:
    code = f"""
import torch
from torch import nn
from hf_layerfusion.errors import UserError
from hf_layerfusion.training.launch_checks import check_lstm_precision
from tests.training.small import small_arguments
arguments = small_arguments({str(tmp_path)!r}, bf16=True)
check_lstm_precision(nn.GRU(2, 2), arguments)
check_lstm_precision(nn.LSTM(2, 2), small_arguments({str(tmp_path)!r}))
for run in (lambda: check_lstm_precision(nn.Sequential(nn.LSTM(2, 2)), arguments),
            lambda: nn.LSTM(2, 2)(torch.zeros(1, 1, 2))):
    try:
        with torch.autocast("cpu", torch.bfloat16):
            run()
        print("no error")
    except (RuntimeError, UserError) as error:
        print(type(error).__name__, error)
"""
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    checked, raw = done.stdout.splitlines()
    if raw == "no error":
        pytest.skip("this machine's LSTMs run in bf16 with AVX2")
    assert checked == (
        "UserError bf16=True on a model with LSTMs needs a CPU that runs them in bf16 (on x86, one with AVX-512), "
        "found one that does not; leave bf16 out, or choose a fuser without LSTMs"
    )


def test_every_model_is_checked_for_lstms_in_bf16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch_checks, "runs_lstms_in_bf16", lambda: False)
    model = nn.Sequential(small_model(), nn.LSTM(2, 2))
    with pytest.raises(UserError, match="needs a CPU that runs them in bf16"):
        prepare_model(model, small_arguments(tmp_path, bf16=True))
    prepare_model(model, small_arguments(tmp_path))
