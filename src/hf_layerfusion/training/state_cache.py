"""A memory-mapped cache of an encoder's states on disk: written whole or not at all, and checked on first use."""

from __future__ import annotations

import json
import os
import shutil
import uuid
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.utils import logging

from hf_layerfusion.errors import UserError, one_line
from hf_layerfusion.storage import LOCK_FILE, locked, remove_leftovers, replacing, write_text

logger = logging.get_logger(__name__)

ENCODER_INPUTS = ("input_ids", "token_type_ids", "attention_mask")
"""The inputs of every encoder for a text."""


def encoder_inputs(model: Any) -> tuple[str, ...]:
    """Return the inputs of a model's encoder for a text: `ENCODER_INPUTS`, and what its configuration declares as its
    `extra_inputs`, such as `char_ids`."""
    return (*ENCODER_INPUTS, *getattr(model.config, "extra_inputs", ()))


DESCRIPTION_NAME = "states.json"
_DATA, _INDEX = ".states", ".index.safetensors"


def text_key(row: Mapping[str, Any], inputs: Sequence[str] = ENCODER_INPUTS) -> bytes:
    """Return 16 bytes that identify an encoded text: everything that the encoder is given of it, padding included.

    Args:
        row: the encoder's inputs by name.
        inputs: their names, those of `encoder_inputs`.
    """
    digest = blake2b(digest_size=16)
    for name, values in ((name, row[name]) for name in inputs if name in row):
        digest.update(name.encode())
        # A list for each token, padded or not. The test of the type alone spares np.ndim, which takes longer.
        if len(values) and not isinstance(values[0], int) and np.ndim(values[0]):
            kept = [[value for value in each if value] for each in np.asarray(values, dtype=object)]
            digest.update(np.array([len(each) for each in kept]).tobytes())
            values = [value for each in kept for value in each]
        digest.update(np.asarray(values, dtype=np.int64).tobytes())
    return digest.digest()


def weights_digest(module: nn.Module) -> str:
    """Return the sha256 of a module's weights and their names."""
    digest = sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


class StatesTooLargeError(UserError):
    """States are beyond the range of the type that they are to be stored in."""


class _Text(NamedTuple):
    shard: int
    start: int
    tokens: int
    checksum: int


