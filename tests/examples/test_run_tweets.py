"""Tests of run_tweets.py: outputs, problem types, seeds, resuming, and one line for every mistake."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertModel, pipeline

from hf_layerfusion.errors import UserError
from hf_layerfusion.recipes.recipe_arguments import DataArguments, ModelArguments, TweetTrainingArguments
from hf_layerfusion.recipes.training_run import classify
from tests.examples.command_line import QUICK_TRAINING, parse
from tests.tiny import read_csv, tiny_texts, write_csv

SCRIPT = Path(__file__).parents[2] / "examples" / "run_tweets.py"


@pytest.fixture
def call(tiny_encoder_dir, tiny_tweets):
    """Call the script's function with the tiny encoder and data, as from the command line."""

    def run(output, *extra, **changes):
        options = {
            "model_name_or_path": tiny_encoder_dir,
            "train_file": tiny_tweets["train"],
            "validation_file": tiny_tweets["validation"],
            "test_file": tiny_tweets["test"],
            "output_dir": output,
            "num_groups": 2,
            "fusion_hidden_size": 8,
            "downstream_hidden_size": 8,
            "dense_size": 8,
            "classifier_dropout": 0.1,
            "preprocessing": "light",
            **QUICK_TRAINING,
            **changes,
        }
        return classify(*parse((ModelArguments, DataArguments, TweetTrainingArguments), options, *extra))

    return run


@pytest.mark.usefixtures("drawn_figures")
def test_a_run_leaves_a_folder_that_the_ecosystem_opens(call, tmp_path, tiny_tweets):
    folder = tmp_path / "run"
    results = call(folder, num_train_epochs=6)
    assert results["test_accuracy"] > 0.75
    assert json.loads((folder / "run" / "all_results.json").read_text()) == results

    predictions = read_csv(folder / "run" / "predictions.csv")
    labels = [row["label"] for row in read_csv(tiny_tweets["test"])]
    hits = np.mean([row["label"] == label for row, label in zip(predictions, labels, strict=True)])
    assert hits == pytest.approx(results["test_accuracy"])

    classifier = pipeline("text-classification", model=str(folder), device="cpu")
    answer = classifier(predictions[0]["text"])[0]
    assert answer["label"] == predictions[0]["label"]
    assert answer["score"] == pytest.approx(float(predictions[0]["score"]), abs=1e-4)

    card = ModelCard.load(folder / "README.md")
    measured = {(r.dataset_split, r.metric_type): r.metric_value for r in card.data.eval_results}
    assert measured["test", "accuracy"] == pytest.approx(results["test_accuracy"], abs=1e-4)
    use = json.loads((folder / "run" / "layer_use.json").read_text())
    assert len(use["accuracy_drop"]) == 4
    assert use["accuracy"] == pytest.approx(results["validation_accuracy"])
    assert "Use of layers" in card.text
    for plot in ("training_curves", "confusion_matrix", "word_counts", "layer_use"):
        assert (folder / "run" / "plots" / f"{plot}.png").stat().st_size > 5_000
    assert (folder / "model.safetensors").exists()


