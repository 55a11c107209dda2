"""Files and folders that are whole or absent, whatever ends the process, and locks that end with it."""

import errno
import json
import math
import multiprocessing
import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hf_layerfusion import storage
from hf_layerfusion.errors import StorageError, UserError
from hf_layerfusion.storage import (
    LOCK_FILE,
    is_empty,
    locked,
    move_into,
    new_folder,
    read_json,
    read_object,
    remove_leftovers,
    replacing,
    writable,
    write_json,
    write_text,
)


def broken_off(path: Path) -> None:
    with replacing(path) as partial:
        partial.write_text("{")
        raise KeyboardInterrupt


def broken_off_folder(path: Path) -> None:
    with new_folder(path) as partial:
        (partial / "half").write_text("")
        raise KeyboardInterrupt


def holding(path: Path, held: Any) -> None:
    with locked(path, "folder"):
        held.set()
        time.sleep(60)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_whole_or_left_as_it_is(tmp_path):
    path = tmp_path / "results.json"
    write_json(path, {"a": 1})
    with pytest.raises(KeyboardInterrupt):
        broken_off(path)
    assert names(tmp_path) == ["results.json"]
    assert read_json(path, "delete it") == {"a": 1}


def test_numbers_that_json_has_not_are_null(tmp_path):
    path = tmp_path / "results.json"
    content = {"pearsonr": math.nan, "epochs": [{"loss": math.inf}, (1.5, np.float64("-inf"))], "seed": 0}
    write_json(path, content)

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    found = json.loads(path.read_text(), parse_constant=refuse)
    assert found == {"pearsonr": None, "epochs": [{"loss": None}, [1.5, None]], "seed": 0}


