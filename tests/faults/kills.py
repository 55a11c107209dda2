"""Kills at writes and at random times; the run that goes on must end in the same weights and files."""

import csv
import json
import mmap
import os
import random
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hf_layerfusion.run_layout import SETTINGS_FILE, find
from hf_layerfusion.storage import LOCK_FILE
from tests.faults.rows import Row
from tests.faults.scripts import OUTPUT, SCRIPTS, Script, call, fresh

WRITES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate"}
# What differs between two runs of the same, and what says that one was gone on with.
TIMES = re.compile(r"seconds|runtime|per_second|_time$|datetime|resume_from_checkpoint")
# Of text files, the lines that say how long something took.
TIME_LINES = re.compile(
    rb"^.*(?:\b\d[\d.,]* ?(?:s|ms|min|h|seconds?|minutes?)\b|seconds|ime).*$", re.MULTILINE
)
# Files that hold times, of which only the presence is compared: a database and a table with the seconds of each trial,
# whose trials.csv is compared, a pickle of what training_args.json says, checksums of files that hold times themselves.
PRESENCE_ONLY = {
    "study.db", "training_args.bin", "trials.md", "model_manifest.json", "checkpoint_manifest.json",
}  # fmt: skip


def counted(counter: mmap.mmap, kill_at: int = 0) -> Callable[[], None]:
    """What makes a process count its writes into its working folder, and kill itself before that one."""

    def before() -> None:
        here = os.getcwd()

        def is_write(event: str, arguments: tuple[Any, ...]) -> bool:
            if event == "open":
                path, _, flags = arguments
                if not isinstance(flags, int) or not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                    return False
            elif event in WRITES:
                path = arguments[0]
            else:
                return False
            return isinstance(path, str | bytes | os.PathLike) and os.path.abspath(
                os.fsdecode(path)
            ).startswith(here)

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            if is_write(event, arguments):
                number = int.from_bytes(counter[:8], "little") + 1
                counter[:8] = number.to_bytes(8, "little")
                if number == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)

    return before


def without_times(content: Any) -> Any:
    """JSON without what differs between two runs of the same."""
    if isinstance(content, dict):
        return {name: without_times(value) for name, value in content.items() if not TIMES.search(name)}
    return [without_times(value) for value in content] if isinstance(content, list) else content


def snapshot(folder: Path) -> dict[str, Any]:
    """Return the content of each file of a run by its name, without times. Lock files do not count."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.name == LOCK_FILE:
            continue
        content: Any = path.read_bytes()
        if path.name in PRESENCE_ONLY:
            content = b""
        elif path.name == "trials.csv":
            rows = csv.DictReader(content.decode().splitlines())
            content = [{name: value for name, value in row.items() if name != "seconds"} for row in rows]
        elif path.suffix == ".json":
            content = without_times(json.loads(content))
        elif path.name == "README.md":
            content = TIME_LINES.sub(b"", content)
        found[path.relative_to(folder).as_posix()] = content
    return found


def differences(expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Names of files that are missing, too many or other."""
    return sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))


def kills(
    row: Row, number: int, rng: random.Random, folder: Path, data: Path, scripts: tuple[Script, ...] = SCRIPTS
) -> None:
    """Kills runs, half of them before a write and half at a random time, and goes on until they end."""
    plans: dict[str, tuple[dict[str, Any], int, float]] = {}
    for attempt in range(number):
        script = scripts[attempt % len(scripts)]
        if script.name not in plans:
            counter, whole = mmap.mmap(-1, 8), fresh(folder / "whole")
            ended = call(script, whole, data, before=counted(counter))
            if ended.code:
                row.tell(
                    f"{script.name}: the run without a fault ended with {ended.code}: {ended.error[-800:]}"
                )
                return
            writes = int.from_bytes(counter[:8], "little")
            plans[script.name] = (snapshot(whole / OUTPUT), writes, ended.seconds)
        expected, writes, seconds = plans[script.name]
        cut, where = fresh(folder / "cut"), []
        while len(where) < 2:  # every fourth run is killed once more while it goes on
            if attempt // len(scripts) % 2 == len(where):
                write = rng.randint(1, writes)
                before, after = counted(mmap.mmap(-1, 8), write), None
                where.append(f"write {write} of {writes}")
            else:
                before, after = counted(mmap.mmap(-1, 8)), rng.uniform(0.05, 1) * seconds
                where.append(f"{after:.2f} s")
            ended = call(script, cut, data, resume=has_begun(cut), before=before, kill_after=after)
            if ended.code != -signal.SIGKILL or rng.random() < 0.75:
                break
        if len(where) == 1 and ended.code != -signal.SIGKILL:
            continue  # it had ended before
        row.count("killed")
        if ended.code == -signal.SIGKILL:
            ended = call(script, cut, data, resume=has_begun(cut))
        finished = (
            not script.resumes and (cut / OUTPUT).exists() and "must be a new or empty folder" in ended.error
        )
        at = " and at ".join(where)
        if ended.code and not finished:
            row.count("other")
            row.tell(f"{script.name}, killed at {at}: ended with {ended.code}: {ended.error[-600:]}")
        elif wrong := differences(expected, snapshot(cut / OUTPUT)):
            row.count("other")
            row.tell(f"{script.name}, killed at {at}: {', '.join(wrong[:6])} differ")
        else:
            row.count("equal in weights and files")


def has_begun(folder: Path) -> bool:
    """Whether a run in this working folder is there to go on with."""
    return find(folder / OUTPUT, SETTINGS_FILE).exists()
