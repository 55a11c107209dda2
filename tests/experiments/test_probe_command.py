from __future__ import annotations

import json
from pathlib import Path

import pytest

from hf_layerfusion.__main__ import main
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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--test_file", "a.csv", "b.csv"], "a file for each of the 1 training files, found 2"),
        (["--output_dir", "."], "must be a new or an empty folder"),
        (["--metric", "f1"], "must be one of accuracy, macro_f1"),
        (["--text_column", "tweet"], "tweet"),
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
