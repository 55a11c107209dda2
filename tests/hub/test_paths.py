"""Tests that names from repositories and manifests do not lead out of their folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hf_layerfusion.ensembling.ensemble import Ensemble
from hf_layerfusion.errors import UserError
from hf_layerfusion.hub.paths import inside
from hf_layerfusion.recipes.multitask.multitask_arguments import MultitaskDataArguments
from hf_layerfusion.recipes.multitask.task_preparation import make_tasks
from hf_layerfusion.training.checkpoints import MANIFEST_NAME, verify_checkpoint, write_manifest
from tests.ensembling.small import save_member
from tests.hub.client import Client, ClientError
from tests.hub.repositories import File
from tests.hub.server import Hub

HOSTILE = ("../secret", "a/../../secret", "/etc/passwd", "..", "a\0b")


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must lie in"):
        inside(tmp_path, name, "somewhere")


@pytest.mark.parametrize("name", ["file", "a/b", "./a", "a/../b", "..a", "."])
def test_other_names_are_not(name: str, tmp_path: Path) -> None:
    assert inside(tmp_path, name, "somewhere") == tmp_path / name


@pytest.mark.parametrize("key", ["train_file", "predict_file"])
@pytest.mark.parametrize("name", HOSTILE[:3])
def test_files_of_tasks(key: str, name: str, tmp_path: Path) -> None:
    entries = {"mood": {"train_file": "train.csv", key: name}}
    with pytest.raises(UserError, match=rf"task 'mood': {key}: must lie in"):
        make_tasks(entries, tmp_path, MultitaskDataArguments())


@pytest.mark.parametrize("name", ["../mood", "/mood", "a.b", ""])
def test_names_of_tasks(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must have a name of letters"):
        make_tasks({name: {"train_file": "train.csv"}}, tmp_path, MultitaskDataArguments())


def test_files_of_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    folder = tmp_path / "checkpoint-1"
    folder.mkdir()
    write_manifest(folder)
    entry = {"bytes": 6, "sha256": "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"}
    (folder / MANIFEST_NAME).write_text(json.dumps({"files": {"../secret": entry}}))
    with pytest.raises(UserError, match=r"must lie in .*\.\./secret"):
        verify_checkpoint(folder)


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ensemble that contains its two members."""
    folder = tmp_path_factory.mktemp("ensemble")
    members = [save_member(folder / name, seed=seed) for seed, name in enumerate(("first", "second"))]
    Ensemble.of(members).save_pretrained(folder / "both", carry_members=True)
    return folder / "both"


@pytest.fixture
def changed(ensemble: Path, tmp_path: Path) -> Any:
    """Return the manifest with a change in its first member."""

    def change(**fields: Any) -> dict[str, Any]:
        manifest: dict[str, Any] = json.loads((ensemble / "ensemble.json").read_text())
        manifest["members"][0] |= fields
        return manifest

    return change


PULL = (
    "from hf_layerfusion import Ensemble; result = Ensemble.from_pretrained(repo)('what a day')[0]['label']"
)


def test_members_of_an_ensemble_from_the_hub(
    lfs_client: Client, hub: Hub, ensemble: Path, changed: Any, tmp_path: Path
) -> None:
    lfs_client.run(
        "from hf_layerfusion.hub.publish import publish; publish(folder, repo)",
        folder=ensemble,
        repo="org/ensemble",
    )
    answer = Ensemble.from_pretrained(ensemble)("what a day")[0]["label"]
    assert lfs_client.run(PULL, repo="org/ensemble") == answer
    demo = "from hf_layerfusion.app.answers import Demo; shown = Demo.from_pretrained(repo, use_cpu=True)"
    code = f"{demo}; result = shown.answer('what a day').tasks[0].ranked()[0][0]"
    assert lfs_client.run(code, repo="org/ensemble") == answer
    # What the manifest leads to is a member as good as the one in the folder.
    outside = ensemble / "members" / "01-first"
    for fields, message in (
        ({"folder": "../../../../../../secret"}, "must lie in"),
        ({"folder": str(outside)}, "must lie in"),
        ({"folder": None, "hub_id": str(outside)}, "must be a folder or a Hub id"),
        ({"folder": None, "hub_id": "../secret"}, "must be a folder or a Hub id"),
        ({"task": "../../secret"}, "its task's name must consist of letters"),
    ):
        content = json.dumps(changed(**fields)).encode()
        hub.repositories["org/ensemble"].commit("main", "hostile", {"ensemble.json": File(content)})
        with pytest.raises(ClientError, match=message) as caught:
            lfs_client.run(PULL, repo="org/ensemble")
        assert caught.value.kind == "UserError"


def test_members_of_an_ensemble_in_a_folder(ensemble: Path, changed: Any, tmp_path: Path) -> None:
    """One's own ensembles point to members beside them, but nobody writes a path from the root."""
    (tmp_path / "here").mkdir()
    place = ensemble / "members" / "01-first"
    manifest = changed(folder=str(place))
    (tmp_path / "here" / "ensemble.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="must lie in"):
        Ensemble.from_pretrained(tmp_path / "here")