def test_a_folder_with_another_run_is_refused_and_left_as_it_is(call, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"--output_dir .*must be empty"):
        call(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_an_interrupted_run_ends_in_the_weights_of_one_that_was_not(call, tmp_path, monkeypatch):
    from hf_layerfusion.training.trainer import LayerFusionTrainer

    call(tmp_path / "whole", num_train_epochs=3)
    evaluate = LayerFusionTrainer._save_checkpoint
    saved = []

    def cut_off(self, *args, **kwargs):
        evaluate(self, *args, **kwargs)
        saved.append(self.state.global_step)
        if len(saved) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(LayerFusionTrainer, "_save_checkpoint", cut_off)
    with pytest.raises(KeyboardInterrupt):
        call(tmp_path / "cut", num_train_epochs=3)
    monkeypatch.setattr(LayerFusionTrainer, "_save_checkpoint", evaluate)
    with pytest.raises(UserError, match=r"other settings \(learning_rate\)"):
        call(tmp_path / "cut", "--resume_from_checkpoint", "True", num_train_epochs=3, learning_rate=1e-4)
    call(tmp_path / "cut", "--resume_from_checkpoint", "True", num_train_epochs=3)
    whole, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_seeds_get_a_folder_each_and_a_summary(call, tmp_path):
    summary = call(tmp_path / "run", "--seeds", "3", "4", num_train_epochs=1)
    single = [
        json.loads((tmp_path / "run" / f"seed-{seed}" / "run" / "all_results.json").read_text())["test_loss"]
        for seed in (3, 4)
    ]
    assert single[0] != single[1]
    assert summary["seeds"] == [3, 4]
    assert summary["test_loss"]["mean"] == pytest.approx(np.mean(single))
    assert summary["test_loss"]["sd"] == pytest.approx(np.std(single, ddof=1))


def test_without_validation_data_30_percent_is_split_off(call, tmp_path):
    call(tmp_path / "run", validation_file=None, test_file=None, num_train_epochs=1)
    assert len(read_csv(tmp_path / "run" / "run" / "predictions.csv")) == round(0.3 * 128)
    assert "selected on the validation split" in (tmp_path / "run" / "README.md").read_text()


def test_train_on_all_trains_on_both_for_all_epochs(call, tmp_path):
    results = call(tmp_path / "run", "--train_on_all", "True")
    state = json.loads((tmp_path / "run" / "run" / "trainer_state.json").read_text())
    assert state["global_step"] == 2 * (128 + 32) / 16
    assert results["epochs"] == 2
    assert "validation_loss" not in results


def test_the_competition_s_files_and_format(call, tmp_path):
    for label in ("positive", "negative"):
        lines = [text for text, name in tiny_texts(120) if name == label]
        (tmp_path / f"{label}.txt").write_text("\n".join(lines) + "\n")
    numbers = [5, *range(1, 5), *range(6, 31)]
    tweets = [text for text, _ in tiny_texts(30, seed=5)]
    lines = [f"{number},{tweet}, indeed" for number, tweet in zip(numbers, tweets, strict=True)]
    (tmp_path / "test_data.txt").write_text("\n".join(lines) + "\n")
    call(
        tmp_path / "run",
        train_file=None,
        validation_file=None,
        train_pos_file=tmp_path / "positive.txt",
        train_neg_file=tmp_path / "negative.txt",
        test_file=tmp_path / "test_data.txt",
        prediction_format="kaggle",
        num_train_epochs=1,
    )
    predictions = read_csv(tmp_path / "run" / "run" / "predictions.csv")
    assert [row["Id"] for row in predictions] == [str(number) for number in numbers]
    assert {row["Prediction"] for row in predictions} <= {"1", "-1"}


@pytest.mark.parametrize("architecture", ["plain", "layer_pooling"])
def test_other_architectures(call, tmp_path, architecture):
    none = dict.fromkeys(("num_groups", "fusion_hidden_size", "downstream_hidden_size", "dense_size"))
    results = call(tmp_path / "run", architecture=architecture, num_train_epochs=4, **none)
    assert results["test_accuracy"] > 0.5
    reloaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run")
    assert reloaded.config.id2label == {0: "negative", 1: "positive"}


def test_pairs_regression_and_several_labels(call, tmp_path):
    rows = [(text, float(label == "positive")) for text, label in tiny_texts(96)]
    pairs = {
        "text": [a for a, _ in rows],
        "second": [b for b, _ in rows[1:] + rows[:1]],
        "label": [a[1] + 0.25 * b[1] for a, b in zip(rows, rows[1:] + rows[:1], strict=True)],
    }
    Dataset.from_dict(pairs).to_parquet(tmp_path / "pairs.parquet")
    files = dict.fromkeys(("train_file", "validation_file", "test_file"), tmp_path / "pairs.parquet")
    results = call(tmp_path / "scores", text_pair_column="second", num_train_epochs=1, **files)
    assert {"test_mse", "test_pearsonr"} <= results.keys()
    assert {"text", "second", "value"} <= read_csv(tmp_path / "scores" / "run" / "predictions.csv")[0].keys()
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path / "scores").config.num_labels == 1

    several = {
        "text": [a for a, _ in rows],
        "label": [["good", "long"] if p and len(a) > 30 else ["good"] if p else ["long"] for a, p in rows],
    }
    Dataset.from_dict(several).to_json(tmp_path / "several.jsonl")
    files = dict.fromkeys(("train_file", "validation_file", "test_file"), tmp_path / "several.jsonl")
    results = call(tmp_path / "several", num_train_epochs=1, **files)
    assert {"test_f1_micro", "test_subset_accuracy"} <= results.keys()
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "several")
    assert model.config.problem_type == "multi_label_classification"


