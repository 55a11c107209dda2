"""Tests that pushed files name no folder of the machine that they were made on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hf_layerfusion.errors import UserError
from hf_layerfusion.hub.manifest import verify_folder, write_model_manifest
from hf_layerfusion.hub.portable import portable, portable_files, without_folders
from hf_layerfusion.hub.publish import files_to_push
from hf_layerfusion.training.adapters import load_adapter_model


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run with an adapter, on an encoder in a local folder whose card names its Hub id."""
    encoder = tmp_path / "encoder"
    encoder.mkdir()
    (encoder / "README.md").write_text('# MiniLM\n\n`Model("org/MiniLM")`\n')
    folder = tmp_path / "out"
    write(folder / "adapter_config.json", {"base_model_name_or_path": str(encoder), "peft_type": "LORA"})
    write(folder / "config.json", {"id2label": {"0": "/a/b"}})
    (folder / "model.safetensors").write_bytes(b"weights")
    write(
        folder / "run" / "run.json",
        {
            "model_name_or_path": str(encoder),
            "tokenizer_name": r"C:\models\unknown",
            "train_file": "/data/train.csv",
            "validation_file": "data/dev.csv",
            "members": ["/models/a", "org/b"],
            "seed": 1,
            "fraction": "1/2",
            "separator": "/",
        },
    )
    write(folder / "run" / "all_results.json", {"test_accuracy": 0.5})
    write_model_manifest(folder)
    return folder


def test_absolute_paths_become_hub_ids_or_names(folder: Path) -> None:
    changed = portable_files(folder, files_to_push(folder))
    assert changed.keys() == {"adapter_config.json", "run/run.json", "model_manifest.json"}
    assert json.loads(changed["adapter_config.json"])["base_model_name_or_path"] == "org/MiniLM"
    assert json.loads(changed["run/run.json"]) == {
        "model_name_or_path": "org/MiniLM",
        "tokenizer_name": "(local) unknown",
        "train_file": "(local) train.csv",
        "validation_file": "data/dev.csv",
        "members": ["(local) a", "org/b"],
        "seed": 1,
        "fraction": "1/2",
        "separator": "/",
    }


def test_what_is_pushed_is_intact_and_the_folder_unchanged(folder: Path) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    files = files_to_push(folder)
    with portable(folder, files) as place:
        assert files_to_push(place, ()) != files  # weights are linked
        found = {name: (place / name).read_bytes() for name in files}
        assert not [name for name, content in found.items() if str(folder.parent).encode() in content]
        verify_folder(place)
    assert not place.exists()
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_folder_without_absolute_paths_is_pushed_itself(folder: Path) -> None:
    for name in ("adapter_config.json", "run/run.json"):
        write(folder / name, {"model_name_or_path": "org/MiniLM"})
    write_model_manifest(folder)
    with portable(folder, files_to_push(folder)) as place:
        assert place == folder


def test_an_adapter_in_an_ensemble_must_name_the_hub(folder: Path, tmp_path: Path) -> None:
    write(tmp_path / "ensemble.json", {})
    with pytest.raises(
        UserError, match=r"must name its encoder by Hub id, found the folder .*encoder; merge"
    ):
        portable_files(tmp_path, files_to_push(tmp_path))


def test_an_adapter_of_another_machine_says_so(folder: Path) -> None:
    write(folder / "adapter_config.json", {"base_model_name_or_path": "(local) minilm", "peft_type": "LORA"})
    with pytest.raises(UserError, match="a folder of the machine that it was trained on; write the folder"):
        load_adapter_model(folder)


@pytest.mark.parametrize(
    ("path", "name"),
    [("/a/b", "b"), (r"C:\a\b", "b"), ("a/b", None), ("/", None), ("org/name", None), ("", None)],
)
def test_the_last_part_of_an_absolute_path(path: str, name: str | None) -> None:
    assert without_folders(path) == name
