"""Atomic writing of files and folders, locks between processes, and disk errors in one line.

All writing of the package goes through this module. A file is written under a temporary name in the same folder,
flushed to the disk and renamed, so that neither a kill nor a power failure leaves half of it. Temporary names and lock
files are hidden and recognized (`is_ours`), so that leftovers of a killed process never get in the way.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import math
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from hf_layerfusion.errors import StorageError, UserError, one_line

logger = logging.getLogger(__name__)

PARTIAL = ".partial"
LOCK_FILE = ".lock"
# Lock files name the process that holds them. A dead process may have left children that end a little later.
_SECONDS_FOR_ORPHANS = 15
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)  # a file system without locks says one of these
_WAYS_OUT = {
    errno.ENOSPC: "make room and run the same command again",
    errno.EDQUOT: "make room and run the same command again",
    errno.EFBIG: "raise the limit on the size of files and run the same command again",
    errno.ENAMETOOLONG: "shorten the name",
    errno.ENOTDIR: "a file stands where a folder must be; name another folder",
    errno.EEXIST: "a file stands where a folder must be; name another folder",
    errno.EROFS: "name a folder on a disk that may be written to",
}


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path next to `path`, whose content replaces `path` when the block ends.

    The file is flushed to the disk before it is renamed, and the rename before this returns. If the block raises,
    `path` is unchanged.
    """
    path = Path(path)
    partial = path.with_name(f".{uuid.uuid4().hex[:12]}{PARTIAL}")
    try:
        yield partial
        sync_file(partial)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file atomically."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Write JSON atomically; numbers that are not finite, which JSON cannot represent, are written as null."""
    strict = json.dumps(finite_or_none(content), indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, strict + "\n")


