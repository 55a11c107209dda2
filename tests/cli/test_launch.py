"""Flags of `accelerate launch` on a command's line."""

from __future__ import annotations

from typing import Any

import accelerate.commands.launch
import pytest
import torch

from hf_layerfusion.cli.launch import is_launched, launch_line
from hf_layerfusion.cli.train_command import RECIPE
from hf_layerfusion.errors import UserError
from tests.tiny import write_csv


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    for name in ("LOCAL_RANK", "RANK", "ACCELERATE_MIXED_PRECISION"):
        monkeypatch.delenv(name, raising=False)
    calls: list[Any] = []
    monkeypatch.setattr(accelerate.commands.launch, "launch_command", calls.append)
    return calls


def test_the_flags_are_handed_on_and_the_others_are_the_commands(launched: list[Any], tmp_path) -> None:
    train = str(write_csv(tmp_path / "train.csv", [("a", "b")]))
    RECIPE.main(["--num_processes", "2", "--train_file", train, "--main_process_port=29511", "--seed", "3"])
    (call,) = launched
    assert call.num_processes == 2 and call.main_process_port == 29511
    assert call.module and call.training_script == "hf_layerfusion"
    assert call.training_script_args[:5] == ["train", "--train_file", train, "--seed", "3"]


def test_a_file_may_name_them(launched: list[Any], tmp_path) -> None:
    (tmp_path / "run.yaml").write_text("num_processes: 2\nuse_cpu: true\n")
    RECIPE.main(["--config", str(tmp_path / "run.yaml")])
    assert launched[0].num_processes == 2 and launched[0].multi_gpu


def test_the_line_that_works_on_cpus() -> None:
    line = launch_line({"num_processes": 2}, on_cpu=True)
    assert "--multi_gpu" in line and "--cpu" not in line
    assert line == launch_line({"num_processes": 2, "cpu": True}, on_cpu=True)
    assert launch_line({"num_processes": 2}, on_cpu=False) == ["--num_processes", "2"]


def test_cpu_is_obeyed_on_a_machine_with_a_gpu(
    launched: list[Any], tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    train = str(write_csv(tmp_path / "train.csv", [("a", "b")]))
    RECIPE.main(["--num_processes", "2", "--cpu", "--train_file", train])
    RECIPE.main(["--num_processes", "2", "--train_file", train])
    assert launched[0].training_script_args[-2:] == ["--use_cpu", "True"]
    assert "--use_cpu" not in launched[1].training_script_args


def test_hyphens_are_underscores(launched: list[Any], tmp_path) -> None:
    train = str(write_csv(tmp_path / "train.csv", [("a", "b")]))
    RECIPE.main(["--num-processes", "2", "--main-process-port=29511", "--train-file", train])
    assert launched[0].num_processes == 2 and launched[0].main_process_port == 29511


@pytest.mark.parametrize("number", ["0", "two"])
def test_a_number_that_is_none(number: str, launched: list[Any]) -> None:
    with pytest.raises(UserError, match="--num_processes must be a whole number"):
        RECIPE.main(["--num_processes", number])


def test_a_launched_process_launches_nothing() -> None:
    assert is_launched({"LOCAL_RANK": "0"}) and not is_launched({})


def test_a_flag_that_a_file_switches_off_is_left_out() -> None:
    assert launch_line({"num_processes": 2, "multi_gpu": False}, on_cpu=False) == ["--num_processes", "2"]


def test_cpus_are_one_process_where_no_number_is_named() -> None:
    assert launch_line({"cpu": True}, on_cpu=True) == ["--cpu"]
    assert launch_line({"main_process_port": "1"}, on_cpu=True) == ["--main_process_port", "1", "--cpu"]


def test_a_file_by_itself_is_named_beside_other_options(
    launched: list[Any], tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.json"
    path.write_text('{"num_processes": 2}')
    RECIPE.main([str(path)])
    assert launched[0].training_script_args[1:] == ["--config", str(path), "--use_cpu", "True"]
