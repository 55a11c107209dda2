from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from hf_layerfusion.__main__ import main
from hf_layerfusion.cli import probe_run as command_module
from hf_layerfusion.storage import new_folder
from tests.tiny import tiny_texts, write_csv


def test_table_advice_and_files(
    tiny_encoder_dir: str, tiny_tweets: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_csv(tmp_path / "other.csv", tiny_texts(64, 5))
    train, test = str(tiny_tweets["train"]), str(tiny_tweets["test"])
    output = tmp_path / "probe"
    main([
        "probe", tiny_encoder_dir, "--train_file", train, str(other), "--test_file", test, test,
        "--cache_dir", str(tmp_path / "states"), "--max_train_samples", "48", "--output_dir", str(output),
    ])  # fmt: skip
    shown = capsys.readouterr().out
    found = json.loads((output / "probe.json").read_text())
    assert [probe["data"] for probe in found] == ["train", "other"]
    assert {probe["num_train"] for probe in found} == {48}
    for probe in found:
        assert probe["advice"] in shown
    assert {path.name for path in output.iterdir()} == {"probe.json", "layers.png", "gains.png"}


def test_repeated_texts_are_removed_before_rows_are_drawn_and_those_of_test_counted(
    tiny_encoder_dir: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = tiny_texts(40, 0)
    train = write_csv(tmp_path / "train.csv", [*texts, *texts[:20], *texts[:20]])
    test = write_csv(tmp_path / "test.csv", [*tiny_texts(20, 1), *texts])
    output = tmp_path / "probe"
    main([
        "probe", tiny_encoder_dir, "--train_file", str(train), "--test_file", str(test), "--max_train_samples", "30",
        "--cache_dir", str(tmp_path / "states"), "--output_dir", str(output),
    ])  # fmt: skip
    notes = ["train: 40 repeated texts removed", "test: 30 texts also occur in train"]
    (probe,) = json.loads((output / "probe.json").read_text())
    assert (probe["num_train"], probe["num_test"]) == (30, 60)
    assert probe["notes"] == notes
    assert "\n".join(notes) in capsys.readouterr().out


@pytest.mark.parametrize("with_test", [False, True])
def test_any_column_of_strings_groups_rows(
    tiny_encoder_dir: str, tmp_path: Path, with_test: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of four groups there are too few for five folds, but a test file needs none."""
    lines = [f"{text},{label},{row % 4}" for row, (text, label) in enumerate(tiny_texts(40, 0))]
    train = tmp_path / "train.csv"
    train.write_text("\n".join(["text,label,sentence", *lines]))
    test = write_csv(tmp_path / "test.csv", tiny_texts(20, 1))
    command = ["probe", tiny_encoder_dir, "--train_file", str(train), "--group_column", "sentence"]
    command += ["--cache_dir", str(tmp_path / "states")]
    if with_test:
        main([*command, "--test_file", str(test)])
        assert "40 training rows, 20 test rows" in capsys.readouterr().out
        return
    with pytest.raises(SystemExit):
        main(command)
    assert "need 5 values of sentence or more, found 4" in capsys.readouterr().err.strip().splitlines()[-1]


def test_a_class_that_was_not_drawn_is_named(
    tiny_encoder_dir: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rare = [("a rare one", "zebra"), ("another rare one", "zebra")]
    train = write_csv(tmp_path / "train.csv", [*tiny_texts(100, 0), *rare])
    test = write_csv(tmp_path / "test.csv", [*tiny_texts(5, 1), *rare])
    files = ["--train_file", str(train), "--test_file", str(test), "--max_train_samples", "5"]
    with pytest.raises(SystemExit):
        main(["probe", tiny_encoder_dir, *files])
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert "the label 'zebra' is no class of the 5 training rows drawn, found max_train_samples=5" in message


def test_a_missing_label_is_no_class(
    tiny_encoder_dir: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labelled = [
        (text, str(index % 3 if index % 3 else -100)) for index, (text, _) in enumerate(tiny_texts(60))
    ]
    train = write_csv(tmp_path / "train.csv", labelled)
    with pytest.raises(SystemExit):
        main(["probe", tiny_encoder_dir, "--train_file", str(train)])
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert "train.csv: row 2: the label -100 stands for a missing one" in message


def test_a_value_of_minus_100_is_no_missing_label(
    tiny_encoder_dir: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = [
        (text, "-100" if index == 3 else f"{index / 8}") for index, (text, _) in enumerate(tiny_texts(60))
    ]
    train = write_csv(tmp_path / "train.csv", values)
    main(["probe", tiny_encoder_dir, "--train_file", str(train), "--cache_dir", str(tmp_path / "states")])
    assert "60 training rows" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--test_file", "a.csv", "b.csv"], "a file for each of the 1 training files, found 2"),
        (["--output_dir", "."], "must be a new or empty folder"),
        (["--metric", "pearson"], "must be one of accuracy, macro_f1"),
        (["--text_column", "tweet"], "tweet"),
        (["--group_column", "sentence"], "no column 'sentence' (found: 'text', 'label')"),
    ],
)
def test_one_line_and_exit_code_2(
    tiny_encoder_dir: str,
    tiny_tweets: dict[str, Path],
    options: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as error:
        main(["probe", tiny_encoder_dir, "--train_file", str(tiny_tweets["train"]), *options])
    assert error.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert message in lines[-1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--metric", "f1"], "metric must be one of accuracy, macro_f1, pearson"),
        (["--batch_size", "0"], "batch_size must be a whole number of 1 or more"),
        (["--max_length", "2"], "max_length must be a whole number between 3"),
        (["--max_train_samples", "-1"], "--max_train_samples must be 1 or more"),
        (["--text_pair_column", "text"], "text_columns must name different columns, found 'text' twice"),
        (["--label_column", "text"], "label_column must not be a text column, found 'text'"),
        (["--seed", "-1"], "seed must be a whole number between 0"),
        (["--output_dir", "a\0b"], "--output_dir must hold no NUL character"),
        (["nobody/nothing/here"], "encoder nobody/nothing/here: cannot be loaded"),
    ],
)
def test_what_no_probe_can_be_asked_is_refused_before_data_are_read(
    tiny_encoder_dir: str, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as error:
        main(["probe", *options, tiny_encoder_dir, "--train_file", "missing.csv"])
    assert error.value.code == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]


@pytest.fixture
def command(tiny_encoder_dir: str, tiny_tweets: dict[str, Path], tmp_path: Path) -> list[str]:
    files = ["--train_file", str(tiny_tweets["train"]), "--test_file", str(tiny_tweets["test"])]
    folders = ["--output_dir", str(tmp_path / "out"), "--cache_dir", str(tmp_path / "cache")]
    return ["probe", tiny_encoder_dir, *files, *folders]


def test_outputs_appear_together_or_not_at_all(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full_disk(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Figure, "savefig", full_disk)
        with pytest.raises(SystemExit) as ended:
            main(command)
    assert ended.value.code == 2
    assert capsys.readouterr().err.strip().endswith("make room and run the same command again.")
    assert not (tmp_path / "out").exists()

    main(command)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"probe.json", "layers.png", "gains.png"}
    assert len(json.loads((tmp_path / "out" / "probe.json").read_text())) == 1


@pytest.mark.parametrize("obstacle", ["files", "another process", "a file above it"])
def test_an_output_folder_is_refused_before_anything_is_read(
    command: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    obstacle: str,
) -> None:
    monkeypatch.setattr(
        command_module, "read_examples", lambda *_, **__: pytest.fail("read before it was refused")
    )
    output = tmp_path / "out"
    if obstacle == "files":
        output.mkdir()
        (output / "probe.json").write_text("mine")
    elif obstacle == "a file above it":
        output.write_text("mine")
        command[command.index(str(output))] = str(output / "below")
    with ExitStack() as other:
        if obstacle == "another process":
            other.enter_context(new_folder(output))
        with pytest.raises(SystemExit) as ended:
            main(command)
    assert ended.value.code == 2
    assert capsys.readouterr().err.strip().startswith(f"error: --output_dir {output}")
