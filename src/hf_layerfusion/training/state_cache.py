"""States of an encoder on disk, memory-mapped: written once, whole or not at all, and found by their text."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hf_layerfusion.errors import UserError

ENCODER_INPUTS = ("input_ids", "token_type_ids", "attention_mask")
"""What an encoder is given of a text."""

DESCRIPTION_NAME = "states.json"
_DATA, _INDEX = ".states", ".index.safetensors"


def text_key(row: Mapping[str, Any]) -> bytes:
    """16 bytes that stand for an encoded text: for all that the encoder is given of it, padding included."""
    digest = blake2b(digest_size=16)
    for name in ENCODER_INPUTS:
        if name in row:
            digest.update(name.encode() + np.asarray(row[name], dtype=np.int64).tobytes())
    return digest.digest()


def weights_digest(module: nn.Module) -> str:
    """The sha256 of a module's weights and their names."""
    digest = sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


class _Text(NamedTuple):
    shard: int
    start: int
    tokens: int


class StateCache:
    """The states of texts, `[R, T, H]` each, in a folder that is theirs.

    A shard is a file of states, text after text, and an index of keys and lengths, which is written last: what a killed
    run left without an index, or with one that does not fit the states, is not taken for a shard.

    Args:
        folder: where the folder of these states stands, or will.
        description: all that the states depend on beside the text; as JSON, it names the folder and lies in it.
        num_layers: number R of layers.
        width: H.
        dtype: of the values on disk.
    """

    def __init__(
        self,
        folder: str | Path,
        description: Mapping[str, Any],
        num_layers: int,
        width: int,
        dtype: torch.dtype,
    ) -> None:
        self.description = json.dumps({**description, "dtype": str(dtype)}, indent=1, sort_keys=True)
        self.folder = Path(folder) / sha256(self.description.encode()).hexdigest()[:32]
        self.num_layers, self.width, self.dtype = num_layers, width, dtype
        self._files: list[Path] = []
        self._texts: dict[bytes, _Text] = {}
        self._shards: list[Tensor] | None = None
        self.refresh()

    def __len__(self) -> int:
        return len(self._texts)

    def __contains__(self, key: bytes) -> bool:
        return key in self._texts

    def __getitem__(self, key: bytes) -> Tensor:
        """The states `[R, T, H]` of a text, mapped from disk; not to be written to."""
        text = self._texts[key]
        if self._shards is None:
            self._shards = [
                torch.from_file(str(path), size=path.stat().st_size // self.dtype.itemsize, dtype=self.dtype)
                for path in self._files
            ]
        size = self.num_layers * self.width
        values = self._shards[text.shard][text.start * size : (text.start + text.tokens) * size]
        return values.view(self.num_layers, text.tokens, self.width)

    def __getstate__(self) -> dict[str, Any]:
        # A data loader's process maps the files itself.
        return {**self.__dict__, "_shards": None}

    def refresh(self) -> None:
        """Takes up the shards that were written since."""
        for index in sorted(self.folder.glob(f"*{_INDEX}")):
            data = index.with_name(index.name.removesuffix(_INDEX) + _DATA)
            if data in self._files or not data.is_file():
                continue
            try:
                found = load_file(index)
            except SafetensorError:
                continue
            lengths = found["lengths"]
            if data.stat().st_size != self.bytes_of(int(lengths.sum())):
                continue
            ends = lengths.cumsum(0).tolist()
            for key, end, tokens in zip(found["keys"].numpy(), ends, lengths.tolist(), strict=True):
                self._texts.setdefault(key.tobytes(), _Text(len(self._files), end - tokens, tokens))
            self._files.append(data)
            self._shards = None

    def bytes_of(self, tokens: int) -> int:
        """Size on disk of the states of so many tokens."""
        return tokens * self.num_layers * self.width * self.dtype.itemsize

    def check_room(self, tokens: int) -> None:
        """Checks that the disk has room, and makes the folder. To be called before `write`.

        Raises:
            UserError: the disk has no room for the states of so many tokens, or cannot be written to.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self.folder).free
        except OSError as error:
            raise UserError(
                f"cache_frozen_states={self.folder.parent}: cannot be made: {error.strerror}; name another folder"
            ) from error
        if free < self.bytes_of(tokens):
            raise UserError(
                f"cache_frozen_states={self.folder.parent}: the states need {gigabytes(self.bytes_of(tokens))}, found "
                f"{gigabytes(free)} free; make room, name a folder on another disk or leave the option out"
            )

    def write(self, keys: Sequence[bytes], lengths: Sequence[int], states: Iterable[Tensor]) -> None:
        """Adds a shard.

        Args:
            keys: of the texts.
            lengths: number T of tokens of each.
            states: of each text `[R, T, H]`, in the same order; computed as they are written.

        Raises:
            UserError: the file cannot be written.
        """
        if not keys:
            return
        data = self.folder / f"{uuid.uuid4().hex}{_DATA}"
        index = data.with_name(data.name.removesuffix(_DATA) + _INDEX)
        partial = index.with_name(f"{index.name}.partial")
        try:
            (self.folder / DESCRIPTION_NAME).write_text(self.description + "\n", encoding="utf-8")
            with data.open("wb") as file:
                for each in states:
                    file.write(each.to(self.dtype).contiguous().view(torch.uint8).numpy().data)
                file.flush()
                os.fsync(file.fileno())
            found = {
                "keys": torch.from_numpy(np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 16).copy()),
                "lengths": torch.tensor(lengths),
            }
            save_file(found, partial)
            partial.replace(index)
        except BaseException as error:
            for path in (data, partial):
                path.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise UserError(
                    f"cache_frozen_states={self.folder.parent}: the states could not be written: {error.strerror}; "
                    f"make room for {gigabytes(self.bytes_of(sum(lengths)))} or leave the option out"
                ) from error
            raise
        self.refresh()


def gigabytes(size: int) -> str:
    """A size in words."""
    return f"{size / 1e9:.2f} GB" if size >= 1e7 else f"{size / 1e6:.3f} MB"
