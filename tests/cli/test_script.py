"""What a script shows while it runs."""

import errno
import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from hf_layerfusion.cli import answers
from hf_layerfusion.cli.options import RECIPES
from hf_layerfusion.cli.script import parse_arguments, run_script, set_up_logging
from hf_layerfusion.errors import UserError
from hf_layerfusion.recipes.recipe_arguments import (
    AbsaDataArguments,
    AbsaTrainingArguments,
    DataArguments,
    ModelArguments,
    NliDataArguments,
    NliTrainingArguments,
    PoolingModelArguments,
    RunTrainingArguments,
    TweetTrainingArguments,
)
from hf_layerfusion.recipes.run_folder import run_settings
from hf_layerfusion.storage import writable
from reproduction.run_recipes import MULTITASK_CLASSES


@pytest.fixture(autouse=True)
def _levels_as_before() -> Iterator[None]:
    package = logging.getLogger("hf_layerfusion")
    before = package.level
    yield
    package.setLevel(before)


@pytest.mark.parametrize(("rank", "tells"), [(None, True), ("0", True), ("1", False)])
def test_of_several_processes_the_main_one_tells_of_its_work(
    monkeypatch: pytest.MonkeyPatch, rank: str | None, tells: bool
) -> None:
    if rank is None:
        monkeypatch.delenv("RANK", raising=False)
    else:
        monkeypatch.setenv("RANK", rank)
    set_up_logging()
    logger = logging.getLogger("hf_layerfusion.recipes.training_run")
    assert logger.isEnabledFor(logging.INFO) == tells
    assert logger.isEnabledFor(logging.WARNING)


TWEETS = (ModelArguments, DataArguments, TweetTrainingArguments)
ABSA = (PoolingModelArguments, AbsaDataArguments, AbsaTrainingArguments)
NLI = (PoolingModelArguments, NliDataArguments, NliTrainingArguments)


def parsed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, classes: Any, *given: str) -> dict[str, Any]:
    """All settings of a command line, by name."""
    monkeypatch.setattr(sys, "argv", ["script", "--output_dir", str(tmp_path / "run"), *given])
    return {name: value for each in parse_arguments(*classes) for name, value in vars(each).items()}


@pytest.mark.parametrize(
    ("classes", "changed"),
    [
        (TWEETS, {"early_stopping_patience": None, "decoupled_weight_decay": False, "duplicates_in": "all"}),
        (ABSA, {"decay_all": True}),
        (NLI, {"decay_all": True}),
    ],
    ids=["tweets", "absa", "nli"],
)
def test_the_papers_recipe(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, classes: Any, changed: dict[str, Any]
) -> None:
    default = parsed(monkeypatch, tmp_path, classes)
    paper = parsed(monkeypatch, tmp_path, classes, "--recipe", "paper")
    names = {name for name in changed if default[name] != paper[name]}
    assert names == set(changed)
    assert {name: paper[name] for name in changed} == changed
    same = parsed(monkeypatch, tmp_path, classes, "--recipe=default")
    assert all(same[name] == default[name] for name in changed)


def test_options_win_over_a_recipe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given = ("--recipe", "paper", "--early_stopping_patience", "2")
    found = parsed(monkeypatch, tmp_path, TWEETS, *given)
    assert found["early_stopping_patience"] == 2 and found["duplicates_in"] == "all"
    file = tmp_path / "settings.json"
    file.write_text(
        json.dumps({"output_dir": str(tmp_path / "run"), "recipe": "paper", "duplicates_in": "train"})
    )
    monkeypatch.setattr(sys, "argv", ["script", str(file)])
    model, data, training = parse_arguments(*TWEETS)
    assert data.duplicates_in == "train" and training.early_stopping_patience is None
    assert "recipe" not in run_settings(model, data, training)  # what it sets is there


def test_an_unknown_recipe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"--recipe must be one of default, paper, frozen, tuned, .*did you mean 'paper'"
    ):
        parsed(monkeypatch, tmp_path, TWEETS, "--recipe", "papr")


def test_the_recipe_of_a_frozen_encoder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = parsed(monkeypatch, tmp_path, TWEETS, "--recipe", "frozen", "--num_train_epochs", "1")
    assert found["pooling"] == "concat" and found["freeze_encoder"] and found["init_from_probe"]
    assert found["cache_frozen_states"].endswith("states")
    assert found["frozen_states_dtype"] == "float16"
    assert found["num_train_epochs"] == 1
    several = parsed(monkeypatch, tmp_path, MULTITASK_CLASSES, "--recipe", "frozen")
    assert several["pooling"] == "concat" and several["num_task_layers"] == 0
    assert several["freeze_encoder"] and several["init_from_probe"]


