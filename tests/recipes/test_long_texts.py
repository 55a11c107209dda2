"""Tests of runs that read long texts in windows."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizer, pipeline

from hf_layerfusion.errors import UserError
from hf_layerfusion.recipes.model_setup import window_affixes
from hf_layerfusion.recipes.training_run import classify
from reproduction.run_recipes import RUN_RECIPES
from tests.examples.command_line import parse
from tests.tiny import tiny_texts, tiny_tokenizer, write_csv

WINDOWS = ("window_size", "window_overlap", "window_pooling")
TWEETS = RUN_RECIPES["tweets"].arguments


@pytest.mark.usefixtures("drawn_figures")
def test_training_prediction_and_pipeline_read_the_whole_text(tiny_encoder_dir: Path, tmp_path: Path) -> None:
    """The words that tell the classes apart stand behind the encoder's 64 positions."""
    for name, size in {"train": 16, "validation": 8, "test": 8}.items():
        texts = [("a day at home " * 20 + text, label) for text, label in tiny_texts(size, size)]
        write_csv(tmp_path / f"{name}.csv", texts)
    files = {f"{name}_file": tmp_path / f"{name}.csv" for name in ("train", "validation", "test")}
    options = {
        "model_name_or_path": tiny_encoder_dir,
        **files,
        "output_dir": tmp_path / "run",
        "use_cpu": True,
        "architecture": "layer_pooling",
        "pooling": "mean",
        "token_pooling": "mean",
        "window_size": 32,
        "window_overlap": 4,
        "window_pooling": "max",
        "max_seq_length": 100,
        "num_train_epochs": 1,
        "learning_rate": 5e-3,
        "preprocessing": "light",
    }
    results = classify(*parse(TWEETS, options))
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (stored["window_size"], stored["window_pooling"], stored["window_affixes"]) == (32, "max", [1, 1])
    with (tmp_path / "run" / "run" / "predictions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len({row["score"] for row in rows}) == len(rows)  # their first 64 tokens are the same
    answers = pipeline("text-classification", model=str(tmp_path / "run"), device="cpu")(
        [row["text"] for row in rows]
    )
    assert [answer["label"] for answer in answers] == [row["label"] for row in rows]
    assert [answer["score"] for answer in answers] == pytest.approx(
        [float(row["score"]) for row in rows], abs=1e-4
    )
    prediction = {
        "model_name_or_path": tmp_path / "run",
        "test_file": files["test_file"],
        "output_dir": tmp_path / "predicted",
        "use_cpu": True,
        "do_train": False,
        "do_predict": True,
    }
    assert classify(*parse(TWEETS, prediction))["test_loss"] == pytest.approx(results["test_loss"], abs=1e-5)

    rows = [f"{text},{text},{label}\n" for text, label in tiny_texts(16)]
    (tmp_path / "pairs.csv").write_text("".join(["text,other,label\n", *rows]))
    pairs = dict.fromkeys(files, tmp_path / "pairs.csv") | {"text_pair_column": "other"}
    for changes, message in (
        (
            {"window_size": None, "window_pooling": None, "max_seq_length": 30},
            "--window_overlap needs windows, found --window_overlap 4",
        ),
        (
            {**dict.fromkeys(WINDOWS), "model_name_or_path": tmp_path / "run", **pairs},
            "--text_pair_column needs a model that reads its texts whole, found .* with window_size=32",
        ),
        (
            {**dict.fromkeys(WINDOWS), "model_name_or_path": tmp_path / "run", "plot_layers": 1},
            "--plot_layers draws texts that are read whole, found .* with window_size=32",
        ),
        ({"text_pair_column": "text"}, "--window_size must be left out for pairs"),
        ({"plot_layers": 1}, "--plot_layers draws texts that are read whole"),
        ({"window_size": 65}, "`window_size` must lie between 3 and 64"),
        ({"freeze_encoder": True, "cache_frozen_states": tmp_path / "states"}, "found window_size=32"),
    ):
        asked = options | {"output_dir": tmp_path / "refused"} | changes
        arguments = parse(TWEETS, {name: value for name, value in asked.items() if value is not None})
        with pytest.raises(UserError, match=message):
            classify(*arguments)


class WordsOfPython(PreTrainedTokenizer):
    """A tokenizer without the tokenizers library, whose mask of special tokens is 0 everywhere."""

    vocab_size = 4
    pieces = ("a", "<unk>", "<s>", "</s>")

    def get_vocab(self) -> dict[str, int]:
        return {piece: index for index, piece in enumerate(self.pieces)}

    def _tokenize(self, text: str, **kwargs: Any) -> list[str]:
        return text.split()

    def _convert_token_to_id(self, token: str) -> int:
        return self.get_vocab().get(token, 1)

    def _convert_id_to_token(self, index: int) -> str:
        return self.pieces[index]

    def build_inputs_with_special_tokens(self, ids: list[int], pair: list[int] | None = None) -> list[int]:
        return [2, *ids, 3, 3]


def test_special_tokens_around_a_text_are_counted_for_every_tokenizer() -> None:
    assert window_affixes(WordsOfPython(unk_token="<unk>")) == [1, 2]
    assert window_affixes(tiny_tokenizer()) == [1, 1]
