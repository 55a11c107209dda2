"""The upload part of the Xet protocol: xorbs of chunks in, files out."""

from __future__ import annotations

import struct
from collections.abc import Iterator

_ENTRY = 48  # bytes of every header and entry of a shard
_END = b"\xff" * 32
_HAS_VERIFICATION, _HAS_SHA256 = 1 << 31, 1 << 30


class ContentStore:
    """Store of uploads: chunks by the hash of their xorb, and files by their sha256."""

    def __init__(self) -> None:
        self.xorbs: dict[str, list[bytes]] = {}

    def add_xorb(self, name: str, content: bytes) -> None:
        self.xorbs[name] = list(_chunks(content))

    def files_of(self, shard: bytes) -> dict[str, bytes]:
        """The files that a shard describes, by sha256, put together from the xorbs that came before it."""
        files, at = {}, _ENTRY  # behind the shard's own header
        while shard[at : at + 32] != _END:
            flags, count = struct.unpack_from("<II", shard, at + 32)
            at += _ENTRY
            parts = []
            for _ in range(count):
                first, last = struct.unpack_from("<II", shard, at + 40)
                parts += self.xorbs[hash_name(shard[at : at + 32])][first:last]
                at += _ENTRY
            at += _ENTRY * count * bool(flags & _HAS_VERIFICATION)
            if not flags & _HAS_SHA256:
                raise ValueError("a shard without the files' sha256")
            # As a hash of Xet, in four little-endian words; the Hub names it by its plain digits.
            files[hash_name(shard[at : at + 32])] = b"".join(parts)
            at += _ENTRY
        return files


def hash_name(digest: bytes) -> str:
    """Return a hash as the protocol writes it: four little-endian words of 64 bits, in hexadecimal digits."""
    return "".join(f"{word:016x}" for word in struct.unpack("<4Q", digest))


def _chunks(content: bytes) -> Iterator[bytes]:
    at = 0
    while at + 8 <= len(content):
        if content[at : at + 7] == b"XETBLOB":  # the footer that older clients add
            return
        packed = int.from_bytes(content[at + 1 : at + 4], "little")
        scheme = content[at + 4]
        size = int.from_bytes(content[at + 5 : at + 8], "little")
        body = content[at + 8 : at + 8 + packed]
        at += 8 + packed
        data = body if scheme == 0 else _lz4_frame(body)
        if scheme == 2:
            data = _ungrouped(data)
        if len(data) != size:
            raise ValueError(f"a chunk of {len(data)} bytes in place of {size}")
        yield data


def _ungrouped(data: bytes) -> bytes:
    """Bytes that were sorted by their place in a word of four, back in their order."""
    found, at = bytearray(len(data)), 0
    for place in range(4):
        count = len(range(place, len(data), 4))
        found[place::4] = data[at : at + count]
        at += count
    return bytes(found)


def _lz4_frame(frame: bytes) -> bytes:
    flags = frame[4]
    at = 7 + 8 * bool(flags & 8) + 4 * bool(flags & 1)
    found = bytearray()
    while size := int.from_bytes(frame[at : at + 4], "little"):
        block = frame[at + 4 : at + 4 + (size & 0x7FFFFFFF)]
        at += 4 + len(block) + 4 * bool(flags & 16)
        if size >> 31:
            found += block
        else:
            _lz4_block(block, found)
    return bytes(found)


def _lz4_block(block: bytes, found: bytearray) -> None:
    """Adds what a block holds to `found`, which its matches may reach back into."""
    at = 0

    def length(start: int) -> int:
        nonlocal at
        total = start
        while start == 15:
            total += block[at]
            at += 1
            if block[at - 1] != 255:
                break
        return total

    while at < len(block):
        token = block[at]
        at += 1
        literals = length(token >> 4)
        found += block[at : at + literals]
        at += literals
        if at >= len(block):
            return
        offset = int.from_bytes(block[at : at + 2], "little")
        at += 2
        match = length(token & 15) + 4
        begin = len(found) - offset
        if offset >= match:
            found += found[begin : begin + match]
        else:
            piece = found[begin:]
            found += (piece * (match // offset + 1))[:match]