def test_a_file_is_on_the_disk_before_it_is_renamed(tmp_path, monkeypatch):
    done = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(descriptor):
        done.append(("sync", os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def noted_replace(source, target):
        done.append(("rename", str(target)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    write_text(tmp_path / "text", "whole")
    assert [what for what, _ in done] == ["sync", "rename", "sync"]
    assert done[0][1].startswith(f"{tmp_path}/.") and done[2][1] == str(tmp_path)


def test_a_name_of_the_longest_length_is_written(tmp_path):
    write_text(tmp_path / ("n" * 255), "text")
    assert names(tmp_path) == ["n" * 255]


@pytest.mark.parametrize("content", ["", "{", '"\\ud800', "\xff", "[" * 100_000], ids=len)
def test_damaged_json_is_one_line(tmp_path, content):
    path = tmp_path / "run.json"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(UserError, match=r"run\.json: is not JSON \(.*\); delete it\.$") as caught:
        read_json(path, "delete it")
    assert "\n" not in str(caught.value)


def test_a_new_folder_is_there_when_it_is_whole(tmp_path):
    target = tmp_path / "made"
    with pytest.raises(KeyboardInterrupt):
        broken_off_folder(target)
    with pytest.raises(KeyboardInterrupt):
        broken_off_folder(tmp_path / "of" / "several" / "levels")
    assert names(tmp_path) == []
    with new_folder(target) as partial:
        (partial / "one").write_text("1")
        assert not target.exists()
    assert names(tmp_path) == ["made"] and names(target) == ["one"]
    with pytest.raises(UserError, match="must be a new or empty folder"), new_folder(target):
        pass


def test_a_new_folder_is_refused_where_nothing_can_take_its_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with (
        pytest.raises(UserError, match=r"found the working folder; name a new folder in it"),
        new_folder("."),
    ):
        pytest.fail("not refused before the work is done")
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path).name == "volume")
    (tmp_path / "volume").mkdir()
    with (
        pytest.raises(UserError, match=r"found a mount point; name a new folder in it"),
        new_folder("volume"),
    ):
        pytest.fail("not refused before the work is done")


def test_a_new_folder_may_be_what_a_link_points_to(tmp_path):
    (tmp_path / "place").mkdir()
    (tmp_path / "link").symlink_to("place")
    with new_folder(tmp_path / "link") as partial:
        (partial / "a").write_text("a")
    assert (tmp_path / "link").is_symlink()
    assert [path.name for path in (tmp_path / "place").iterdir()] == ["a"]


def test_what_a_killed_process_left_of_a_new_folder_is_not_taken_over(tmp_path):
    with new_folder(tmp_path / "made") as partial:
        leftover = partial.name
    (tmp_path / "made" / "one").write_text("")
    (tmp_path / leftover).mkdir()
    (tmp_path / leftover / "half").write_text("")
    (tmp_path / leftover / LOCK_FILE).write_text("999999999")
    assert is_empty(tmp_path / leftover) is False
    (tmp_path / "made" / "one").unlink()
    with new_folder(tmp_path / "made") as partial:
        assert partial.name == leftover
        (partial / "two").write_text("")
    assert names(tmp_path) == ["made"] and names(tmp_path / "made") == ["two"]


def test_two_that_make_one_folder_do_not_meet(tmp_path):
    with (
        new_folder(tmp_path / "made"),
        pytest.raises(UserError, match="made: is in use by process"),
        new_folder(tmp_path / "made"),
    ):
        pass


def test_files_are_moved_into_place_with_the_mark_last(tmp_path, monkeypatch):
    staging, folder = tmp_path / ".s.partial", tmp_path / "run"
    for name in ("all_results.json", "README.md", "plots/a.png"):
        (staging / name).parent.mkdir(parents=True, exist_ok=True)
        (staging / name).write_text("new")
    (folder / "plots").mkdir(parents=True)
    (folder / "plots" / "a.png").write_text("old")
    (folder / "mine.txt").write_text("mine")
    order = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda *paths: (order.append(Path(paths[1]).name), replace(*paths)))
    move_into(staging, folder, last="all_results.json")
    assert order[-1] == "all_results.json" and len(order) == 3
    assert (folder / "plots" / "a.png").read_text() == "new" and not staging.exists()
    assert names(folder) == ["README.md", "all_results.json", "mine.txt", "plots"]


def test_only_what_is_ours_is_cleaned(tmp_path):
    for name in (".run.json.partial", ".0123456789ab.partial", LOCK_FILE, "deep/.x.partial"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    for name in ("mine.partial", ".gitignore", "run.json"):
        (tmp_path / name).write_text("")
    remove_leftovers(tmp_path)
    assert names(tmp_path) == [".gitignore", LOCK_FILE, "deep", "mine.partial", "run.json"]
    assert names(tmp_path / "deep") == []


def test_a_lock_ends_with_its_process_and_says_whose_it_is(tmp_path):
    path = tmp_path / LOCK_FILE
    processes = multiprocessing.get_context("fork")
    held = processes.Event()
    holder = processes.Process(target=holding, args=(path, held))
    holder.start()
    try:
        assert held.wait(30)
        message = rf"^folder: is in use by process {holder.pid}; wait"
        with pytest.raises(UserError, match=message), locked(path, "folder"):
            pass
    finally:
        holder.kill()
        holder.join()
    with locked(path, "folder"):
        assert path.read_text() == str(os.getpid())


def test_one_that_waits_comes_after_the_other(tmp_path):
    order = []

    def second():
        with locked(tmp_path / LOCK_FILE, "cache", wait=True):
            order.append("second")

    with locked(tmp_path / LOCK_FILE, "cache"):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.2)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_a_lock_makes_its_folder_or_says_why_it_cannot(tmp_path):
    with locked(tmp_path / "new" / LOCK_FILE, "cache"):
        assert (tmp_path / "new" / LOCK_FILE).is_file()
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"^cache: cannot be written: .*a file stands"):
        locked(tmp_path / "file" / LOCK_FILE, "cache").__enter__()


@pytest.mark.parametrize("content", ["[]", "3", "null"])
def test_what_is_no_object_is_refused(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(
        UserError, match=r"a\.json: must hold a JSON object, found something else; delete it\.$"
    ):
        read_object(tmp_path / "a.json", "delete it")


def test_a_file_system_without_locks_is_told_and_used(tmp_path, monkeypatch, caplog):
    def none(*_args, **_kwargs):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(storage.FileLock, "acquire", none)
    with caplog.at_level("WARNING"), locked(tmp_path / LOCK_FILE, "folder"):
        pass
    assert "no locks on this file system" in caplog.text


@pytest.mark.parametrize(
    ("number", "way_out"),
    [(errno.ENOSPC, "make room"), (errno.ENAMETOOLONG, "shorten"), (errno.EACCES, "permissions")],
)
def test_a_refusal_of_the_disk_is_one_line_with_a_way_out(number, way_out):
    with pytest.raises(UserError, match=rf"^run: cannot be written: .*; .*{way_out}.*\.$"), writable("run"):
        raise OSError(number, os.strerror(number), "run/file")
