"""Reading of UTF-8 text files, as a whole or in blocks; other encodings are refused."""

import codecs
from collections.abc import Iterator
from pathlib import Path

from hf_layerfusion.errors import UserError, one_line

BLOCK_BYTES = 1 << 20


def utf8_blocks(path: Path, block_bytes: int = BLOCK_BYTES) -> Iterator[str]:
    """Yield the text of a file in blocks, of which only one is held in memory at a time.

    The file must be UTF-8, with or without a byte order mark, free of NUL and not blank.

    Args:
        path: The file.
        block_bytes: Size of a block.

    Raises:
        UserError: If it is not, with line and offset (in bytes, from 0).
    """
    decode = codecs.getincrementaldecoder("utf-8")().decode
    offset, line, is_first, is_blank = 0, 1, True, True
    with path.open("rb") as file:
        raw = file.read(block_bytes)
        while True:
            try:
                text = decode(raw, not raw)
            except UnicodeDecodeError as error:
                # `object` starts with the bytes of a character that began in the previous block.
                start = offset + len(raw) - len(error.object) + error.start
                line += error.object.count(b"\n", 0, error.start)
                raise UserError(
                    f"{path}: line {line}: byte 0x{error.object[error.start]:02x} at offset {start} is not "
                    "UTF-8; save the file as UTF-8"
                ) from error
            nul = raw.find(b"\0")
            if nul >= 0:
                line += raw.count(b"\n", 0, nul)
                raise UserError(
                    f"{path}: line {line}: NUL byte at offset {offset + nul}; delete it, or save the file as UTF-8 "
                    "if it is UTF-16"
                )
            if not raw:
                break
            if text and is_first:
                text, is_first = text.removeprefix("\ufeff"), False
            is_blank = is_blank and not text.strip()
            offset += len(raw)
            line += raw.count(b"\n")
            yield text
            raw = file.read(block_bytes)
    if is_blank:
        raise empty_file(path)


def utf8_lines(path: Path, block_bytes: int = BLOCK_BYTES) -> Iterator[str]:
    """Yield the lines of a file with their line ends; lines end at LF only.

    Raises:
        UserError: In the same cases as `utf8_blocks`.
    """
    rest = ""
    for block in utf8_blocks(path, block_bytes):
        *lines, rest = (rest + block).split("\n")
        yield from (f"{line}\n" for line in lines)
    if rest:
        yield rest


def read_utf8(path: Path) -> str:
    """Return the whole text of a file.

    Raises:
        UserError: In the same cases as `utf8_blocks`.
    """
    return "".join(utf8_blocks(path))


def split_lines(text: str) -> list[str]:
    """Return the lines of a text that is not blank, up to the last non-blank one; lines end at LF or CR LF only."""
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    while not lines[-1].strip():
        lines.pop()
    return lines


def empty_file(path: Path) -> UserError:
    """Return the error for a file without content."""
    return UserError(f"{path}: the file is empty; give one with at least one example")


def unreadable_file(path: Path, error: OSError) -> UserError:
    """Return the error for a file that the operating system does not let us read."""
    return UserError(f"{path}: cannot be read ({error.strerror or one_line(error)}); check the path")
