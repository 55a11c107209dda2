from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from hf_layerfusion import storage
from hf_layerfusion.errors import UserError
from hf_layerfusion.training.checkpoints import (
    MANIFEST_NAME,
    newest_valid_checkpoint,
    rotate,
    verify_checkpoint,
    verify_resumable,
    write_manifest,
)


def checkpoint(parent: Path, step: int) -> Path:
    folder = parent / f"checkpoint-{step}"
    (folder / "part").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * step)
    (folder / "part" / "optimizer.pt").write_bytes(b"state")
    (folder / "rng_state.pth").write_bytes(b"state")
    write_manifest(folder)
    return folder


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def empty(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


def flip(folder: Path) -> None:
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(bytes(content))


def remove(folder: Path) -> None:
    (folder / "part" / "optimizer.pt").unlink()


def remove_manifest(folder: Path) -> None:
    (folder / MANIFEST_NAME).unlink()


def halve_manifest(folder: Path) -> None:
    path = folder / MANIFEST_NAME
    path.write_text(path.read_text()[: path.stat().st_size // 2])


def replace_manifest(folder: Path) -> None:
    (folder / MANIFEST_NAME).write_text("[]")


DAMAGES: list[tuple[Callable[[Path], None], str]] = [
    (truncate, "model.safetensors has 1023 bytes instead of 1024"),
    (empty, "model.safetensors has 0 bytes"),
    (flip, "model.safetensors has changed"),
    (remove, "part/optimizer.pt is missing"),
    (remove_manifest, "checkpoint_manifest.json is missing"),
    (halve_manifest, "checkpoint_manifest.json is not a manifest"),
    (replace_manifest, "checkpoint_manifest.json is not a manifest"),
]


def test_an_intact_checkpoint_passes(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, 4)
    verify_checkpoint(folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        MANIFEST_NAME,
        "model.safetensors",
        "part",
        "rng_state.pth",
    ]


@pytest.mark.parametrize(("damage", "reason"), DAMAGES)
def test_a_damaged_one_is_refused_by_name_and_passed_over(
    tmp_path: Path, damage: Callable[[Path], None], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    older, newer = checkpoint(tmp_path, 2), checkpoint(tmp_path, 4)
    damage(newer)
    with pytest.raises(UserError, match=reason) as caught:
        verify_checkpoint(newer)
    assert str(newer) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert newest_valid_checkpoint(tmp_path) == older


def test_the_newest_is_that_of_the_highest_step(tmp_path: Path) -> None:
    for step in (10, 9, 100):
        checkpoint(tmp_path, step)
    (tmp_path / "checkpoint-final").mkdir()
    (tmp_path / "checkpoint-1000").write_text("a file")
    assert newest_valid_checkpoint(tmp_path) == tmp_path / "checkpoint-100"


def test_no_checkpoint(tmp_path: Path) -> None:
    assert newest_valid_checkpoint(tmp_path) is None
    assert newest_valid_checkpoint(tmp_path / "absent") is None
    with pytest.raises(UserError, match="no such folder"):
        verify_checkpoint(tmp_path / "absent")


def test_one_that_holds_the_model_alone_is_passed_over_and_refused_for_resuming(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    older, newer = checkpoint(tmp_path, 2), checkpoint(tmp_path, 4)
    (newer / "rng_state.pth").unlink()
    write_manifest(newer)
    verify_checkpoint(newer)  # it is intact, and may be the best
    verify_resumable(older)
    with pytest.raises(UserError, match="save_only_model") as caught:
        verify_resumable(newer)
    assert "\n" not in str(caught.value)
    assert newest_valid_checkpoint(tmp_path) == older
    (older / "rng_state.pth").unlink()
    write_manifest(older)
    assert newest_valid_checkpoint(tmp_path) is None


def test_a_kill_while_old_checkpoints_are_deleted_leaves_no_half_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (2, 4, 6):
        os.utime(checkpoint(tmp_path, step), (step * 10, step * 10))

    def killed(path: Path, **_: object) -> None:
        (path / MANIFEST_NAME).unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            rotate(tmp_path, 1, None)
    assert {path.name for path in tmp_path.glob("checkpoint-*")} == {"checkpoint-4", "checkpoint-6"}
    (left,) = tmp_path.glob(".*")
    assert storage.is_ours(left)
    rotate(tmp_path, 1, None)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-6"]


@pytest.mark.parametrize(("limit", "best", "kept"), [
    (None, None, {2, 4, 6, 8}), (0, None, {2, 4, 6, 8}), (1, None, {8}), (2, None, {6, 8}), (1, 4, {4, 8}),
    (2, 4, {4, 8}), (3, 2, {2, 6, 8}), (1, 8, {8}),
])  # fmt: skip
def test_the_newest_and_the_best_are_kept_and_nothing_of_others_is_deleted(
    tmp_path: Path, limit: int | None, best: int | None, kept: set[int]
) -> None:
    for step in (2, 4, 6, 8):
        os.utime(checkpoint(tmp_path, step), (step * 10, step * 10))
    (tmp_path / "checkpoint-mine").mkdir()
    os.utime(tmp_path / "checkpoint-mine", (1, 1))
    rotate(tmp_path, limit, best and str(tmp_path / f"checkpoint-{best}"))
    assert {path.name for path in tmp_path.iterdir()} == {
        "checkpoint-mine",
        *(f"checkpoint-{step}" for step in kept),
    }
