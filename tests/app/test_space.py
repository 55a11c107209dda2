"""The folder of a Space: metadata, requirements, the package and the model."""

from __future__ import annotations

import json
import runpy
import shutil
from argparse import Namespace
from pathlib import Path

import pytest
from huggingface_hub import RepoCard

from hf_layerfusion import Ensemble
from hf_layerfusion.__main__ import main
from hf_layerfusion.app import page
from hf_layerfusion.app.answers import Demo
from hf_layerfusion.cli.app_command import run
from hf_layerfusion.errors import UserError


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory, one_task: Path) -> Path:
    folder = tmp_path_factory.mktemp("hub") / "space"
    main(["app", str(one_task), "--space", str(folder)])
    return folder


def test_a_space_has_what_the_hub_needs(space: Path, one_task: Path) -> None:
    assert {path.name for path in space.iterdir()} == {
        "README.md", "app.py", "requirements.txt", "hf_layerfusion", "model"
    }  # fmt: skip
    data = RepoCard.load(space / "README.md", ignore_metadata_errors=False).data.to_dict()
    assert data["sdk"] == "gradio" and data["app_file"] == "app.py" and data["title"] == one_task.name
    assert data["sdk_version"].count(".") == 2
    lines = (space / "requirements.txt").read_text().splitlines()
    assert any(line.startswith("torch") for line in lines) and not any("extra" in line for line in lines)
    assert {path.name for path in (space / "model").iterdir()} >= {"config.json", "model.safetensors"}
    assert not list(space.rglob("__pycache__"))


def test_the_program_of_a_space_opens_its_model(space: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, str]] = []
    monkeypatch.setattr(page, "launch", lambda model, title: calls.append((model, title)))
    runpy.run_path(str(space / "app.py"), run_name="__main__")
    assert calls == [(str(space / "model"), "one_task")]


def test_the_model_of_a_space_answers_as_the_one_it_was_copied_from(space: Path, one_task: Path) -> None:
    first, second = (Demo.from_pretrained(str(place), use_cpu=True) for place in (one_task, space / "model"))
    assert first.answer("what a great day") == second.answer("what a great day")


def test_a_model_of_the_hub_is_named_and_not_copied(tmp_path: Path) -> None:
    main(["app", "owner/model", "--space", str(tmp_path / "space")])
    assert not (tmp_path / "space" / "model").exists()
    assert "launch('owner/model'" in (tmp_path / "space" / "app.py").read_text().replace('"', "'")
    data = RepoCard.load(tmp_path / "space" / "README.md").data.to_dict()
    assert data["models"] == ["owner/model"] and data["title"] == "model"


def test_a_space_replaces_nothing_and_needs_the_members_of_an_ensemble(
    one_task: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("mine")
    Ensemble.of([str(one_task)]).save_pretrained(tmp_path / "vote")
    (tmp_path / "adapter").mkdir()
    config = {"base_model_name_or_path": str(tmp_path / "encoder")}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    (tmp_path / "run" / "seed-1").mkdir(parents=True)
    (tmp_path / "run" / "seed-1" / "config.json").write_text("{}")
    (tmp_path / "untrained").mkdir()
    shutil.copy(one_task / "config.json", tmp_path / "untrained")
    for model, folder, message in (
        (tmp_path / "mine", "new", "found neither config.json nor adapter_config.json"),
        (tmp_path / "run", "new", "name one of its models: seed-1"),
        (tmp_path / "mine" / "file", "new", "found a file"),
        (tmp_path / "untrained", "new", "untrained: "),
        (tmp_path / "adapter", "new", "its adapter is for the encoder in the folder"),
        (one_task, "mine", "--space"),
        (tmp_path / "vote", "new", "must carry its members"),
        (tmp_path / "none" / "x" / "y", "new", "no such folder"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main(["app", str(model), "--space", str(tmp_path / folder)])
        found = capsys.readouterr().err
        assert message in found and found.count("\n") == 1
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["file"]
    assert not (tmp_path / "new").exists()


def test_a_space_sets_remote_code_in_its_own_file(one_task: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--trust_remote_code is for a demo on this machine"):
        run(
            Namespace(
                model=str(one_task),
                port=None,
                space=str(tmp_path / "space"),
                use_cpu=True,
                trust_remote_code=True,
            )
        )