class StateCache:
    """The states `[R, T, H]` of texts in a folder of their own.

    A shard is a file of states, text after text, and an index of keys, lengths and checksums, which is written last:
    what a killed run left without an index, or with one that does not fit the states, is not taken for a shard. The
    states of a text are compared with their checksum (CRC-32, which finds every single flipped bit) when the text is
    first asked for; damaged states are reported, and the text counts as missing.

    Args:
        folder: where the folder of these states stands, or will.
        description: all that the states depend on beside the text; as JSON, it names the folder and lies in it.
        num_layers: number R of layers.
        width: H.
        dtype: of the values on disk.
        option: name of the option that asked for the states, for messages.
    """

    def __init__(
        self,
        folder: str | Path,
        description: Mapping[str, Any],
        num_layers: int,
        width: int,
        dtype: torch.dtype,
        option: str = "cache_frozen_states",
    ) -> None:
        self.option = option
        self.description = json.dumps({**description, "dtype": str(dtype)}, indent=1, sort_keys=True)
        self.folder = Path(folder) / sha256(self.description.encode()).hexdigest()[:32]
        self.num_layers, self.width, self.dtype = num_layers, width, dtype
        self._files: list[Path] = []
        self._seen: set[Path] = set()  # indexes, those that were passed over among them
        # The places of each text: several where two runs computed it at the same time, or the first was damaged.
        self._texts: dict[bytes, list[_Text]] = {}
        self._checked: set[bytes] = set()
        self._damaged: set[Path] = set()  # files that a warning was given of
        self._shards: list[Tensor] | None = None
        self.refresh()

    def __len__(self) -> int:
        return len(self._texts)

    def __contains__(self, key: bytes) -> bool:
        """Return whether there are intact states of a text; they are checked the first time."""
        if key in self._checked:
            return True
        places = self._texts.get(key, [])
        while places:
            if self._is_intact(key, places[0]):
                self._checked.add(key)
                return True
            self._report(self._files[places[0].shard])
            del places[0]
        self._texts.pop(key, None)
        return False

    def __getitem__(self, key: bytes) -> Tensor:
        """Return the states `[R, T, H]` of a text, mapped from disk; they must not be written to.

        Raises:
            KeyError: there are none, or they are damaged.
        """
        if key not in self:
            raise KeyError(key)
        text = self._texts[key][0]
        return self._values(text).view(self.num_layers, text.tokens, self.width)

    def missing(self, keys: Iterable[bytes]) -> set[bytes]:
        """Return those of `keys` whose states are missing or damaged. The others are read in the order of the disk."""
        first = {key: self._texts[key][0] for key in keys if key in self._texts}
        intact = {key for key in sorted(first, key=lambda key: first[key][:2]) if key in self}
        return set(keys) - intact

    def _report(self, file: Path) -> None:
        if file not in self._damaged:
            self._damaged.add(file)
            logger.warning(
                f"{file}: states have changed since they were written (checksum differs); they are computed anew"
            )

    def _is_intact(self, key: bytes, text: _Text) -> bool:
        return checksum(key, self._values(text)) == text.checksum

    def _values(self, text: _Text) -> Tensor:
        if self._shards is None:
            self._shards = [
                torch.from_file(str(path), size=path.stat().st_size // self.dtype.itemsize, dtype=self.dtype)
                for path in self._files
            ]
        size = self.num_layers * self.width
        return self._shards[text.shard][text.start * size : (text.start + text.tokens) * size]

    def __getstate__(self) -> dict[str, Any]:
        # A data loader's process maps the files itself.
        return {**self.__dict__, "_shards": None}

    def refresh(self) -> None:
        """Load the index of shards that were written since. A damaged one is skipped, with a warning."""
        for index in sorted(set(self.folder.glob(f"*{_INDEX}")) - self._seen):
            self._seen.add(index)
            data = index.with_name(index.name.removesuffix(_INDEX) + _DATA)
            try:
                keys, lengths, checksums = _read_index(index)
                expected, found = self.bytes_of(sum(lengths)), data.stat().st_size
                if found != expected:
                    raise ValueError(f"{data.name} has {found} bytes in place of {expected}")
            except (OSError, ValueError, SafetensorError) as error:
                logger.warning(f"{index}: passed over, its states are computed anew: {one_line(error)}")
                continue
            start = 0
            for key, tokens, value in zip(keys, lengths, checksums, strict=True):
                self._texts.setdefault(key, []).append(_Text(len(self._files), start, tokens, value))
                start += tokens
            self._files.append(data)
            self._shards = None

    def bytes_of(self, tokens: int) -> int:
        """Return the size on disk of the states of so many tokens."""
        return tokens * self.num_layers * self.width * self.dtype.itemsize

    def disk_use(self) -> tuple[int, int]:
        """Return the size of all states in bytes, and the bytes that are free on their disk."""
        return sum(path.stat().st_size for path in self._files), shutil.disk_usage(self.folder).free

    def check_room(self, tokens: int) -> None:
        """Check that the disk has room, and make the folder; call it before `write`.

        Raises:
            UserError: the disk has no room for the states of so many tokens, or cannot be written to.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self.folder).free
        except OSError as error:
            raise UserError(
                f"{self.option}={self.folder.parent}: cannot be made: {error.strerror}; name another folder"
            ) from error
        if free < self.bytes_of(tokens):
            raise UserError(
                f"{self.option}={self.folder.parent}: the states need {gigabytes(self.bytes_of(tokens))}, found "
                f"{gigabytes(free)} free; make room, name a folder on another disk or leave the option out"
            )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder for this process in the block, after waiting for one that writes there.

        Loads what that process has written, and removes what killed processes left unfinished.

        Raises:
            UserError: the folder cannot be made.
        """
        with locked(self.folder / LOCK_FILE, f"{self.option}={self.folder.parent}", wait=True):
            remove_leftovers(self.folder)
            for data in self.folder.glob(f"*{_DATA}"):
                if not data.with_name(data.name.removesuffix(_DATA) + _INDEX).exists():
                    data.unlink()
            self.refresh()
            yield

    def write(self, keys: Sequence[bytes], lengths: Sequence[int], states: Iterable[Tensor]) -> None:
        """Write a shard.

        Args:
            keys: of the texts.
            lengths: number T of tokens of each.
            states: of each text `[R, T, H]`, in the same order; computed as they are written.

        Raises:
            UserError: the file cannot be written, or states are not finite.
        """
        if not keys:
            return
        data = self.folder / f"{uuid.uuid4().hex}{_DATA}"
        index = data.with_name(data.name.removesuffix(_DATA) + _INDEX)
        try:
            write_text(self.folder / DESCRIPTION_NAME, self.description + "\n")
            checksums = []
            with data.open("wb") as file:
                for key, each in zip(keys, states, strict=True):
                    values = each.to(self.dtype).contiguous()
                    if not values.isfinite().all():
                        overflows = bool(each.isfinite().all())
                        what = f"values too large for {values.dtype}" if overflows else "NaN or infinity"
                        raise (StatesTooLargeError if overflows else UserError)(
                            f"{self.option}={self.folder.parent}: states must be finite, found {what}; "
                            + (
                                "use another precision, such as bfloat16, or leave the option out"
                                if overflows
                                else "the encoder itself gives them: check its weights, or use another precision"
                            )
                        )
                    checksums.append(checksum(key, values))
                    file.write(_bytes_of(values))
                file.flush()
                os.fsync(file.fileno())
            found = {
                "keys": torch.from_numpy(np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 16).copy()),
                "lengths": torch.tensor(lengths),
                "checksums": torch.tensor(checksums),
            }
            with replacing(index) as partial:
                save_file(found, partial)
        except BaseException as error:
            data.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise UserError(
                    f"{self.option}={self.folder.parent}: the states could not be written: {error.strerror}; "
                    f"make room for {gigabytes(self.bytes_of(sum(lengths)))} or leave the option out"
                ) from error
            raise
        self.refresh()


