"""Outputs that cannot be written and files of ours that are damaged: one line, exit code 2, and the retry works."""

import os
import random
import resource
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hf_layerfusion.run_layout import SETTINGS_FILE, find
from tests.faults.rows import Row
from tests.faults.scripts import OUTPUT, SCRIPTS, Ended, Script, call, fresh


def nothing() -> None:
    """No fault."""


def limited(size: int) -> Callable[[], None]:
    """What stands for a full disk: no file may grow beyond `size` bytes."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def without_rights() -> None:
    """What makes a process an ordinary user, whom folders may be closed to."""
    if os.getuid() == 0:
        os.setgid(65534)
        os.setuid(65534)


@dataclass(frozen=True)
class Hindrance:
    """What stands in the way of an output folder.

    Attributes:
        name: in words.
        place: puts it into the working folder of a script.
        remove: takes it away again.
        before: called in the script's process.
        output: name of the output folder.
    """

    name: str
    place: Callable[[Path], object] = lambda _: None
    remove: Callable[[Path], object] = lambda _: None
    before: Callable[[], None] = nothing
    output: str = OUTPUT


HINDRANCES = (
    Hindrance("a file in its place", lambda at: (at / OUTPUT).write_text(""), lambda at: (at / OUTPUT).unlink()),
    Hindrance("a file above it", lambda at: (at / "above").write_text(""), lambda at: (at / "above").unlink(),
              output="above/run"),
    Hindrance("a name too long", output="n" * 300),
    Hindrance("a closed folder", lambda at: at.chmod(0o555), lambda at: at.chmod(0o755), without_rights),
    Hindrance("files of at most 8 kB", before=limited(8_000)),
    Hindrance("files of at most 40 kB", before=limited(40_000)),
    Hindrance("a leftover of ours",
              lambda at: ((at / OUTPUT).mkdir(), (at / OUTPUT / ".run.json.partial").write_text("{"),
                          (at / OUTPUT / ".lock").write_text("1"))),
)  # fmt: skip

DAMAGED = {
    "run.json": (b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000),
    "all_results.json": (b"", b"{", b"7", b"[" * 100_000),
    "search/best.json": (b"{", b"{}", b"[]"),
    "search/study.db": (b"", b"no database at all", b"SQLite format 3\0" + b"\1" * 4_000),
    "start.json": (b"{", b"[]"),
}


def told(row: Row, what: str, ended: Ended) -> bool:
    """Counts how a hindered script ended; whether that was in one line."""
    if ended.is_one_line:
        row.count("told in one line")
        return True
    row.count("raw")
    row.tell(f"{what}: ended with {ended.code}: {ended.error[-700:]}")
    return False


def disks(
    row: Row, number: int, rng: random.Random, folder: Path, data: Path, scripts: tuple[Script, ...] = SCRIPTS
) -> None:
    """Has scripts write where they cannot; then takes the hindrance away and runs the same command."""
    cases = [(script, hindrance) for script in scripts for hindrance in HINDRANCES]
    for script, hindrance in rng.sample(cases, min(number, len(cases))):
        what, at = f"{script.name}, {hindrance.name}", fresh(folder / "hindered")
        at.chmod(0o777)
        more = ("--output_dir", hindrance.output)
        hindrance.place(at)
        row.count("tried")
        ended = call(script, at, data, before=hindrance.before, more=more)
        hindrance.remove(at)
        if ended.code == 0:
            row.count("whole on the retry")  # it was no hindrance
            continue
        if not told(row, what, ended) or hindrance.output != OUTPUT:
            continue
        begun = find(at / OUTPUT, SETTINGS_FILE).exists()
        again = call(script, at, data, resume=begun)
        if again.code:
            row.count("raw")
            row.tell(f"{what}: the retry ended with {again.code}: {again.error[-700:]}")
        else:
            row.count("whole on the retry")


def damaged_files(row: Row, number: int, rng: random.Random, folder: Path, data: Path) -> None:
    """Damages what a run keeps of itself; the resumed run says so in one line, or goes on without it."""
    by_name = {script.name: script for script in SCRIPTS}
    cases = [(name, content) for name, contents in DAMAGED.items() for content in contents]
    for name, content in rng.sample(cases, min(number, len(cases))):
        script = by_name[
            "search" if name.startswith("search") else "pre-training" if name == "start.json" else "tweets"
        ]
        whole = folder / f"whole-{script.name}"
        if not whole.exists():
            call(script, fresh(whole), data)
        at = fresh(folder / "damaged")
        os.system(f"cp -r {str(whole)!r}/. {str(at)!r}")
        path = at / OUTPUT / "run" / name
        path.write_bytes(content)
        if name != "all_results.json":  # else the run has finished and nothing of it is read
            (at / OUTPUT / "run" / "all_results.json").unlink()
        if name.endswith("study.db"):
            (at / OUTPUT / "run" / "search" / "best.json").unlink()
        row.count("tried")
        ended = call(script, at, data, resume=True)
        if ended.code == 0:
            row.count("made anew")
        else:
            told(row, f"{name} of {content[:12]!r}", ended)
