"""Flair's embeddings against what flair 0.15.1 gave for the same random models, and files that are none."""

from __future__ import annotations

import codecs
import io
import json
import os
import shutil
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from hf_layerfusion import import_embeddings
from hf_layerfusion.embeddings import flair_files
from hf_layerfusion.errors import UserError

FIXTURES = Path(__file__).parent / "fixtures" / "flair"
FORWARD, BACKWARD = FIXTURES / "tiny-forward.pt", FIXTURES / "tiny-backward.pt"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return import_embeddings(tmp_path_factory.mktemp("flair") / "encoder", flair=(FORWARD, BACKWARD))


def test_vectors_equal_flair(folder: Path) -> None:
    expected = json.loads((FIXTURES / "expected.json").read_text())
    batch = AutoTokenizer.from_pretrained(folder)(expected["sentences"], padding=True, return_tensors="pt")
    with torch.no_grad():
        states = AutoModel.from_pretrained(folder)(**batch).last_hidden_state
    for row, (ahead, behind) in enumerate(zip(expected["forward"], expected["backward"], strict=True)):
        both = np.concatenate([ahead, behind], axis=1)
        np.testing.assert_allclose(states[row, : len(both)], both, rtol=0, atol=1e-6)
        assert not states[row, len(both) :].any()


def test_files_of_before_torch_1_6_are_read(folder: Path, tmp_path: Path) -> None:
    legacy = import_embeddings(tmp_path / "encoder", flair=(FIXTURES / "tiny-forward-legacy.pt", BACKWARD))
    expected = AutoModel.from_pretrained(folder).state_dict()
    for name, value in AutoModel.from_pretrained(legacy).state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_a_pair_is_two_texts(folder: Path) -> None:
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    with torch.no_grad():
        alone = [
            model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0] for text in ("a b c", "d e")
        ]
        pair = model(**tokenizer("a b c", "d e", return_tensors="pt")).last_hidden_state[0]
    torch.testing.assert_close(pair, torch.cat(alone), rtol=0, atol=1e-6)


