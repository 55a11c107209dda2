"""Checkpoints of images and speech in place of an encoder: one line, before any data are read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import PreTrainedConfig, ViTConfig, Wav2Vec2Config, WhisperConfig

from hf_layerfusion.__main__ import main
from tests.tiny import tiny_tokenizer

CONFIGS: dict[str, type[PreTrainedConfig]] = {
    "vit": ViTConfig, "wav2vec2": Wav2Vec2Config, "whisper": WhisperConfig,
}  # fmt: skip

COMMANDS = {
    "train": ["train", "--train_file", "rows.csv", "--output_dir", "out/run", "--use_cpu"],
    "plain": ["train-tweets", "--architecture", "plain", "--train_file", "rows.csv", "--output_dir", "out/run"],
    "tasks": ["train-multitask", "--tasks_file", "tasks.json", "--output_dir", "out/run", "--use_cpu"],
    "pretrain": ["pretrain", "--train_file", "rows.csv", "--output_dir", "out/run", "--use_cpu"],
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("other")
    for name, config in CONFIGS.items():
        config().save_pretrained(place / name)
        tiny_tokenizer().save_pretrained(place / name)
    # Whoever reads it before the encoder is refused ends otherwise.
    (place / "rows.csv").write_bytes(b"\xff\xfe no table")
    (place / "tasks.json").write_text(json.dumps({"one": {"train_file": "rows.csv"}}))
    return place


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("command", COMMANDS)
def test_they_are_refused(
    command: str, kind: str, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(SystemExit) as ended:
        main([*COMMANDS[command], "--model_name_or_path", kind])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"error: --model_name_or_path {kind}: ") and f"'{kind}'" in line
    assert not Path("out").exists()


def test_the_probe_refuses_them_too(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(SystemExit):
        main(["probe", "vit", "--train_file", "rows.csv"])
    assert "error: encoder vit: " in capsys.readouterr().err
