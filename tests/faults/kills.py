"""Kills at writes and at random times; the run that goes on must end in the same weights and files."""

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

from hf_layerfusion.storage import is_ours
from tests.faults.rows import Row
from tests.faults.scripts import OUTPUT, SCRIPTS, Script, call, fresh

WRITES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate"}
# What differs between two runs of the same, and what says that one was gone on with.
TIMES = re.compile(r"seconds|runtime|per_second|_time$|datetime|resume_from_checkpoint")
# Of text files, the lines that say how long something took.
TIME_LINES = re.compile(
    rb"^.*(?:\b\d[\d.,]* ?(?:s|ms|min|h|seconds?|minutes?)\b|seconds|ime).*$", re.MULTILINE
)
# A database with the time of each trial, of which trials.csv is compared; pickles of what training_args.json says.
NOT_COMPARED = {"study.db", "training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth"}


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
    """The files of a run by name, times left out."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or is_ours(path) or path.name in NOT_COMPARED:
            continue
        content: Any = path.read_bytes()
        if path.name == "model_manifest.json" or path.name == "checkpoint_manifest.json":
            content = None  # checksums of files that hold times too
        elif path.suffix == ".json":
            content = without_times(json.loads(content))
        elif path.suffix in (".md", ".csv"):
            content = TIME_LINES.sub(b"", content) if path.name in ("README.md",) else content
            if path.name in ("trials.csv", "trials.md"):
                content = None  # a column of seconds
        found[path.relative_to(folder).as_posix()] = content
    return found


def differences(expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Names of files that are missing, too many or other."""
    return sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))


def kills(
    number: int, rng: random.Random, folder: Path, data: Path, scripts: tuple[Script, ...] = SCRIPTS
) -> Row:
    """Kills runs, half of them before a write and half at a random time, and goes on until they end."""
    row = Row("kills, then the same command", ("killed", "equal in weights and files", "other"))
    plans: dict[str, tuple[dict[str, Any], int, float]] = {}
    for script in scripts:
        counter = mmap.mmap(-1, 8)
        whole = fresh(folder / "whole")
        ended = call(script, whole, data, before=counted(counter))
        if ended.code:
            row.tell(f"{script.name}: the run without a fault ended with {ended.code}: {ended.error[-800:]}")
            continue
        plans[script.name] = (snapshot(whole / OUTPUT), int.from_bytes(counter[:8], "little"), ended.seconds)
    for attempt in range(number if plans else 0):
        script = scripts[attempt % len(scripts)]
        if script.name not in plans:
            continue
        expected, writes, seconds = plans[script.name]
        cut = fresh(folder / "cut")
        at = rng.randint(1, writes)
        if attempt // len(scripts) % 2 == 0:
            ended, where = (
                call(script, cut, data, before=counted(mmap.mmap(-1, 8), at)),
                f"write {at} of {writes}",
            )
        else:
            after = rng.uniform(0.05, 1) * seconds
            ended, where = call(script, cut, data, kill_after=after), f"{after:.2f} s"
        if ended.code != -signal.SIGKILL:
            continue  # it had ended before
        row.count("killed")
        if not (cut / OUTPUT).exists() or not (cut / OUTPUT / "run.json").exists() or not script.resumes:
            ended = call(script, cut, data)
        else:
            ended = call(script, cut, data, resume=True)
        finished = (
            not script.resumes and (cut / OUTPUT).exists() and "must be a new or empty folder" in ended.error
        )
        if ended.code and not finished:
            row.count("other")
            row.tell(f"{script.name}, killed at {where}: ended with {ended.code}: {ended.error[-600:]}")
        elif wrong := differences(expected, snapshot(cut / OUTPUT)):
            row.count("other")
            row.tell(f"{script.name}, killed at {where}: {', '.join(wrong[:6])} differ")
        else:
            row.count("equal in weights and files")
    return row