MISTAKES = {
    "no folder": ({"output_dir": None}, "--output_dir must name the folder"),
    "missing file": ({"train_file": "nowhere.csv"}, "nowhere.csv"),
    "missing column": ({"text_column": "tweet"}, "tweet"),
    "groups that do not divide": ({"num_groups": 3}, "3 groups for 4 layers"),
    "unknown fusion": ({"fusion": "soup"}, "--fusion must be one of"),
    "setting of another architecture": ({"pooling": "lstm"}, "--pooling is not a setting of"),
    "no such encoder": ({"model_name_or_path": "package:no_such_package"}, "package:no_such_package"),
    "two sources": ({"dataset_name": "org/data"}, "exactly one of"),
    "unknown step": ({"preprocessing": "harsh"}, "harsh"),
    "unknown regularizer": ({"regularizers": "smrt"}, "regularizers must be of"),
    "unknown setting of one": ({"regularizers": '{"smart": {"lambda": 1}}'}, "regularizers: smart"),
    "excluding options": ({"lr_scheduler_type": "cosine"}, "epoch_decay"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_line_and_leave_nothing(call, tmp_path, mistake):
    changes, message = MISTAKES[mistake]
    with pytest.raises(UserError) as caught:
        call(tmp_path / "run", **changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_bad_weights_are_refused(call, tmp_path, tiny_encoder_dir):
    encoder = tmp_path / "encoder"
    encoder.mkdir()
    for path in Path(tiny_encoder_dir).iterdir():
        (encoder / path.name).write_bytes(path.read_bytes())
    weights = encoder / "model.safetensors"
    content = load_file(weights)
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match="--model_name_or_path"):
        call(tmp_path / "run", model_name_or_path=encoder)
    weights.unlink()
    torch.save(content, encoder / "pytorch_model.bin")
    with pytest.raises(UserError, match="--model_name_or_path"):
        call(tmp_path / "run", model_name_or_path=encoder)
    assert "test_accuracy" in call(
        tmp_path / "run", "--allow_pickle", "True", model_name_or_path=encoder, num_train_epochs=1
    )


def test_a_validation_label_that_training_lacks_names_file_and_row(call, tmp_path):
    path = write_csv(tmp_path / "odd.csv", [("good day", "positive"), ("so so", "neutral")])
    with pytest.raises(UserError, match=r"neutral"):
        call(tmp_path / "run", validation_file=path)


def test_the_script_prints_one_line_and_exits_with_2(tmp_path):
    """Through the interpreter, so that the exit code and the silence are the shell's."""
    (tmp_path / "arguments.json").write_text(
        json.dumps({"train_file": str(tmp_path / "no.csv"), "output_dir": str(tmp_path / "out")})
    )
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path / "arguments.json")],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "PYTHONPATH": str(SCRIPT.parents[1] / "src")},
    )
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert not (tmp_path / "out").exists()


def test_tokenizer_is_saved_beside_the_model(call, tmp_path):
    call(tmp_path / "run", num_train_epochs=1)
    assert len(AutoTokenizer.from_pretrained(tmp_path / "run")("good day")["input_ids"]) == 4


def test_a_frozen_encoder_s_states_are_kept_and_found_by_the_next_run(call, tmp_path, monkeypatch):
    """The first token's vectors of four layers of each text. The encoder reads a text once, for all of training, tests
    and the use of layers."""
    texts = []
    forward = BertModel.forward

    def counting(self, input_ids, *args, **kwargs):
        texts.append(len(input_ids))
        return forward(self, input_ids, *args, **kwargs)

    monkeypatch.setattr(BertModel, "forward", counting)
    options = {"architecture": "layer_pooling", "pooling": "attention", "freeze_encoder": True}
    options |= dict.fromkeys(("num_groups", "fusion_hidden_size", "downstream_hidden_size"))
    options |= {"cache_frozen_states": tmp_path / "states", "hidden_dropout": 0.2, "on_divergence": "skip"}
    options |= {"num_train_epochs": 1}
    results = call(tmp_path / "first", **options)
    assert results["skipped_steps"] == 0
    shards = list((tmp_path / "states").glob("*/*.states"))
    assert shards
    assert 128 < sum(texts) <= 128 + 32 + 32
    texts.clear()
    assert call(tmp_path / "second", **options, seed=7)["validation_loss"] != results["validation_loss"]
    assert not texts
    assert list((tmp_path / "states").glob("*/*.states")) == shards
    assert json.loads((tmp_path / "first" / "config.json").read_text())["encoder_config"][
        "hidden_dropout_prob"
    ] == pytest.approx(0.2)


def test_a_setting_of_the_wrong_kind(call, tmp_path):
    with pytest.raises(
        UserError, match=r"`fusion_cell` must be one of \('gru', .*, 'minlstm'\), found 'rnn'"
    ) as error:
        call(tmp_path / "run", fusion_cell="rnn")
    assert "\n" not in str(error.value)
