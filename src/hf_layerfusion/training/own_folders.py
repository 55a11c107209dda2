"""Folders that this package has made, marked by a file, and may therefore delete."""

from __future__ import annotations

import shutil
from pathlib import Path

MARK = ".made_by_hf_layerfusion"
"""The name of that file, which is empty."""


def make_own(folder: Path) -> Path:
    """Make a folder, and mark it as made by this package.

    Raises:
        FileExistsError: there is something of that name.
    """
    folder.mkdir(parents=True)
    (folder / MARK).touch()
    return folder


def is_own(folder: Path) -> bool:
    """Return whether this package has made a folder."""
    return (folder / MARK).is_file()


def remove_own(folder: Path) -> None:
    """Delete a folder that this package has made; leave any other as it is."""
    if is_own(folder):
        shutil.rmtree(folder, ignore_errors=True)


def new_name(folder: Path) -> Path:
    """Return `folder`, or, if there is something of that name, `folder-2`, `folder-3`, …"""
    found, number = folder, 1
    while found.exists():
        number += 1
        found = folder.with_name(f"{folder.name}-{number}")
    return found