def checksum(key: bytes, values: Tensor) -> int:
    """Return the CRC-32 of a text's key and states."""
    return zlib.crc32(_bytes_of(values), zlib.crc32(key))


def _bytes_of(values: Tensor) -> memoryview:
    return values.view(torch.uint8).numpy().data


def _read_index(path: Path) -> tuple[list[bytes], list[int], list[int]]:
    """Return keys, lengths and checksums of a shard's texts.

    Raises:
        OSError, SafetensorError, ValueError: a file that cannot be read, or is no such index.
    """
    found = load_file(path)
    types = {"keys": torch.uint8, "lengths": torch.int64, "checksums": torch.int64}
    if {name: values.dtype for name, values in found.items()} != types:
        raise ValueError(f"must hold {', '.join(types)}, found {', '.join(sorted(found)) or 'nothing'}")
    rows = len(found["lengths"])
    shapes = {"keys": (rows, 16), "lengths": (rows,), "checksums": (rows,)}
    if {name: tuple(values.shape) for name, values in found.items()} != shapes or (
        found["lengths"] < 0
    ).any():
        raise ValueError("must hold a key, a length and a checksum for each text, found others")
    keys = [key.tobytes() for key in found["keys"].numpy()]
    return keys, found["lengths"].tolist(), found["checksums"].tolist()


def gigabytes(size: int) -> str:
    """Format a size in bytes, such as "1.20 GB"."""
    return f"{size / 1e9:.2f} GB" if size >= 1e7 else f"{size / 1e6:.3f} MB"