def test_fine_tuning_has_the_dropout_of_flair(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(["good day"], return_tensors="pt")
    frozen = AutoModel.from_pretrained(folder, lstm_dropout=0.5).train()
    assert torch.equal(frozen(**batch).last_hidden_state, frozen(**batch).last_hidden_state)
    tuned = AutoModel.from_pretrained(folder, lstm_dropout=0.5, train_embeddings=True).train()
    assert not torch.equal(tuned(**batch).last_hidden_state, tuned(**batch).last_hidden_state)


class Hostile:
    def __init__(self, function: Any, *args: Any) -> None:
        self.function, self.args = function, args

    def __reduce__(self) -> Any:
        return self.function, self.args


@pytest.mark.parametrize("zipped", [True, False])
def test_a_hostile_file_is_refused_and_not_run(zipped: bool, tmp_path: Path) -> None:
    for function in (os.mkdir, exec, getattr):
        content = {"state_dict": Hostile(function, str(tmp_path / "made"))}
        torch.save(content, tmp_path / "bad.pt", _use_new_zipfile_serialization=zipped)
        with pytest.raises(
            UserError, match=r"bad\.pt: must hold tensors and a dictionary alone, found .*not run"
        ):
            import_embeddings(tmp_path / "out", flair=(tmp_path / "bad.pt", BACKWARD))
    assert [path.name for path in tmp_path.iterdir()] == ["bad.pt"]


def test_other_codecs_are_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": Hostile(codecs.encode, "text", "rot13")}, tmp_path / "bad.pt")
    with pytest.raises(UserError, match="the codec rot13"):
        import_embeddings(tmp_path / "out", flair=(tmp_path / "bad.pt", BACKWARD))


@pytest.mark.filterwarnings("error")
def test_a_program_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch takes an archive with constants for TorchScript, whose code no unpickler restricts."""
    shutil.copy(FORWARD, tmp_path / "bad.pt")
    with zipfile.ZipFile(tmp_path / "bad.pt", "a") as archive:
        archive.writestr(archive.namelist()[0].replace("data.pkl", "constants.pkl"), b"")
    run: list[Any] = []
    monkeypatch.setattr(torch.jit, "load", lambda *args, **options: run.append(args))
    with pytest.raises(UserError, match="found a TorchScript archive, which is not run"):
        import_embeddings(tmp_path / "out", flair=(tmp_path / "bad.pt", BACKWARD))
    assert not run


def test_damage_that_torch_asserts_against(tmp_path: Path) -> None:
    content = (FIXTURES / "tiny-forward-legacy.pt").read_bytes()
    (tmp_path / "bad.pt").write_bytes(
        content.replace(b"94178938271504", b"94178938271505", 1)
    )  # a storage's key
    with pytest.raises(
        UserError, match=r"bad\.pt: must be a language model of Flair .* found a damaged file"
    ):
        import_embeddings(tmp_path / "out", flair=(tmp_path / "bad.pt", BACKWARD))


def test_swapped_files(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"tiny-backward\.pt: must be the forward model, found a backward one"
    ):
        import_embeddings(tmp_path / "out", flair=(BACKWARD, FORWARD))
    with pytest.raises(UserError, match=r"tiny-forward\.pt: must be the backward model, found a forward one"):
        import_embeddings(tmp_path / "out", flair=(FORWARD, FORWARD))


ITEMS = torch.load(FORWARD, weights_only=False, pickle_module=flair_files.restricted_pickle())[
    "dictionary"
].idx2item
CHANGED = {
    "another dictionary": (
        {"dictionary": SimpleNamespace(idx2item=[b"<unk>", b"a"])},
        r"found 'a' in place of '\\n' as item 1;",
    ),
    "no dictionary": ({"dictionary": None}, "found no dictionary of characters"),
    "a longer dictionary": (
        {"dictionary": SimpleNamespace(idx2item=[*ITEMS, b"\xc3\x9f"])},
        f"found 'ß' in place of None as item {len(ITEMS)};",
    ),
    "no characters": (
        {"dictionary": SimpleNamespace(idx2item=[b"<unk>", b"ab"])},
        "found a dictionary without single characters",
    ),
    "no kind of network": ({"recurrent_type": None}, "must be an LSTM .* found recurrent_type=None"),
    "no direction": ({"is_forward_lm": torch.ones(2)}, r"found is_forward_lm=tensor\(\[1., 1.\]\)"),
    "dropout in words": ({"dropout": "a"}, "found dropout='a'"),
    "too much dropout": ({"dropout": 2.0}, "found dropout=2.0"),
    "no state": ({"state_dict": None}, "found no weights as state_dict"),
    "a GRU": ({"recurrent_type": "GRU"}, "must be an LSTM without a projection .* recurrent_type='GRU'"),
    "a projection": ({"nout": 8}, "must be an LSTM without a projection .* nout=8"),
    "NaN": (
        {"state_dict": {"rnn.weight_hh_l0": torch.tensor(float("nan"))}},
        "'rnn.weight_hh_l0' that are not finite",
    ),
    "no weights": ({"state_dict": {}}, "found no matrices encoder.weight and rnn.weight_hh_l0"),
    "vectors of vectors": (
        {"state_dict": {"encoder.weight": torch.ones(72), "rnn.weight_hh_l0": torch.ones(96)}},
        "found no matrices encoder.weight and rnn.weight_hh_l0",
    ),
    "a wide state": (
        {"state_dict": {"encoder.weight": torch.ones(72, 8), "rnn.weight_hh_l0": torch.ones(1, 10**6)}},
        "found Error.s. in loading",
    ),
    "fewer vectors": (
        {"state_dict": {"encoder.weight": torch.ones(3, 8), "rnn.weight_hh_l0": torch.ones(96, 24)}},
        "found 3 vectors for",
    ),
}


@pytest.mark.parametrize("case", CHANGED)
def test_content_that_does_not_fit(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes, message = CHANGED[case]
    load = torch.load

    def loaded(path: Path, **options: Any) -> Any:
        return load(path, **options) | (changes if path == BACKWARD else {})

    monkeypatch.setattr(flair_files.torch, "load", loaded)
    with pytest.raises(UserError, match=message) as error:
        import_embeddings(tmp_path / "out", flair=(FORWARD, BACKWARD))
    assert str(error.value).startswith(f"{BACKWARD}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("size", [0, 10, 1_000, 20_000])
def test_files_that_are_cut_off(size: int, tmp_path: Path) -> None:
    (tmp_path / "short.pt").write_bytes(FORWARD.read_bytes()[:size])
    with pytest.raises(UserError, match=r"short\.pt: must be a language model of Flair") as error:
        import_embeddings(tmp_path / "out", flair=(tmp_path / "short.pt", BACKWARD))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_other_pickles_of_torch(tmp_path: Path) -> None:
    for content in ({"weight": torch.ones(2)}, torch.ones(2)):
        buffer = io.BytesIO()
        torch.save(content, buffer)
        (tmp_path / "other.pt").write_bytes(buffer.getvalue())
        with pytest.raises(UserError, match="must be a language model of Flair"):
            import_embeddings(tmp_path / "out", flair=(tmp_path / "other.pt", BACKWARD))
