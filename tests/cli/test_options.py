"""Options of the commands: the table, what is given on the command line and in files, and the help."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from transformers import HfArgumentParser

from hf_layerfusion.__main__ import COMMANDS, main
from hf_layerfusion.cli.options import (
    TABLE,
    Option,
    commands_with,
    help_text,
    is_current,
    read_arguments,
    read_config,
    table_options,
)
from hf_layerfusion.cli.script import CommandParser
from hf_layerfusion.cli.train_command import RECIPE
from hf_layerfusion.cli.write_option_table import KNOWN, made_table, options_of, recipe_commands
from hf_layerfusion.errors import UserError
from hf_layerfusion.modeling.fusion_pooling import TokenPooling

CLI = Path(sys.modules["hf_layerfusion.cli.options"].__file__).parent
TRAIN = ("--train_file", "no-such-file.csv", "--output_dir", "run")


def read(*arguments: str, command: str = "train") -> dict[str, Any]:
    return read_arguments(command, table_options(command), arguments).values


def test_the_table_is_what_the_dataclasses_say() -> None:
    if not is_current():
        pytest.skip("another transformers than the pinned one is installed")
    stored = json.loads((CLI / TABLE).read_text(encoding="utf-8"))
    made = json.loads(json.dumps(made_table()))
    again = "call python -m hf_layerfusion.cli.write_option_table"
    assert stored["commands"].keys() == made["commands"].keys(), again
    for command in made["commands"]:
        rows = [
            {table["options"][place]["name"]: table["options"][place] for place in table["commands"][command]}
            for table in (stored, made)
        ]
        assert rows[0] == rows[1], again
    assert stored == made, again


@pytest.mark.parametrize("command", sorted(recipe_commands()))
def test_options_are_read_as_the_argument_parser_of_transformers_reads_them(command: str) -> None:
    classes = recipe_commands()[command].dataclasses()
    theirs = {}
    for action in HfArgumentParser(list(classes))._actions:
        theirs.setdefault(action.dest, action)
    del theirs["help"]
    ours = {option.name: option for option in options_of(classes)}
    assert ours.keys() == theirs.keys()
    for name, action in theirs.items():
        assert ours[name].flags == action.option_strings[: len(ours[name].flags)]
        assert ours[name].many == (action.nargs == "+")
        assert (ours[name].kind == "bool") == (getattr(action.type, "__name__", "") == "string_to_bool")
        for kind in (int, float):
            assert (ours[name].kind == kind.__name__) == (action.type is kind)


def test_every_recipe_is_a_command() -> None:
    assert recipe_commands().keys() <= COMMANDS.keys()
    for name, recipe in recipe_commands().items():
        assert COMMANDS[name].module == f"hf_layerfusion.cli.{name.replace('-', '_')}_command", recipe


def test_help_is_short_grouped_and_imports_no_torch() -> None:
    code = (
        "import sys, hf_layerfusion.__main__ as m; m.main(['train', '--help']); "
        "sys.exit(bool({'torch', 'transformers', 'datasets'} & sys.modules.keys()))"
    )
    start = time.perf_counter()
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert time.perf_counter() - start < 5  # 0.3 on an idle machine
    options = [line for line in shown.splitlines() if line.startswith("  --")]
    assert 30 <= len(options) <= 52
    for group in ("data", "model", "fusion", "training", "outputs"):
        assert f"\n{group}:\n" in shown
    assert "--help all" in shown


def test_help_of_everything_lists_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    main(["train", "--help", "all"])
    shown = capsys.readouterr().out
    for option in RECIPE.options():
        assert f"--{option.name} " in shown


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for name in COMMANDS:
        with suppress(SystemExit):  # argparse's
            main([name, "--help"])
        assert f"hf-layerfusion {name}" in capsys.readouterr().out


MISTAKES = [
    (["--fusoin", "cat"], "--fusoin is no option of train; did you mean '--fusion'?"),
    (["--fusion", "catt"], "did you mean 'cat'?"),
    (["--architecture=plane"], "did you mean 'plain'?"),
    (["--learning_rate", "fast"], "--learning_rate must be a number, found 'fast'"),
    (["--num_train_epochs"], "--num_train_epochs"),
    (["--seed", "1.5"], "--seed must be a whole number"),
    (["--eval_strategy", "epochs", "stray"], "stray"),
    (["--lr_scheduler_typ", "linear"], "did you mean '--lr_scheduler_type'?"),
    (["--sentence_only", "True"], "it is one of train-absa"),
    (["--use_cpu", "perhaps"], "--use_cpu must be True or False"),
    (["--output_dir", "a\0b"], "must hold no NUL character"),
]


@pytest.mark.parametrize(("given", "hint"), MISTAKES, ids=lambda value: str(value)[:40])
def test_a_wrong_option_or_value_is_one_line_with_the_right_one(given: list[str], hint: str) -> None:
    with pytest.raises(UserError) as found:
        read(*TRAIN, *given)
    assert hint in str(found.value)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        (
            ["--class_scores", "True"],
            "True stands behind an option of hf-layerfusion predict that takes no value",
        ),
        (["more.csv"], "more.csv is one argument too many for hf-layerfusion predict; leave it out"),
        (
            ["--class_scroes"],
            "--class_scroes is no option of hf-layerfusion predict; did you mean '--class_scores'?",
        ),
    ],
)
def test_what_a_command_does_not_take_is_named_for_what_it_is(
    given: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refusal:
        main(["predict", "model", "texts.csv", "--output_dir", "answers", *given])
    assert refusal.value.code == 2
    assert hint in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        (["trian"], "did you mean 'train'?"),
        (["train", *TRAIN], "--train_file no-such-file.csv: cannot be read"),
        (["train", "--model_name_or_path", "./no/such"], "no such folder"),
        (["train", "--model_name_or_path", "a/b/c"], "no such folder"),
        (["train", "--model_name_or_path", f"{Path(__file__).parts[-3]}/no-such-model"], "no such folder"),
        (["verify", "--foldres"], "verify"),
    ],
    ids=str,
)
def test_a_refusal_exits_with_2_before_heavy_imports(
    given: list[str], hint: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hf_layerfusion.cli.script.set_up_logging", None)  # whose imports take seconds
    monkeypatch.chdir(Path(__file__).parents[2])
    with pytest.raises(SystemExit) as ended:
        main(given)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert hint in error and error.startswith("error: ") and error.count("\n") == 1


def config(folder: Path, content: Any, name: str = "run.yaml") -> str:
    path = folder / name
    dump = json.dumps if name.endswith("json") else yaml.safe_dump
    path.write_text(content if isinstance(content, str) else dump(content), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", ["run.yaml", "run.json"])
def test_flags_win_over_a_file(name: str, tmp_path: Path) -> None:
    content = {
        "learning_rate": "1e-5",
        "seeds": [1, 2],
        "early_stopping_patience": None,
        "use_cpu": True,
        "seed": 7,
    }
    found = read("--config", config(tmp_path, content, name), "--seed", "8", "--no_load_best_model_at_end")
    assert found == {
        "learning_rate": 1e-5, "seeds": [1, 2], "early_stopping_patience": None, "use_cpu": True, "seed": 8,
        "load_best_model_at_end": False,
    }  # fmt: skip
    assert read(config(tmp_path, {"seed": 3}, "alone.json")) == {"seed": 3}


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        ({"lerning_rate": 1}, "did you mean 'learning_rate'?"),
        ({"sentence_only": True}, "it is one of train-absa"),
        ({"command": "train-nli", "seed": 1}, "call hf-layerfusion train-nli --config"),
        ({"learning_rate": [1e-5]}, "write learning_rate: 1e-05"),
        ({"seed": 1.5}, "seed must be a whole number"),
        ({"language": False}, "put it into quotation marks"),
        ({"fusion": "catt"}, "did you mean 'cat'?"),
        ({"num_train_epochs": None}, "found null"),
        ({"output_dir": {"a": 1}}, "output_dir must be text"),
        ("- a list", "must hold options by name"),
        ("a: [", "mend it there"),
    ],
    ids=str,
)
def test_a_wrong_file_is_one_line(content: Any, hint: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as found:
        read("--config", config(tmp_path, content))
    assert hint in str(found.value) and "run.yaml" in str(found.value)
    assert "\n" not in str(found.value)


def test_a_file_that_is_none(tmp_path: Path) -> None:
    for name, hint in (("no.yaml", "No such file"), ("run.txt", r"\.yaml or \.json")):
        with pytest.raises(UserError, match=hint):
            read("--config", str(tmp_path / name))


def test_long_values_and_defaults_in_help() -> None:
    option = Option("a_list", "int", True, [1, 2], False, "Numbers.", "data", first=True)
    shown = help_text("train", "train", [option], everything=False)
    assert "--a_list N ..." in shown and "(default: 1 2)" in shown
    assert commands_with("sentence_only") == ["train-absa"]


@pytest.mark.parametrize("text", ["seed: 1\nseed: 2\n", '{"seed": 1, "seed": 2}'])
def test_an_option_that_a_file_gives_twice(tmp_path: Path, text: str) -> None:
    path = tmp_path / ("run.json" if text.startswith("{") else "run.yaml")
    path.write_text(text)
    with pytest.raises(UserError, match="seed is given 2 times; mend it there"):
        read_config(path, "train")
    path.write_text(text.replace("seed", "split_seed", 1).replace("{", "{\t"))  # a tab, which yaml refuses
    assert read_config(path, "train") == {"split_seed": 1, "seed": 2}
    path.write_text("{}")
    assert read_config(path, "train") == {}


def test_the_names_of_token_pooling_are_those_of_the_model() -> None:
    assert {*KNOWN["token_pooling"]} == {*get_args(TokenPooling)}


def test_commands_without_a_recipe_take_hyphens_too() -> None:
    parser = CommandParser(prog="hf-layerfusion predict")
    parser.add_argument("--output_dir")
    parser.add_argument("--dry-run", action="store_true")
    found = parser.parse_args(["--output-dir", "my-run", "--dry-run"])
    assert (found.output_dir, found.dry_run) == ("my-run", True)
    assert parser.parse_args(["--output-dir=my-run"]).output_dir == "my-run"
    with pytest.raises(UserError, match=r"--output-dri is no option .*did you mean '--output_dir'"):
        parser.parse_args(["--output-dri", "x"])
