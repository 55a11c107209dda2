"""Nothing is deleted that a run has not made."""

from pathlib import Path

import pytest

from hf_layerfusion.errors import UserError
from hf_layerfusion.training.checkpoints import MANIFEST_NAME, finish, make_room, verify_checkpoint
from hf_layerfusion.training.own_folders import MARK, is_own, make_own, new_name, remove_own
from reproduction.run_table import TableRun
from reproduction.runner import execute
from tests.training.small import small_trainer


def test_own_folders_alone_are_removed(tmp_path: Path) -> None:
    own, foreign = make_own(tmp_path / "a" / "own"), tmp_path / "foreign"
    foreign.mkdir()
    (own / "file").touch()
    assert is_own(own) and not is_own(foreign)
    for folder in (own, foreign, tmp_path / "absent"):
        remove_own(folder)
    assert foreign.exists() and not own.exists()
    with pytest.raises(FileExistsError):
        make_own(foreign)
    assert new_name(foreign).name == "foreign-2" and new_name(own) == own


def test_a_checkpoint_takes_the_place_of_one_and_spares_the_rest(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint-4"
    make_room(folder)
    (folder / "old.safetensors").write_text("old")
    finish(folder)
    assert not (folder / MARK).exists()
    (folder / "notes.txt").write_text("mine")
    make_room(folder)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    (folder / "new.safetensors").write_text("new")
    finish(folder)
    verify_checkpoint(folder)
    interrupted = tmp_path / "checkpoint-8"
    make_room(interrupted)
    (interrupted / "half").touch()
    make_room(interrupted)
    assert [path.name for path in interrupted.iterdir()] == [MARK]


def test_a_manifest_names_no_file_outside(tmp_path: Path) -> None:
    folder, mine = tmp_path / "checkpoint-4", tmp_path / "mine.txt"
    folder.mkdir()
    mine.write_text("mine")
    (folder / MANIFEST_NAME).write_text('{"files": {"../mine.txt": {"bytes": 4, "sha256": ""}}}')
    with pytest.raises(UserError):
        make_room(folder)
    assert mine.exists()


def test_training_spares_files_in_a_folder_called_as_a_checkpoint(tmp_path: Path) -> None:
    mine = tmp_path / "checkpoint-2" / "mine.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    small_trainer(tmp_path, max_steps=2, save_strategy="steps", save_steps=2).train()
    assert mine.read_text() == "mine"
    verify_checkpoint(mine.parent)


def test_a_tables_run_spares_another_folder(tmp_path: Path) -> None:
    mine = tmp_path / "work" / "g" / "v" / "seed-0" / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(UserError, match="must be new or a run's own"):
        execute(TableRun("g", "v", 0, {}), tmp_path, tmp_path / "results", tmp_path / "work")
    assert mine.exists()
