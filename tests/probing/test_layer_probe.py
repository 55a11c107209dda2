from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, IterableDataset
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import AutoConfig, AutoModel, AutoTokenizer

from hf_layerfusion.errors import UserError
from hf_layerfusion.evaluation import linear_probe
from hf_layerfusion.evaluation.significance import UNDEFINED
from hf_layerfusion.probing import (
    LayerProbe,
    ProbeScore,
    layer_probe,
    layer_probes,
    plot_gains,
    plot_layer_probe,
)
from hf_layerfusion.probing.scores import SCORES, bootstrap_scores
from hf_layerfusion.storage import write_json
from tests.tiny import VOCABULARY, tiny_config, tiny_texts, tiny_tokenizer


def texts(size: int, seed: int) -> Dataset:
    found, labels = zip(*tiny_texts(size, seed), strict=True)
    return Dataset.from_dict({"text": list(found), "label": list(labels)})


@pytest.fixture(scope="module")
def data() -> dict[str, Dataset]:
    return {"train": texts(96, 0), "test": texts(64, 1)}


def states(encoder: str, split: Dataset, pooling: str) -> np.ndarray:
    """A vector of layers 1 to 4, `[N, 4, H]`, each text by itself."""
    tokenizer, model = tiny_tokenizer(), AutoModel.from_pretrained(encoder).eval()
    with torch.no_grad():
        rows = [
            torch.stack(
                model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states[1:]
            )
            for text in split["text"]
        ]
    return np.stack([(row[:, 0].mean(dim=1) if pooling == "mean" else row[:, 0, 0]).numpy() for row in rows])


def test_scores_are_those_of_scikit_learn_on_plain_arrays(
    tiny_encoder_dir: str, data: dict[str, Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear_probe, "STRENGTHS", (10.0,))
    probe = layer_probe(tiny_encoder_dir, data, cache_dir=tmp_path)
    train, test = (states(tiny_encoder_dir, data[name], probe.last.pooling) for name in ("train", "test"))
    y, expected = data["train"]["label"], []
    for layers in ([0], [1], [2], [3], [0, 1, 2, 3]):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1))
        model.fit(train[:, layers].reshape(96, -1), y)
        expected.append(model.score(test[:, layers].reshape(64, -1), data["test"]["label"]))
    found = [each.score for each in [*probe.layers, probe.all]]
    np.testing.assert_allclose(found, expected, atol=1.5 / 64)  # half precision may turn a text
    assert probe.last is probe.layers[3]
    assert probe.gain.difference == pytest.approx(probe.all.score - probe.last.score)
    assert all(each.low <= each.score <= each.high for each in probe.layers)


def test_a_planted_layer_wins(tmp_path: Path) -> None:
    """The second of three layers alone says the label: the third sets every state to one value."""
    torch.manual_seed(0)
    model = AutoModel.from_config(tiny_config("bert", 3))
    with torch.no_grad():
        last = model.encoder.layer[2].output.LayerNorm
        last.weight.zero_()
        last.bias.zero_()
        last.weight[0] = 1e-3  # a remainder, so that the last layer varies
    folder = tmp_path / "encoder"
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    probe = layer_probe(
        str(folder), {"train": texts(160, 0), "test": texts(200, 1)}, cache_dir=tmp_path / "states"
    )
    assert probe.best.layers[0] < 3
    assert probe.gain.low > 0
    assert probe.advice.startswith("All layers beat the last one by")
    assert probe.advice.endswith("fuse them.")