def finite_or_none(content: Any) -> Any:
    """Return `content` with None in place of each number that is not finite, at any depth."""
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, Mapping):
        return {name: finite_or_none(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite_or_none(value) for value in content]
    return content


def read_json(path: str | os.PathLike[str], way_out: str) -> Any:
    """Return the content of a JSON file.

    Args:
        path: The file.
        way_out: Remedy for a damaged file, for the error message.

    Raises:
        UserError: If it cannot be read, or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {way_out}.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is not JSON ({one_line(error)}); {way_out}.") from error


def read_object(path: str | os.PathLike[str], way_out: str) -> dict[str, Any]:
    """Return the JSON object in a file.

    Args:
        path: The file.
        way_out: Remedy for a damaged file, for the error message.

    Raises:
        UserError: If it cannot be read, or contains anything but a JSON object.
    """
    content = read_json(path, way_out)
    if not isinstance(content, dict):
        raise UserError(f"{path}: must hold a JSON object, found something else; {way_out}.")
    return content


@contextmanager
def new_folder(path: str | os.PathLike[str], option: str = "") -> Iterator[Path]:
    """Yield a temporary folder next to `path` that becomes `path` when the block ends.

    If the block raises, nothing is left.

    Args:
        path: The folder.
        option: Command-line option that gives the path, for error messages.

    Raises:
        UserError: If `path` is not new or empty, another process is creating it, or the disk refuses.
    """
    path = Path(path)
    check_new(path, option)
    what = f"{option} {path}".strip()
    path = Path(os.path.realpath(path))  # a link to a folder stays a link
    partial = path.with_name(f".{hashlib.sha256(path.name.encode()).hexdigest()[:12]}{PARTIAL}")
    with writable(what), no_empty_parents(path):
        with locked(partial / LOCK_FILE, what):
            for left in partial.iterdir():  # by a killed process
                if left.name != LOCK_FILE:
                    remove(left)
            try:
                yield partial
                check_new(path, option)
                sync_tree(partial)
                for left in path.iterdir() if path.exists() else ():
                    remove(left)
                # Rename while holding the lock, so that nobody treats the temporary folder as a leftover.
                os.replace(partial, path)
                with suppress(OSError):
                    (path / LOCK_FILE).unlink()
            except BaseException:
                shutil.rmtree(partial, ignore_errors=True)
                raise
        sync_folder(path.parent)


@contextmanager
def no_empty_parents(path: Path) -> Iterator[None]:
    """Remove the folders above `path` that were created within the block and are empty at its end."""
    missing = [parent for parent in path.absolute().parents if not parent.exists()]
    try:
        yield
    finally:
        with suppress(OSError):  # one that is not empty
            for parent in missing:
                parent.rmdir()


def check_new(path: Path, option: str = "") -> None:
    """Refuse a folder that contains anything but our temporary files, or that cannot be replaced.

    Args:
        path: The folder; it need not exist.
        option: Command-line option that gives the path, for the error message.

    Raises:
        UserError: If it contains files, or is a file, the working folder or a mount point.
    """
    what = f"{option} {path}".strip()
    with writable(what):
        if path.exists() and (not path.is_dir() or not is_empty(path)):
            raise UserError(f"{what}: must be a new or empty folder, found files there; name another.")
        for is_held, found in (
            (path.exists() and path.samefile(Path.cwd()), "the working folder"),
            (os.path.ismount(path), "a mount point"),
        ):
            if is_held:
                raise UserError(
                    f"{what}: must be a folder that can be replaced, found {found}; name a new folder in it."
                )


def move_into(source: Path, folder: Path, last: str) -> None:
    """Move all files of `source` and its subfolders to the same places in `folder`, and remove `source`.

    Every file is flushed to the disk before the first one is moved, and `last` is moved after all others are in place.
    """
    sync_tree(source)
    files = [path.relative_to(source) for path in source.rglob("*") if path.is_file()]
    parents = {folder}
    for relative in sorted(files, key=lambda relative: (relative == Path(last), relative)):
        if relative == Path(last):
            for parent in parents:
                sync_folder(parent)
        target = folder / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        parents |= {target.parent, target.parent.parent}
        os.replace(source / relative, target)
    for parent in parents:
        sync_folder(parent)
    shutil.rmtree(source)


def is_ours(path: Path) -> bool:
    """Return whether a file or folder is, by its name, a lock file or a temporary file of this package."""
    return path.name.startswith(".") and path.name.endswith((PARTIAL, LOCK_FILE))


def is_empty(folder: Path) -> bool:
    """Return whether a folder contains nothing but lock files and temporary files of this package."""
    return all(map(is_ours, folder.iterdir()))


def remove_leftovers(folder: Path) -> None:
    """Remove the leftovers of killed processes in a folder, at any depth. The caller must hold the folder's lock."""
    for path in sorted(folder.rglob(f".*{PARTIAL}")):
        remove(path)


def remove(path: Path) -> None:
    """Remove a file or a folder, which may already be gone."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def locked(path: Path, what: str | Path, wait: bool = False) -> Iterator[None]:
    """Hold a lock between processes and threads for the duration of the block.

    The lock belongs to the operating system and ends with its process in any case; the file remains and has no meaning
    by itself. On a file system without locks the block runs unprotected, which is logged.

    Args:
        path: The lock file; a missing folder is created.
        what: Description of the locked object, for the error message.
        wait: Whether to wait until the lock is free instead of refusing.

    Raises:
        UserError: If another process holds it.
        StorageError: If the file cannot be created.
    """
    lock = FileLock(path)
    with writable(what):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            _acquire(lock, path, what, wait)
        except (NotImplementedError, OSError) as error:
            if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
                raise
            logger.warning("%s: no locks on this file system; do not write to it from two processes", what)
    try:
        with suppress(OSError):
            path.write_text(str(os.getpid()), encoding="ascii")
        yield
    finally:
        lock.release()


def _acquire(lock: Any, path: Path, what: str | Path, wait: bool) -> None:
    try:
        lock.acquire(timeout=0)
        return
    except Timeout:
        holder = _holder(path)
    if wait:
        logger.info("%s: waiting for %s", what, holder or "another process")
        lock.acquire()
        return
    try:
        lock.acquire(timeout=0 if holder else _SECONDS_FOR_ORPHANS)
    except Timeout:
        raise UserError(
            f"{what}: is in use by {holder or 'another process'}; wait until that ends, or name another folder."
        ) from None


def _holder(path: Path) -> str | None:
    """Return the process named in a lock file, if it is alive."""
    try:
        number = int(path.read_text(encoding="ascii"))
        with suppress(PermissionError):  # alive, but owned by another user
            os.kill(number, 0)
    except (OSError, ValueError, OverflowError):
        return None
    return f"process {number}"


@contextmanager
def writable(what: str | Path) -> Iterator[None]:
    """Context that turns an `OSError` into an error of one line.

    Args:
        what: Description of what is written, for the error message.

    Raises:
        StorageError: In place of an `OSError`.
    """
    try:
        yield
    except (
        ConnectionError
    ):  # among them that of a standard output that nobody reads any more: no fault of the disk
        raise
    except OSError as error:
        raise StorageError(f"{what}: cannot be written: {refusal(error)}.") from error


def refusal(error: OSError) -> str:
    """Return a description of what the operating system refused, with the way out."""
    found = (error.strerror or one_line(error)).strip()
    file = f" ({error.filename})" if error.filename else ""
    return (
        f"{found}{file}; {_WAYS_OUT.get(error.errno or 0, 'check the permissions, or name another folder')}"
    )


def sync_file(path: Path) -> None:
    """Flush a file to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk, if the system supports it."""
    with suppress(PermissionError, IsADirectoryError):  # Windows opens no folders
        sync_file(folder)


def sync_tree(folder: Path) -> None:
    """Flush `folder` and every file and folder in it to the disk."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir():
            sync_folder(path)
        elif path.is_file():
            sync_file(path)
    sync_folder(folder)
