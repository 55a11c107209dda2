"""Arrays in HDF5 files of the kind that `h5py` writes by default, read without it.

The format's parts that such files use (HDF5 File Format Specification, version 3.0): superblock 0 and 1, groups of
symbol tables, object headers of version 1, and whole arrays of floating-point numbers without compression.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hf_layerfusion.errors import UserError

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_NOWHERE = 0xFFFF_FFFF_FFFF_FFFF
_DATASPACE, _DATATYPE, _LAYOUT, _FILTERS, _CONTINUATION, _SYMBOLS = 1, 3, 8, 11, 16, 17
_FLOAT = 1
_COMPACT, _CONTIGUOUS = 0, 1

Arrays = dict[str, npt.NDArray[Any]]


def read_hdf5(path: Path) -> Arrays:
    """Return every array of a file by its path, such as `"CNN/W_cnn_0"`.

    Raises:
        UserError: another format, features beyond those above, or a damaged file.
    """
    content = path.read_bytes()
    if not content.startswith(_SIGNATURE):
        raise UserError(f"{path}: must be an HDF5 file, found another; name the weights (.hdf5).")
    try:
        reader = _Reader(path, content)
        return dict(reader.arrays(reader.root(), ""))
    except (struct.error, IndexError, ValueError, RecursionError, MemoryError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: must be a whole HDF5 file, found a damaged one; get it anew.") from error


class _Reader:
    def __init__(self, path: Path, content: bytes) -> None:
        self.path, self.content = path, content

    def take(self, layout: str, place: int) -> tuple[Any, ...]:
        return struct.unpack_from(f"<{layout}", self.content, place)

    def refuse(self, found: str) -> UserError:
        return UserError(
            f"{self.path}: must hold arrays as h5py writes them by default, found {found}; copy the arrays to a new "
            "file with h5py's create_dataset."
        )

    def root(self) -> int:
        version, offsets, lengths = self.content[8], self.content[13], self.content[14]
        if version > 1 or (offsets, lengths) != (8, 8):
            raise self.refuse(f"a superblock of version {version}")
        addresses = 24 + 4 * version
        if self.take("Q", addresses)[0] != 0:
            raise self.refuse("a file inside of another")
        return int(self.take("Q", addresses + 40)[0])

    def arrays(self, address: int, name: str) -> Iterator[tuple[str, npt.NDArray[Any]]]:
        messages = dict(self.messages(address))
        if _SYMBOLS in messages:
            tree, heap = self.take("QQ", messages[_SYMBOLS])
            names = self.take("Q", heap + 24)[0]
            for offset, child in self.symbols(tree):
                end = self.content.index(b"\0", names + offset)
                own = self.content[names + offset : end].decode()
                yield from self.arrays(child, f"{name}/{own}" if name else own)
        elif _LAYOUT in messages:
            yield name, self.array(messages, name)

    def messages(self, address: int) -> Iterator[tuple[int, int]]:
        """Kind and place of each message of an object header."""
        version, _, count, _, size = self.take("BBHII", address)
        if version != 1:
            raise self.refuse("object headers of another version")
        blocks = [(address + 16, size)]
        while blocks and count:
            place, left = blocks.pop(0)
            while left >= 8 and count:
                kind, length = self.take("HH", place)
                if kind == _CONTINUATION:
                    blocks.append(self.take("QQ", place + 8))
                yield kind, place + 8
                place, left, count = place + 8 + length, left - 8 - length, count - 1

    def symbols(self, node: int) -> Iterator[tuple[int, int]]:
        """Places of the names and addresses of a group's objects."""
        signature, _, level, used = self.take("4sBBH", node)
        if signature != b"TREE":
            raise ValueError("no tree of a group")
        for entry in range(used):
            child = self.take("Q", node + 32 + 16 * entry)[0]
            if level:
                yield from self.symbols(child)
                continue
            signature, _, count = self.take("4sHH", child)
            if signature != b"SNOD":
                raise ValueError("no symbols of a group")
            for number in range(count):
                yield self.take("QQ", child + 8 + 40 * number)

    def array(self, messages: dict[int, int], name: str) -> npt.NDArray[Any]:
        if _FILTERS in messages:
            raise self.refuse(f"the compressed array {name}")
        place = messages[_DATASPACE]
        version, rank = self.take("BB", place)
        shape = self.take(f"{rank}Q", place + (8 if version == 1 else 4))
        kind, order, _, _, size = self.take("BBBBI", messages[_DATATYPE])
        if kind & 15 != _FLOAT or size not in (4, 8):
            raise self.refuse(f"the array {name}, which holds no floating-point numbers of 4 or 8 bytes")
        place = messages[_LAYOUT]
        version, layout = self.take("BB", place)
        if version == 3 and layout == _CONTIGUOUS:
            start = self.take("Q", place + 2)[0]
        elif version == 3 and layout == _COMPACT:
            start = place + 4
        elif version < 3 and self.content[place + 2] == _CONTIGUOUS:
            start = self.take("Q", place + 8)[0]
        else:
            raise self.refuse(f"the array {name} in pieces")
        if start == _NOWHERE:
            raise self.refuse(f"the array {name}, which was never written")
        dtype = np.dtype(f"{'>' if order & 1 else '<'}f{size}")
        count = int(np.prod(shape, dtype=object)) if shape else 1
        return np.frombuffer(self.content, dtype, count, start).reshape(shape)
