"""Tests of the export script, and of its one-line errors."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForSequenceClassification

from examples import export_onnx
from hf_layerfusion.cli.script import run_script
from hf_layerfusion.export import OnnxClassifier
from tests.modeling import multitask_cases
from tests.tiny import tiny_config, tiny_tokenizer


def call(monkeypatch: pytest.MonkeyPatch, **options: object) -> None:
    parts = [f"--{name}={value}" for name, value in options.items()]
    monkeypatch.setattr(sys, "argv", ["export_onnx.py", *parts])
    run_script(export_onnx.main)


def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], **options: object) -> str:
    with pytest.raises(SystemExit) as end:
        call(monkeypatch, **options)
    assert end.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("several")
    multitask_cases.build(num_task_layers=1).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("single")
    AutoModelForSequenceClassification.from_config(tiny_config("bert", 1)).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def test_one_command(
    several: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "new" / "onnx"
    call(monkeypatch, model_name_or_path=several, task="quora", quantize=True, output_dir=folder)
    said = capsys.readouterr().out
    results = json.loads(said[: said.index("\n\nEverything is in")])
    assert 0 <= results["largest_difference"] < 1e-5
    assert results["megabytes"].keys() == {"model.onnx", "model_quantized.onnx"}
    pair = {"text": "a good day", "text_pair": "we love it"}
    assert OnnxClassifier(folder, "model_quantized.onnx")(pair)["label"] in ("no", "yes")


def test_an_unknown_task(
    several: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(monkeypatch, capsys, model_name_or_path=several, task="nli", output_dir=tmp_path / "onnx")
    assert line.startswith("error: --task nli: `task_name` must be one of ['")


def test_a_task_of_a_model_that_has_none(
    single: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(monkeypatch, capsys, model_name_or_path=single, task="nli", output_dir=tmp_path / "onnx")
    assert line.startswith("error: --task nli: must be left out for a model of one task")


def test_a_plain_encoder(
    tiny_encoder_dir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(monkeypatch, capsys, model_name_or_path=tiny_encoder_dir, output_dir=tmp_path / "onnx")
    assert line.endswith("must be a trained classifier, found no weights of classifier.bias; train it first.")
    assert not list(tmp_path.iterdir())


def test_no_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(monkeypatch, capsys, model_name_or_path=tmp_path / "none", output_dir=tmp_path / "onnx")
    assert line.startswith(f"error: --model_name_or_path {tmp_path / 'none'}: ")


def test_no_folder(single: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(monkeypatch, capsys, model_name_or_path=single)
    assert line == "error: --output_dir must name the folder of the export, found none; name one."


def test_a_folder_with_files(
    single: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes").touch()
    line = refused(monkeypatch, capsys, model_name_or_path=single, output_dir=tmp_path)
    assert line.endswith("must be a new or empty folder, found files there; name another.")


@pytest.mark.parametrize("option", ["use_lora", "hidden_dropout"])
def test_an_option_of_training(
    option: str,
    single: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options: dict[str, object] = {"output_dir": tmp_path / "onnx", option: 0}
    assert f"--{option} is no option of" in refused(monkeypatch, capsys, model_name_or_path=single, **options)
    assert not list(tmp_path.iterdir())
