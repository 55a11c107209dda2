"""Validation of file names from repositories and manifests, which must not lead out of their folder."""

import os
import re
from pathlib import Path

from hf_layerfusion.errors import UserError

_NAME = re.compile(r"[\w-]+")


def inside(folder: str | Path, name: str, what: str) -> Path:
    """Return the path of a file or folder within a folder, at any depth.

    Args:
        folder: the folder it must stay in.
        name: a relative path from an untrusted source.
        what: where the name was found, for the error message.

    Raises:
        UserError: The name leads out of the folder, such as `../secret` or `/etc/passwd`.
    """
    top, path = (Path(os.path.abspath(each)) for each in (folder, os.path.join(folder, name)))
    if "\0" in name or not path.is_relative_to(top):
        raise UserError(
            f"{what}: must lie in {folder}, found {name!r}; correct it if it is yours, else do not trust it."
        )
    return Path(folder) / name


def is_plain_name(name: str) -> bool:
    """Return whether a task's name is safe in file names: only letters, digits, `_` and `-`."""
    return _NAME.fullmatch(name) is not None
