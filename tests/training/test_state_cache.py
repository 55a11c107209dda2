from __future__ import annotations

import logging
import pickle
import resource
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hf_layerfusion.errors import UserError
from hf_layerfusion.training.state_cache import ENCODER_INPUTS, StateCache, text_key

LENGTHS = [3, 1, 5, 2]
KEYS = [text_key({"input_ids": [number]}) for number in range(4)]
STATES = [torch.randn(2, length, 8, generator=torch.Generator().manual_seed(length)) for length in LENGTHS]


def cache(folder: Path, encoder: str = "one", dtype: torch.dtype = torch.float32) -> StateCache:
    return StateCache(folder, {"encoder": encoder}, num_layers=2, width=8, dtype=dtype)


def filled(folder: Path) -> StateCache:
    """A cache that holds all of `STATES`."""
    written = cache(folder)
    written.check_room(sum(LENGTHS))
    written.write(KEYS, LENGTHS, iter(STATES))
    return written


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    """What the package logs; by itself it hands nothing on."""
    monkeypatch.setattr(logging.getLogger("hf_layerfusion"), "propagate", True)
    return caplog


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_is_written_is_found_again(tmp_path: Path, dtype: torch.dtype) -> None:
    written = cache(tmp_path, dtype=dtype)
    written.check_room(sum(LENGTHS))
    written.write(KEYS[:3], LENGTHS[:3], iter(STATES[:3]))
    written.write(KEYS[3:], LENGTHS[3:], iter(STATES[3:]))
    for found in (written, cache(tmp_path, dtype=dtype), pickle.loads(pickle.dumps(written))):
        assert len(found) == 4
        for key, states in zip(KEYS, STATES, strict=True):
            assert torch.equal(found[key], states.to(dtype))
    assert len(cache(tmp_path, "another", dtype)) == 0


def test_the_key_is_of_all_that_the_encoder_sees() -> None:
    plain = {"input_ids": [5, 6, 7], "attention_mask": [1, 1, 1], "token_type_ids": [0, 0, 1]}
    others = [
        {"input_ids": [5, 6, 8]},
        {"attention_mask": [1, 1, 0]},
        {"token_type_ids": [0, 1, 1]},
        {"input_ids": [5, 6], "attention_mask": [1, 1], "token_type_ids": [0, 0]},
    ]
    keys = {text_key(plain), *(text_key(plain | other) for other in others)}
    assert len(keys) == 5
    assert text_key({name: torch.tensor(value) for name, value in plain.items()}) == text_key(plain)
    assert text_key(plain | {"labels": 3, "text": "word"}) == text_key(plain)


def test_the_key_is_of_characters_too_where_the_encoder_reads_them() -> None:
    inputs = (*ENCODER_INPUTS, "char_ids")
    keys = set()
    for characters in ([[1, 2], [3]], [[1], [2, 3]], [[1, 2], [4]]):
        row = {"input_ids": [1, 1], "attention_mask": [1, 1], "char_ids": characters}
        keys.add(text_key(row, inputs))
        # Words are padded to the longest of whatever batch they come in.
        padded = [[*word, 0, 0] for word in characters]
        for same in (
            padded,
            np.array([[*word, 0, 0][:3] for word in padded]),
            [np.array(w) for w in characters],
        ):
            assert text_key(row | {"char_ids": same}, inputs) == text_key(row, inputs)
    assert len(keys) == 3


def test_an_interrupted_write_leaves_nothing_that_is_believed(tmp_path: Path) -> None:
    def interrupted() -> Iterator[torch.Tensor]:
        yield STATES[0]
        raise KeyboardInterrupt

    begun = cache(tmp_path)
    begun.check_room(1)
    with pytest.raises(KeyboardInterrupt):
        begun.write(KEYS, LENGTHS, interrupted())
    assert not [path for path in begun.folder.iterdir() if path.suffix != ".json"]
    assert len(cache(tmp_path)) == 0


@pytest.mark.parametrize("damage", ["no index", "index half written", "index corrupt", "states cut"])
def test_what_a_killed_process_leaves_is_not_believed(tmp_path: Path, damage: str) -> None:
    written = filled(tmp_path)
    (data,) = written.folder.glob("*.states")
    (index,) = written.folder.glob("*.index.safetensors")
    if damage == "no index":
        index.unlink()
    elif damage == "index half written":
        index.rename(f"{index}.partial")
    elif damage == "index corrupt":
        index.write_bytes(index.read_bytes()[:20])
    else:
        data.write_bytes(data.read_bytes()[:-4])
    assert len(cache(tmp_path)) == 0
    again = cache(tmp_path)
    again.write(KEYS, LENGTHS, iter(STATES))
    assert len(cache(tmp_path)) == 4
    assert torch.equal(cache(tmp_path)[KEYS[2]], STATES[2])


