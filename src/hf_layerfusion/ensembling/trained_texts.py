"""Hashes of the texts that a model was trained and selected on, saved beside it, so that combiners are fitted on
other texts."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hf_layerfusion.errors import NPZ_ERRORS, UserError
from hf_layerfusion.run_layout import TRAINED_TEXTS_FILE, find, records
from hf_layerfusion.storage import replacing

# The texts that the model was trained on, and those that its checkpoint or combiner was selected on.
PARTS = ("train", "selection")

Hashes = npt.NDArray[np.uint64]


def text_hashes(rows: Iterable[Sequence[str]]) -> Hashes:
    """Return an 8-byte hash of each row, `[N]`.

    Args:
        rows: a text each, or the two texts of a pair. The order within a pair does not matter: a pair is recognized
            either way round.
    """
    return np.array([_hash(row) for row in rows], np.uint64)


def _hash(row: Sequence[str]) -> int:
    digest = hashlib.blake2b(digest_size=8)
    for text in sorted(row):
        encoded = text.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return int.from_bytes(digest.digest(), "little")


def write_trained_texts(folder: str | Path, train: npt.ArrayLike, selection: npt.ArrayLike = ()) -> None:
    """Write the hashes of a model's training and selection texts into the records of its folder."""
    records(folder).mkdir(parents=True, exist_ok=True)
    with replacing(records(folder) / TRAINED_TEXTS_FILE) as partial, partial.open("wb") as file:
        np.savez(file, train=_distinct(train), selection=_distinct(selection))


def _distinct(hashes: npt.ArrayLike) -> Hashes:
    return np.unique(np.asarray(hashes, np.uint64))


def read_trained_texts(folder: str | Path) -> dict[str, Hashes] | None:
    """Return the hashes that `write_trained_texts` wrote, by part; None if there is no such file.

    Raises:
        UserError: The file is damaged.
    """
    path = find(folder, TRAINED_TEXTS_FILE)
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {part: stored[part].astype(np.uint64) for part in PARTS}
    except NPZ_ERRORS as error:
        raise UserError(
            f"{path}: must hold the hashes of a model's trained texts, found a damaged file; copy the model again."
        ) from error


def seen_rows(hashes: Hashes, seen: dict[str, Hashes]) -> npt.NDArray[np.bool_]:
    """Return a mask of the rows whose hashes are among the training or selection texts, `[N]`."""
    # By sorting: the lookup table that numpy tries for integers cannot hold 64-bit values.
    return np.isin(hashes, np.concatenate([np.empty(0, np.uint64), *seen.values()]), kind="sort")


def check_held_out(
    members: Iterable[tuple[str, dict[str, Hashes] | None]],
    rows: Sequence[Sequence[str]],
    unverified_members: bool,
) -> list[str]:
    """Check that no member was trained or selected on any of the rows.

    Args:
        members: names with the hashes of their training and selection texts; None where these are unknown.
        rows: texts or pairs.
        unverified_members: whether to accept members whose training texts are unknown.

    Returns:
        The names of the accepted members whose training texts are unknown.

    Raises:
        UserError: A member has seen a row, or its training texts are unknown and that is not accepted.
    """
    unknown, hashes = [], text_hashes(rows)
    for name, seen in members:
        if seen is None:
            if not unverified_members:
                raise UserError(
                    f"member {name}: must record which texts it was trained on, found no {TRAINED_TEXTS_FILE}; train "
                    "it with this package, give out-of-fold predictions, or set unverified_members, which the card "
                    "mentions."
                )
            unknown.append(name)
            continue
        for part, what in (("train", "trained"), ("selection", "selected")):
            found = np.flatnonzero(seen_rows(hashes, {part: seen.get(part, np.empty(0, np.uint64))}))
            if len(found):
                raise UserError(
                    f"member {name}: must not have seen texts that a combiner is fitted on, found {len(found)} of "
                    f"{len(rows)} rows that it was {what} on, the first at row {found[0] + 1}; leave them out "
                    "(--skip_seen_texts True), or give out-of-fold predictions."
                )
    return unknown
