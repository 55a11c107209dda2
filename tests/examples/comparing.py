"""Comparison of two output folders file by file: rows of tables, values of JSON, weights, cards."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from math import isclose
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

EXCLUDED = {
    "training_args.bin": "a pickle of what training_args.json holds",
    "*_manifest.json": "sizes and checksums of the files that are compared here",
    "*optimizer.pt": "momenta, of which the next step's weights are made",
    "*scheduler.pt": "the rates, which the log holds",
    "*rng_state*.pth": "a file for each process",
    "run.yaml": "settings, of which those that the results depend on are compared in run.json",
    ".lock": "the number of the process that wrote the folder",
}
"""Files that are not compared, by pattern, with the reason."""

TIMES = ("runtime", "per_second", "seconds", "preparation_time")
"""How the names of values end that are measured by the clock."""

_NUMBER = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d+)?(?:e[+-]?\d+)?")
_OF_THE_RUN = re.compile(r"^Training time: .*$|(?<=^Hardware: )\d+ × ", re.MULTILINE)
"""What a card says of the clock and of the number of processes."""


def files_of(folder: Path) -> set[str]:
    """Return every file below a folder except the excluded ones."""
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return {name for name in names if not any(fnmatch(Path(name).name, pattern) for pattern in EXCLUDED)}


def differences(
    first: Path, second: Path, *, exact: bool, but: frozenset[str] = frozenset(), tolerance: float = 1e-4
) -> Iterator[str]:
    """Return the differences between two folders, one line each."""
    names, others = files_of(first), files_of(second)
    if not names:
        raise FileNotFoundError(f"{first} holds nothing to compare")
    yield from (f"{name}: only in one" for name in sorted(names ^ others))
    for name in sorted(names & others):
        for place, one, other in _pairs(first, second, name, but):
            if not _same(one, other, exact, tolerance):
                yield f"{name}: {place}: {one!r} and {other!r}"


def _pairs(first: Path, second: Path, name: str, but: frozenset[str]) -> Iterator[tuple[str, Any, Any]]:
    """Return the corresponding values of a file that is in both folders."""
    one, other = (list(_values(folder, name, but)) for folder in (first, second))
    if [place for place, _ in one] != [place for place, _ in other]:
        yield "places", [place for place, _ in one], [place for place, _ in other]
        return
    for (place, value), (_, second_value) in zip(one, other, strict=True):
        yield place, value, second_value


def _values(folder: Path, name: str, but: frozenset[str]) -> Iterator[tuple[str, Any]]:
    path = folder / name
    if path.suffix == ".csv":
        for row, cells in enumerate(csv.reader(path.read_text(encoding="utf-8").splitlines())):
            yield from ((f"row {row}, column {column}", _number(cell)) for column, cell in enumerate(cells))
    elif path.suffix == ".json":
        content = json.loads(path.read_text(encoding="utf-8").replace(str(folder), ""))
        yield from _leaves(content, "", but)
    elif path.suffix == ".safetensors":
        yield from sorted(load_file(path).items())
    elif path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as stored:
            yield from sorted(stored.items())
    elif path.suffix == ".md":
        text = _OF_THE_RUN.sub("", path.read_text(encoding="utf-8").replace(str(folder), ""))
        yield "words", _NUMBER.sub("", text)
        yield from ((f"number {place}", _number(found)) for place, found in enumerate(_NUMBER.findall(text)))
    else:
        yield path.suffix, path.read_bytes()


def _leaves(content: Any, place: str, but: frozenset[str]) -> Iterator[tuple[str, Any]]:
    if isinstance(content, dict):
        for name, value in content.items():
            if name not in but and not name.endswith(TIMES):
                yield from _leaves(value, f"{place}/{name}", but)
    elif isinstance(content, list):
        for number, value in enumerate(content):
            yield from _leaves(value, f"{place}/{number}", but)
    else:
        yield place, content


def _number(cell: str) -> float | str:
    try:
        return float(cell.replace(",", ""))
    except ValueError:
        return cell


def _same(one: Any, other: Any, exact: bool, tolerance: float) -> bool:
    if isinstance(one, np.ndarray):
        if one.shape != other.shape or one.dtype != other.dtype:
            return False
        numbers = np.issubdtype(one.dtype, np.floating) and not exact
        return np.allclose(one, other, rtol=0, atol=tolerance) if numbers else np.array_equal(one, other)
    if isinstance(one, float) and isinstance(other, float):
        return one == other or (not exact and isclose(one, other, rel_tol=tolerance, abs_tol=tolerance))
    if isinstance(one, bytes) and one[:4] == b"\x89PNG" and not exact:
        return True
    return type(one) is type(other) and bool(one == other)
