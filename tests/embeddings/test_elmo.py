"""ELMo against what TensorFlow's code gave for the same weights (AllenNLP's fixtures, Apache-2.0)."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from hf_layerfusion import import_embeddings
from hf_layerfusion.embeddings.elmo_files import read_hdf5
from hf_layerfusion.errors import UserError
from hf_layerfusion.modeling.modeling_elmo import word_bytes

FIXTURES = Path(__file__).parent / "fixtures" / "elmo"
FILES = (FIXTURES / "options.json", FIXTURES / "lm_weights.hdf5")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return import_embeddings(tmp_path_factory.mktemp("elmo") / "encoder", elmo=FILES)


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return AutoModel.from_pretrained(folder)


def batch_of(folder: Path, texts: list[str], *pairs: list[str]) -> Any:
    return AutoTokenizer.from_pretrained(folder)(texts, *pairs, padding=True, return_tensors="pt")


def test_top_layer_equals_tensorflow(folder: Path, model: Any) -> None:
    """Thirty sentences, three a batch, with the state carried from batch to batch, as TensorFlow's code did."""
    texts = list(zip(*json.loads((FIXTURES / "sentences.json").read_text()), strict=True))
    # Of each sentence, the directions' states apart.
    files = [read_hdf5(FIXTURES / f"lm_embeddings_{row}.hdf5") for row in range(3)]
    expected = [{name: np.concatenate(both, axis=-1) for name, both in file.items()} for file in files]
    state = None
    for number, sentences in enumerate(texts):
        batch = batch_of(folder, list(sentences))
        lengths = batch["attention_mask"].sum(dim=1)
        with torch.no_grad():
            embedded = model.embed_words(batch["char_ids"], lengths)
            layers, state = model.run_language_model(embedded, lengths, state)
        for row, length in enumerate(lengths.tolist()):
            found = layers[2][row, :length].numpy()
            # In double precision, too, TensorFlow's values are up to 1.2e-6 away: their own rounding.
            np.testing.assert_allclose(found, expected[row][str(number)], rtol=1e-6, atol=1e-6)
        if number == 0:
            with torch.no_grad():
                alone = model(**batch).last_hidden_state
            # As batches begin here: without a state.
            np.testing.assert_allclose(alone[0, : lengths[0]], expected[0]["0"], rtol=0, atol=1e-6)


def test_token_layer_equals_tensorflow(folder: Path, model: Any) -> None:
    words = (FIXTURES / "vocab_test.txt").read_text(encoding="utf-8").split("\n")
    expected = read_hdf5(FIXTURES / "elmo_token_embeddings.hdf5")["embedding"]
    words = [word for word in words if word][: len(expected)]
    batch = batch_of(folder, [" ".join(words)])
    kept = [place for place, word in enumerate(words) if word not in ("<S>", "</S>")]
    with torch.no_grad():
        found = model(**batch, output_hidden_states=True).hidden_states
    assert torch.equal(found[0], found[1])
    np.testing.assert_allclose(found[1][0, kept, :16], expected[kept], rtol=0, atol=1e-6)


def test_bytes_of_words() -> None:
    words = ["a", "grün", "☃", "😀!", "x" * 60, "é" * 30]
    points = torch.zeros(len(words), 60, dtype=torch.long)
    for row, word in enumerate(words):
        points[row, : len(word)] = torch.tensor([ord(character) for character in word])
    expected = []
    for word in words:
        content = list(word.encode())[:48]
        ids = [258, *content, 259]
        expected.append([each + 1 for each in ids + [260] * (50 - len(ids))])
    assert word_bytes(points, 50).tolist() == expected