def test_a_second_call_runs_no_encoder_and_fits_nothing(
    tiny_encoder_dir: str, data: dict[str, Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = layer_probe(tiny_encoder_dir, data, cache_dir=tmp_path)
    monkeypatch.setattr("torch.nn.Linear.forward", None)
    monkeypatch.setattr("sklearn.linear_model.LogisticRegression.fit", None)
    assert layer_probe(tiny_encoder_dir, data, cache_dir=tmp_path) == first


def test_a_damaged_probe_is_fitted_anew(
    tiny_encoder_dir: str, data: dict[str, Dataset], tmp_path: Path
) -> None:
    first = layer_probe(tiny_encoder_dir, data, cache_dir=tmp_path)
    kept = sorted((tmp_path / "probes").glob("*.safetensors"))
    assert len(kept) == 6  # both vectors of the last layer, three other layers, all layers
    for path in kept:
        content = bytearray(path.read_bytes())
        content[-10] ^= 64
        path.write_bytes(content)
    assert layer_probe(tiny_encoder_dir, data, cache_dir=tmp_path) == first


def test_pairs_are_read_jointly_and_apart(tiny_encoder_dir: str, tmp_path: Path) -> None:
    """Equality of two texts shows in |u - v|, but not in one pass of a random encoder over both."""
    words = [text for text, _ in tiny_texts(160, 3)]
    labels = np.arange(160) % 2
    second = [
        first if label else words[(row + 7) % 160]
        for row, (first, label) in enumerate(zip(words, labels, strict=True))
    ]
    pairs = Dataset.from_dict({"a": words, "b": second, "label": labels.tolist()})
    probe = layer_probe(tiny_encoder_dir, pairs, text_columns=("a", "b"), cache_dir=tmp_path)
    assert probe.all.reading == "read apart"
    assert probe.all.score > 0.9
    assert probe.num_train == probe.num_test == 160


def test_values_are_measured_by_correlation(
    tiny_encoder_dir: str, data: dict[str, Dataset], tmp_path: Path
) -> None:
    valued = {
        name: split.map(
            lambda row: {"value": 2.5 * (row["label"] == data["train"]["label"][0]) + 0.5},
            remove_columns="label",
        )
        for name, split in data.items()
    }
    probe = layer_probe(tiny_encoder_dir, valued, label_column="value", cache_dir=tmp_path)
    assert probe.metric == "pearson"
    assert 0 < probe.all.score <= 1


def test_several_encoders_and_data_sets_in_one_call(
    tiny_encoder_dir: str, data: dict[str, Dataset], tmp_path: Path
) -> None:
    found = layer_probes([tiny_encoder_dir, tiny_encoder_dir], {"one": data, "two": data}, cache_dir=tmp_path)
    assert [probe.data for probe in found] == ["one", "one", "two", "two"]
    plot_layer_probe(found, tmp_path / "layers.png")
    plot_gains(found, tmp_path / "gains.png")
    assert (tmp_path / "gains.png").stat().st_size > 5_000
    assert [LayerProbe.from_dict(json.loads(json.dumps(each.to_dict()))) for each in found] == found
    assert (tmp_path / "layers.png").stat().st_size > 10_000


def values(split: Dataset, value: float | None = None) -> Dataset:
    """The texts with floats as labels: their numbers, or one value for all."""
    labels = [float(row) if value is None else value for row in range(len(split))]
    return split.remove_columns("label").add_column("label", labels)


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        (
            lambda d: d | {"train": d["train"].filter(lambda row: row["label"] == d["train"]["label"][0])},
            {},
            "is no class of the",
        ),
        (lambda d: {"train": d["train"].map(lambda row: {"label": 1})}, {}, "two classes or more, found"),
        (lambda d: d["train"].select(range(5)), {}, "need 5 rows of each class or more, found"),
        (
            lambda d: {"train": IterableDataset.from_generator(lambda: iter([]))},
            {},
            "load it without streaming",
        ),
        (lambda d: IterableDataset.from_generator(lambda: iter([])), {}, "load it without streaming"),
        (lambda d: d["train"].to_list(), {}, "a datasets.Dataset or splits by name, found list"),
        (lambda d: d, {"text_columns": ("tweet",)}, "must have the columns tweet"),
        (lambda d: d, {"metric": "pearson"}, "must be one of accuracy, macro_f1"),
        (lambda d: d, {"max_length": 1000}, "must be a whole number between 3, .* and 64"),
        (lambda d: d, {"max_length": 2}, "must be a whole number between 3, .* and 64"),
        (lambda d: d, {"batch_size": 0}, "batch_size must be a whole number of 1 or more, found 0"),
        (lambda d: d, {"seed": -1}, "seed must be a whole number between 0"),
        (lambda d: d, {"text_columns": ("text",) * 3}, "one column, or two for pairs"),
        (lambda d: {**d, "train": values(d["train"]), "test": values(d["test"], 1.0)}, {}, "must differ"),
        (
            lambda d: {**d, "train": values(d["train"]), "test": values(d["test"], np.nan)},
            {},
            "label is missing",
        ),
        (lambda d: {"test": d["test"]}, {}, "must hold a split 'train'"),
    ],
)
def test_refusals(
    tiny_encoder_dir: str,
    data: dict[str, Dataset],
    tmp_path: Path,
    change: Any,
    settings: dict[str, Any],
    message: str,
) -> None:
    with pytest.raises(UserError, match=message):
        layer_probe(tiny_encoder_dir, change(dict(data)), cache_dir=tmp_path, **settings)


