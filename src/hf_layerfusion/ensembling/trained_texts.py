"""Which texts a model has seen, as hashes beside it: what is fitted on its answers must be fitted on others."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hf_layerfusion.errors import NPZ_ERRORS, UserError
from hf_layerfusion.storage import replacing

FILE_NAME = "trained_texts.npz"
# What the model learned from, and what its checkpoint or combiner was chosen on.
PARTS = ("train", "selection")

Hashes = npt.NDArray[np.uint64]


def text_hashes(rows: Iterable[Sequence[str]]) -> Hashes:
    """8 bytes for each row, `[N]`.

    Args:
        rows: one text each, or the two of a pair, whose order does not count: a pair that was trained on is known
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
    """Writes the hashes of the texts that a model was trained on and of those that chose its checkpoint beside it."""
    with replacing(Path(folder) / FILE_NAME) as partial, partial.open("wb") as file:
        np.savez(file, train=_distinct(train), selection=_distinct(selection))


def _distinct(hashes: npt.ArrayLike) -> Hashes:
    return np.unique(np.asarray(hashes, np.uint64))


def read_trained_texts(folder: str | Path) -> dict[str, Hashes] | None:
    """What `write_trained_texts` wrote, by part; None where there is no such file.

    Raises:
        UserError: if the file is damaged.
    """
    path = Path(folder) / FILE_NAME
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {part: stored[part].astype(np.uint64) for part in PARTS}
    except NPZ_ERRORS as error:
        raise UserError(
            f"{path}: must hold the hashes of a model's trained texts, found a damaged file; copy the model anew."
        ) from error


def seen_rows(hashes: Hashes, seen: dict[str, Hashes]) -> npt.NDArray[np.bool_]:
    """Which of the rows with these hashes a model was trained or chosen on, `[N]`."""
    # By sorting: a table, which numpy 2.0 tries for any whole numbers, cannot hold those of 64 bits.
    return np.isin(hashes, np.concatenate([np.empty(0, np.uint64), *seen.values()]), kind="sort")


def check_held_out(
    members: Iterable[tuple[str, dict[str, Hashes] | None]],
    rows: Sequence[Sequence[str]],
    unverified_members: bool,
) -> list[str]:
    """Checks that no member has seen a row.

    Args:
        members: names and seen texts; None where that is not known.
        rows: texts or pairs.
        unverified_members: whether to take members of which it is not known.

    Returns:
        Names of these.

    Raises:
        UserError: a member that has seen a row, or of which it is not known.
    """
    unknown, hashes = [], text_hashes(rows)
    for name, seen in members:
        if seen is None:
            if not unverified_members:
                raise UserError(
                    f"member {name}: must say which texts it was trained on, found no {FILE_NAME}; train it with this "
                    "package, give out-of-fold predictions, or set unverified_members, which the card then says."
                )
            unknown.append(name)
            continue
        for part, what in (("train", "trained"), ("selection", "chosen")):
            found = np.flatnonzero(seen_rows(hashes, {part: seen.get(part, np.empty(0, np.uint64))}))
            if len(found):
                raise UserError(
                    f"member {name}: must not have seen what a combiner is fitted on, found {len(found)} of "
                    f"{len(rows)} rows that it was {what} on, the first at row {found[0] + 1}; leave them out "
                    "(skip_seen_texts), or give out-of-fold predictions."
                )
    return unknown
