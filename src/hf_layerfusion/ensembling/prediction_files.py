"""Predictions on disk: a cache of members' predictions, and files of out-of-fold predictions."""

import csv
import hashlib
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from hf_layerfusion.errors import UserError, one_line
from hf_layerfusion.evaluation.predictions import long_fields
from hf_layerfusion.run_layout import LOGITS_FILE, RUN, find_in_parts
from hf_layerfusion.storage import LOCK_FILE, locked, replacing, writable

logger = logging.getLogger(__name__)

Array = npt.NDArray[Any]
Rows = Sequence[tuple[str, ...]]

VALUE = "value"  # column of a regression
_VALUES, _CHECKSUM = "predictions", "sha256"  # names within a cache entry
_PREFIX = "logit_"  # keeps a class's column apart from the text columns


def rows_hash(rows: Rows) -> str:
    """Return the sha256 of texts or pairs, in order."""
    digest = hashlib.sha256()
    for row in rows:
        for text in row:
            encoded = text.encode("utf-8", "surrogatepass")
            digest.update(len(encoded).to_bytes(8, "little") + encoded)
        digest.update(b"\xff" * 8)
    return digest.hexdigest()


def cached(
    folder: str | Path | None, key: Sequence[object], predict: Callable[[], Array], shape: tuple[int, ...]
) -> Array:
    """Return the predictions stored under `key`, or compute and store them.

    An entry is used only if it holds finite float32 values of the requested shape and its checksum, which also covers
    the key, matches. Any other entry is reported and replaced. Threads and processes may share a folder: entries are
    written atomically, and the last one stays.

    Args:
        folder: the cache folder; None disables the cache.
        key: everything that the predictions depend on.
        predict: function that returns finite float32 predictions.
        shape: the shape of the predictions, `[N, …]`.

    Raises:
        UserError: The folder cannot be written to.
    """
    if folder is None:
        return predict()
    named = hashlib.sha256("\n".join(map(str, key)).encode()).hexdigest()
    path, what = Path(folder) / f"{named[:32]}.safetensors", f"cache of predictions {folder}"
    # Another process that needs the same predictions waits for them.
    with locked(path.with_name(f".{named[:32]}{LOCK_FILE}"), what, wait=True):
        if path.exists():
            try:
                return _entry(path, named, shape)
            except (OSError, ValueError, KeyError, SafetensorError) as error:
                logger.warning(
                    f"{path}: cached predictions are damaged ({one_line(error)}); they are computed again"
                )
        found = predict()
        with writable(what), replacing(path) as partial:
            partial.write_bytes(save({_VALUES: found}, {_CHECKSUM: _checksum(named, found)}))
    return found


def _entry(path: Path, named: str, shape: tuple[int, ...]) -> Array:
    """Return the values of a cache entry.

    Raises:
        OSError, ValueError, KeyError, SafetensorError: The entry is damaged.
    """
    with safe_open(path, "np") as file:
        stored, values = (file.metadata() or {})[_CHECKSUM], file.get_tensor(_VALUES)
    if values.shape != shape or values.dtype != np.float32:
        raise ValueError(f"must be float32 of {shape}, found {values.dtype} of {values.shape}")
    if _checksum(named, values) != stored:
        raise ValueError("sha256 differs")
    if not np.isfinite(values).all():
        raise ValueError("not all of them are finite")
    found: Array = values
    return found


def _checksum(named: str, values: Array) -> str:
    """Return the sha256 of an entry's key and values."""
    return hashlib.sha256(named.encode() + np.ascontiguousarray(values).tobytes()).hexdigest()


def write_logits(
    path: str | Path,
    *,
    ids: Sequence[object],
    texts: Mapping[str, Sequence[str]],
    logits: Array,
    labels: Sequence[str],
) -> None:
    """Write a CSV file with one row for each text: `id`, the text columns, and a logit `logit_NAME` for each class,
    or `value` for a regression.

    Args:
        path: the file.
        ids: ids of the rows, `[N]`.
        texts: text columns by name.
        logits: `[N, C]`; for a regression `[N]` or `[N, 1]`.
        labels: names of the classes; empty for a regression.
    """
    names = _columns(labels)
    columns = np.asarray(logits, np.float64).reshape(len(logits), len(names)).T
    cells = [[repr(value) for value in column.tolist()] for column in columns]
    with replacing(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", *texts, *names])
        writer.writerows(zip(ids, *texts.values(), *cells, strict=True))


def read_logits(
    source: str | Path, *, ids: Sequence[object], texts: Mapping[str, Sequence[str]], labels: Sequence[str]
) -> Array:
    """Read a member's predictions of exactly these rows, in order.

    Args:
        source: a file that `write_logits` wrote, or the folder of a cross-validation with such a file in each
            `fold-…/run`.
        ids, texts, labels: as for `write_logits`.

    Returns:
        `[N, C]` in the order of `labels`, for a regression `[N]`.

    Raises:
        UserError: A file is missing or malformed, or holds other labels or other rows than requested.
    """
    source, names = Path(source), _columns(labels)
    files = [source] if source.is_file() else [*find_in_parts(source, "fold-*", LOGITS_FILE).values()]
    if not files:
        raise UserError(
            f"{source}: must be a csv file of predictions or a folder with fold-*/{RUN}/{LOGITS_FILE}, found none."
        )
    found: dict[tuple[str, ...], list[float]] = {}
    for path in files:
        for row in _rows(path, [*texts], names):
            key = (row["id"], *(row[column] for column in texts))
            if key in found:
                raise UserError(
                    f"{path}: must predict each row once, found the id {row['id']!r} twice; remove one."
                )
            try:
                found[key] = [float(row[name]) for name in names]
            except (TypeError, ValueError):
                found[key] = [math.nan]
            if not all(map(math.isfinite, found[key])):
                raise UserError(
                    f"{path}: must hold finite numbers, found others at id {row['id']!r}; correct them."
                )
    asked = list(zip(map(str, ids), *texts.values(), strict=True))
    absent = [key for key in asked if key not in found]
    if absent or len(found) != len(set(asked)):
        other = f"none for id {absent[0][0]!r}" if absent else f"{len(found)} rows"
        raise UserError(
            f"{source}: must predict the {len(asked)} requested rows, with the same ids and texts, found {other}; "
            "predict these rows."
        )
    predictions = np.array([found[key] for key in asked])
    return predictions if labels else predictions[:, 0]


def _columns(labels: Sequence[str]) -> list[str]:
    return [f"{_PREFIX}{label}" for label in labels] or [VALUE]


def _rows(path: Path, texts: Sequence[str], names: Sequence[str]) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file, long_fields():
            reader = csv.DictReader(file)
            header = set(reader.fieldnames or ())
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as csv ({type(error).__name__}); write it again.") from error
    if header != {"id", *texts, *names}:
        raise UserError(
            f"{path}: must have the columns {', '.join(['id', *texts, *names])}, found {', '.join(sorted(header))}; "
            "its labels must be the ensemble's."
        )
    return rows