def test_texts_are_cut_off_at_the_positions_that_roberta_counts_from_padding(
    data: dict[str, Dataset], tmp_path: Path
) -> None:
    AutoModel.from_config(tiny_config("roberta", 2)).save_pretrained(tmp_path / "encoder")
    tiny_tokenizer().save_pretrained(tmp_path / "encoder")
    long = data["train"].map(lambda row: {"text": " ".join([row["text"]] * 20)})
    probe = layer_probe(tmp_path / "encoder", {**data, "train": long}, cache_dir=tmp_path / "states")
    assert "are cut off" in probe.notes[0]


def test_an_encoder_with_one_layer_is_refused(data: dict[str, Dataset], tmp_path: Path) -> None:
    AutoModel.from_config(tiny_config("bert", 1)).save_pretrained(tmp_path / "encoder")
    tiny_tokenizer().save_pretrained(tmp_path / "encoder")
    with pytest.raises(UserError, match="two layers or more"):
        layer_probe(str(tmp_path / "encoder"), data, cache_dir=tmp_path)


def test_states_that_are_not_numbers_are_refused(
    data: dict[str, Dataset], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = AutoModel.from_config(tiny_config("bert", 2))
    torch.nn.init.constant_(model.encoder.layer[0].output.dense.bias, torch.nan)
    model.save_pretrained(tmp_path / "encoder")
    tiny_tokenizer().save_pretrained(tmp_path / "encoder")
    with pytest.raises(UserError, match=r"found NaN or infinity; the encoder itself gives them") as error:
        layer_probe(str(tmp_path / "encoder"), data, cache_dir=tmp_path / "states")
    assert "\n" not in str(error.value)
    assert capsys.readouterr().err.endswith("\n")  # the progress bar has ended its line


def test_a_probe_of_undefined_scores_is_read_back(data: dict[str, Dataset], tmp_path: Path) -> None:
    score = ProbeScore((1,), "mean", "", math.nan, math.nan, math.nan, -1.0, 1.0)
    probe = LayerProbe("encoder", "data", "pearson", 9, 9, [score], score, score, score, UNDEFINED)
    write_json(tmp_path / "probe.json", probe.to_dict())
    read = LayerProbe.from_dict(json.loads((tmp_path / "probe.json").read_text()))
    assert repr(read) == repr(probe)


def test_scores_by_counts_are_scikit_learns_on_repeated_rows() -> None:
    from scipy.stats import pearsonr
    from sklearn.metrics import accuracy_score, f1_score

    generator = np.random.default_rng(0)
    targets, guesses = generator.integers(3, size=(2, 40))
    counts = generator.integers(4, size=(5, 40)).astype(float)
    for row in counts:
        y, x = (np.repeat(values, row.astype(int)) for values in (targets, guesses))
        once = row[None]
        assert SCORES["accuracy"](guesses, targets, once)[0] == pytest.approx(accuracy_score(y, x))
        assert SCORES["macro_f1"](guesses, targets, once)[0] == pytest.approx(f1_score(y, x, average="macro"))
        assert SCORES["pearson"](guesses.astype(float), targets.astype(float), once)[0] == pytest.approx(
            pearsonr(x, y)[0]
        )
    draws = bootstrap_scores(SCORES["accuracy"], [guesses, targets], targets, num_draws=500)
    assert draws[1].min() == 1
    assert draws[0].std() == pytest.approx(np.std(guesses == targets) / 40**0.5, rel=0.2)


def test_causal_encoders_are_read_at_their_last_token(tmp_path: Path, data: dict[str, Dataset]) -> None:
    config = AutoConfig.for_model(
        "gpt2", n_embd=32, n_layer=3, n_head=4, n_positions=64, vocab_size=len(VOCABULARY), pad_token_id=0
    )
    AutoModel.from_config(config).save_pretrained(tmp_path / "encoder")
    tiny_tokenizer().save_pretrained(tmp_path / "encoder")
    probe = layer_probe(str(tmp_path / "encoder"), data, cache_dir=tmp_path / "states")
    assert {each.pooling for each in probe.layers} <= {"last", "mean"}
    assert len(probe.layers) == 3


def test_a_tokenizer_that_pads_on_the_left_changes_nothing(
    tiny_encoder_dir: str, data: dict[str, Dataset], tmp_path: Path
) -> None:
    right = layer_probe(tiny_encoder_dir, data, cache_dir=tmp_path / "right")
    left = tmp_path / "encoder"
    shutil.copytree(tiny_encoder_dir, left)
    AutoTokenizer.from_pretrained(tiny_encoder_dir, padding_side="left").save_pretrained(left)
    found = layer_probe(left, data, cache_dir=tmp_path / "left")
    assert dataclasses.replace(found, encoder=right.encoder) == right