def flips(path: Path) -> Iterator[int]:
    """Flips a bit of each byte of a file in turn; puts the content back afterwards."""
    content = path.read_bytes()
    for position in range(len(content)):
        changed = bytearray(content)
        changed[position] ^= 1 << position % 8
        path.write_bytes(changed)
        yield position
    path.write_bytes(content)


@pytest.mark.parametrize("pattern", ["*.states", "*.index.safetensors"])
def test_a_flipped_bit_anywhere_is_found(
    tmp_path: Path, pattern: str, warnings: pytest.LogCaptureFixture
) -> None:
    written = filled(tmp_path)
    (path,) = written.folder.glob(pattern)
    for position in flips(path):
        warnings.clear()
        found = cache(tmp_path)
        missing = found.missing(KEYS)
        assert missing or path.suffix == ".safetensors", position
        for key, states in zip(KEYS, STATES, strict=True):
            assert key in missing or torch.equal(found[key], states), position
        if missing and path.suffix == ".states":
            assert len(missing) == 1 and "have changed since they were written" in warnings.text
    assert not cache(tmp_path).missing(KEYS)


def test_damaged_states_are_computed_anew_and_the_new_ones_found(
    tmp_path: Path, warnings: pytest.LogCaptureFixture
) -> None:
    written = filled(tmp_path)
    (data,) = written.folder.glob("*.states")
    content = bytearray(data.read_bytes())
    content[3] ^= 1
    data.write_bytes(content)
    found = cache(tmp_path)
    assert found.missing(KEYS) == {KEYS[0]}
    with pytest.raises(KeyError):
        found[KEYS[0]]
    assert warnings.text.count("computed anew") == 1
    found.write(KEYS[:1], LENGTHS[:1], iter(STATES[:1]))
    for again in (found, cache(tmp_path), pickle.loads(pickle.dumps(cache(tmp_path)))):
        assert not again.missing(KEYS)
        assert torch.equal(again[KEYS[0]], STATES[0])


def test_an_index_without_checksums_is_passed_over(
    tmp_path: Path, warnings: pytest.LogCaptureFixture
) -> None:
    written = filled(tmp_path)
    (index,) = written.folder.glob("*.index.safetensors")
    stored = load_file(index)
    save_file({name: stored[name] for name in ("keys", "lengths")}, index)
    assert len(cache(tmp_path)) == 0
    assert "must hold keys, lengths, checksums, found keys, lengths" in warnings.text


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (
            1e6,
            r"found values too large for torch\.float16; use another precision, such as bfloat16",
        ),
        (float("nan"), r"found NaN or infinity; the encoder itself"),
    ],
)
def test_states_that_are_not_finite_are_refused(tmp_path: Path, value: float, named: str) -> None:
    filling = cache(tmp_path, dtype=torch.float16)
    filling.check_room(1)
    with pytest.raises(UserError, match=named):
        filling.write(KEYS[:1], [1], iter([torch.full((2, 1, 8), value)]))
    assert not [path for path in filling.folder.iterdir() if path.suffix != ".json"]


def test_threads_that_fill_one_cache_find_all_of_it(tmp_path: Path) -> None:
    caches = [cache(tmp_path) for _ in range(4)]
    caches[0].check_room(1)
    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(each.write, KEYS, LENGTHS, iter(STATES)) for each in caches]:
            future.result()
    for found in (*caches, cache(tmp_path)):
        found.refresh()
        assert not found.missing(KEYS)
        assert all(torch.equal(found[key], states) for key, states in zip(KEYS, STATES, strict=True))


def test_a_disk_that_fills_up_is_told_with_the_size_needed(tmp_path: Path) -> None:
    filling = cache(tmp_path)
    filling.check_room(1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    big = torch.zeros(2, 4096, 8)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(UserError, match=r"could not be written: .*; make room for 0\.262 MB"):
            filling.write(KEYS[:1], [4096], iter([big]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not [path for path in filling.folder.iterdir() if path.suffix != ".json"]


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be made"):
        cache(tmp_path / "file").check_room(1)