def test_a_text_depends_on_no_other_and_a_pair_is_two_texts(folder: Path, model: Any) -> None:
    first, second = "A first text of seven words .", "Another one"
    with torch.no_grad():
        alone = [model(**batch_of(folder, [text])).last_hidden_state[0] for text in (first, second)]
        together = model(**batch_of(folder, [second, first])).last_hidden_state
        pair = model(**batch_of(folder, [first], [second])).last_hidden_state[0]
    torch.testing.assert_close(together[1], alone[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(together[0, :2], alone[1], rtol=0, atol=1e-6)
    assert not together[0, 2:].any()
    torch.testing.assert_close(pair, torch.cat(alone), rtol=0, atol=1e-6)


def test_characters_must_come_along(folder: Path, model: Any) -> None:
    with pytest.raises(
        ValueError, match=r"exactly one of `char_ids` and `inputs_embeds` .* 'elmo', found neither"
    ):
        model(input_ids=batch_of(folder, ["a text"])["input_ids"])


def options_with(**changes: Any) -> dict[str, Any]:
    options = json.loads(FILES[0].read_text())
    for name, value in changes.items():
        part, _, field = name.partition("__")
        options[part][field] = value
    return options


BAD = {
    "a smaller LSTM": (options_with(lstm__dim=32), "RNN_0/.*W_0 must be .* by .*options.json, found"),
    "more highways": (options_with(char_cnn__n_highway=3), "CNN_high_2/W_carry must be .* found none"),
    "other characters": (options_with(char_cnn__n_characters=100), "`n_characters` must be 261 or 262"),
    "no options": ({}, "must have 'lstm', as ELMo's options do"),
    "no numbers": (
        options_with(lstm__dim="wide"),
        r"`lstm\.dim` must be a whole number of 1 or more, found 'wide'",
    ),
    "no choice": (options_with(lstm__use_skip_connections="no"), "must hold ELMo's options"),
    "no filters": (options_with(char_cnn__filters=[]), r"CNN_proj/W_proj must be \[0, 16\]"),
    "fewer highways": (
        options_with(char_cnn__n_highway=1),
        "alone, found 4 more such as CNN_high_1/W_carry; name",
    ),
    "fewer layers": (
        options_with(lstm__n_layers=1),
        "alone, found 6 more such as RNN_0/.*Cell1/LSTMCell/B; name",
    ),
    "no layers": (
        options_with(lstm__n_layers=0),
        r"`lstm\.n_layers` must be a whole number of 1 or more, found 0",
    ),
    "a huge LSTM": (
        options_with(lstm__dim=10**12),
        r"W_0 must be \[32, 4000000000000\] by .*, found \[32, 256\]",
    ),
    "a negative LSTM": (
        options_with(lstm__dim=-5),
        r"`lstm\.dim` must be a whole number of 1 or more, found -5",
    ),
    "NaN": (
        options_with(lstm__cell_clip=float("nan")),
        r"`lstm\.cell_clip` must be a finite number above 0, found nan",
    ),
    "infinity": (options_with(lstm__proj_clip=float("inf")), r"`lstm\.proj_clip` must be .* found inf"),
    "no room for a word": (
        options_with(char_cnn__max_characters_per_token=1),
        r"`char_cnn\.max_characters_per_token` must be a whole number of 5 or more, found 1",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_options_that_do_not_fit(case: str, tmp_path: Path) -> None:
    options, message = BAD[case]
    (tmp_path / "options.json").write_text(json.dumps(options))
    with pytest.raises(UserError, match=message) as error:
        import_embeddings(tmp_path / "out", elmo=(tmp_path / "options.json", FILES[1]))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("values", [1.0, "text"])
def test_weights_that_are_no_arrays_of_numbers(values: Any, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    shutil.copy(FILES[1], tmp_path / "weights.hdf5")
    with h5py.File(tmp_path / "weights.hdf5", "a") as file:
        shape = () if values == 1.0 else file["char_embed"].shape
        del file["char_embed"]
        file["char_embed"] = np.full(shape, values, dtype=object if shape else None)
    with pytest.raises(UserError, match=r"weights\.hdf5: char_embed must be") as error:
        import_embeddings(tmp_path / "out", elmo=(FILES[0], tmp_path / "weights.hdf5"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("size", [0, 7, 100, 2_000, 100_000, 400_000])
def test_weights_that_are_cut_off(size: int, tmp_path: Path) -> None:
    (tmp_path / "weights.hdf5").write_bytes(FILES[1].read_bytes()[:size])
    with pytest.raises(UserError, match=r"weights\.hdf5: must be an? .*HDF5 file") as error:
        import_embeddings(tmp_path / "out", elmo=(FILES[0], tmp_path / "weights.hdf5"))
    assert "\n" not in str(error.value)


def test_without_h5py_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UserError, match=r'need h5py, found none; run `pip install "hf_layerfusion\[elmo\]"`'):
        import_embeddings(tmp_path / "out", elmo=FILES)


def test_original_model_has_its_published_size() -> None:
    from hf_layerfusion.modeling.configuration_elmo import ElmoConfig
    from hf_layerfusion.modeling.modeling_elmo import ElmoModel

    small = {"lstm_size": 1024, "projection_size": 128, "num_highway": 1}
    for settings, count in (({}, 93_600_848), (small, 13_593_296)):
        with torch.device("meta"):
            model = ElmoModel(ElmoConfig(**settings))
        # The row of padding words is not in the published files.
        assert sum(parameter.numel() for parameter in model.parameters()) - 16 in (count, count - 16)
