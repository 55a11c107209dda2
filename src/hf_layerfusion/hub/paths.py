"""File names that come from a repository or a manifest: they stay in their folder."""

import os
import re
from pathlib import Path

from hf_layerfusion.errors import UserError

_NAME = re.compile(r"[\w-]+")


def inside(folder: str | Path, name: str, what: str) -> Path:
    """The file or folder of that name in a folder, to any depth.

    Args:
        folder: what it must stay in.
        name: a path relative to it, as it was written by others.
        what: says in the error where the name stands.

    Raises:
        UserError: a name that leads elsewhere, such as `../secret` or, unless it lies in the folder, `/etc/passwd`.
    """
    top, path = (Path(os.path.abspath(each)) for each in (folder, os.path.join(folder, name)))
    if "\0" in name or not path.is_relative_to(top):
        raise UserError(
            f"{what}: must lie in {folder}, found {name!r}; correct it if it is yours, else do not trust it."
        )
    return Path(folder) / name


def is_plain_name(name: str) -> bool:
    """Whether a name of a task may become part of a file's name: letters, digits, `_` and `-`."""
    return _NAME.fullmatch(name) is not None