def test_the_help_of_recipe_names_each() -> None:
    help_ = next(field for field in fields(RunTrainingArguments) if field.name == "recipe").metadata["help"]
    assert all(name in help_ for name in RECIPES)


def test_the_recipe_of_a_tuned_encoder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = parsed(monkeypatch, tmp_path, TWEETS, "--recipe", "tuned", "--learning_rate", "2e-5")
    assert found["architecture"] == "layer_pooling" and found["pooling"] == "concat"
    assert found["init_from_probe"] and found["head_first_epochs"] == 1
    assert not found["freeze_encoder"] and found["cache_frozen_states"] is None
    assert found["learning_rate"] == 2e-5 and found["fusion_learning_rate"] is None
    assert found["weight_interpolation"] == 0.5
    averaged = ("--recipe", "tuned", "--weight_interpolation", "1", "--ema_decay", "0.9")
    assert parsed(monkeypatch, tmp_path, TWEETS, *averaged)["ema_decay"] == 0.9
    with pytest.raises(
        UserError, match=r"excludes freeze_encoder.*\(--recipe tuned sets head_first_epochs=1.0\)"
    ):
        parsed(monkeypatch, tmp_path, TWEETS, "--recipe", "tuned", "--freeze_encoder", "True")
    grubert = parsed(monkeypatch, tmp_path, TWEETS, "--recipe", "tuned", "--architecture", "gru_fusion")
    assert grubert["pooling"] is None and grubert["token_pooling"] is None and grubert["init_from_probe"]
    same = parsed(monkeypatch, tmp_path, TWEETS, "--recipe", "tuned", "--architecture", "layer_pooling")
    assert same["pooling"] == "concat"
    several = parsed(monkeypatch, tmp_path, MULTITASK_CLASSES, "--recipe", "tuned", "--num_task_layers", "0")
    assert several["token_pooling"] == "mean" and several["head_first_epochs"] == 1


def test_an_abbreviation_of_recipe_is_no_recipe_unsaid(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """argparse would take `--reci` for `--recipe`, too late for the defaults that a recipe sets."""
    with pytest.raises(UserError, match=r"--reci is no option .*did you mean '--recipe'"):
        parsed(monkeypatch, tmp_path, TWEETS, "--reci", "paper")


@contextmanager
def closed_output() -> Iterator[None]:
    """A standard output whose reader has gone, as that of `head`."""
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", encoding="utf-8") as stream, redirect_stdout(stream):
        yield
        stream.flush()  # as the interpreter does at its end: it must not fail again


@pytest.mark.parametrize("is_flushed", [True, False], ids=["while it prints", "at its end"])
def test_a_script_whose_output_nobody_reads_ends_quietly(
    capfd: pytest.CaptureFixture[str], is_flushed: bool
) -> None:
    def main() -> None:
        with writable("the report"):
            print("a line", flush=is_flushed)

    with closed_output(), pytest.raises(SystemExit) as stopped:
        run_script(main)
    assert stopped.value.code == 1
    assert capfd.readouterr().err == ""


def test_a_users_mistake_is_told_though_nobody_reads_the_output(capfd: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        print("a line")
        raise UserError("--data must be named.")

    with closed_output(), pytest.raises(SystemExit) as stopped:
        run_script(main)
    assert stopped.value.code == 2
    assert capfd.readouterr().err == "error: --data must be named.\n"


def test_a_lost_connection_is_no_fault_of_the_disk() -> None:
    def main() -> None:
        with writable("the model"):
            raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")

    with pytest.raises(ConnectionResetError):
        run_script(main)


def test_answers_are_printed_on_one_line_each(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(answers, "pipeline", lambda *_, **__: lambda text: [{"label": "good", "score": 0.5}])
    answers.print_answers(tmp_path, ["two\nlines \x1b[31m\u202ered", ("x" * 10_000, "y")])
    shown = capsys.readouterr().out.splitlines()[2:]
    assert shown == ["  good (0.50)  two lines  [31m red", f"  good (0.50)  {'x' * 99}… | y"]
