"""Tests of run_absa.py: the pair, the recipe, the data that select checkpoints, and cross-validation."""

import csv
import dataclasses
import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from hf_layerfusion.errors import UserError
from hf_layerfusion.evaluation.cross_validation import stratified_group_folds
from hf_layerfusion.recipes.best_metric import with_metric
from hf_layerfusion.recipes.data_preparation import prepare, tokenize
from hf_layerfusion.recipes.fold_runs import cross_validate, prepare_folds
from hf_layerfusion.recipes.layer_state_plots import read_states
from hf_layerfusion.recipes.recipe_arguments import (
    AbsaDataArguments,
    AbsaTrainingArguments,
    PoolingModelArguments,
)
from hf_layerfusion.recipes.training_run import classify, make_trainer
from hf_layerfusion.training.trainer import LayerFusionTrainer
from tests.examples.command_line import QUICK_TRAINING, parse
from tests.tiny import read_csv, tiny_texts

NOUNS = ("food", "phone", "music", "game")


def write_rows(path, rows):
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("sentence", "aspect", "label"), *rows])
    return path


def aspects(count, seed=0):
    """Return `count` different sentences, of which every other has two aspects."""
    rows = []
    for number, (text, label) in enumerate(tiny_texts(count, seed)):
        sentence = f"{text} {number} {NOUNS[number % 4]} {NOUNS[(number + 1) % 4]}"
        rows += [(sentence, NOUNS[(number + offset) % 4], label) for offset in range(1 + number % 2)]
    return rows


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny-aspects")
    return {
        "train_file": write_rows(folder / "train.csv", aspects(60)),
        "validation_file": write_rows(folder / "dev.csv", aspects(20, seed=1)),
    }


@pytest.fixture(scope="module")
def call(tiny_encoder_dir, files):
    """Call the script's function with the tiny encoder and data, as from the command line."""

    def run(output, *extra, **changes):
        options = {
            "model_name_or_path": tiny_encoder_dir,
            "train_file": files["train_file"],
            "output_dir": output,
            **QUICK_TRAINING,
            **changes,
        }
        parsed = parse((PoolingModelArguments, AbsaDataArguments, AbsaTrainingArguments), options, *extra)
        return (classify if parsed[1].folds is None else cross_validate)(*parsed)

    return run


def sentences(split):
    return set(split["sentence"])


# What is reported is never what chose the checkpoint


def test_without_test_data_dev_is_the_test_and_a_tenth_of_train_chooses(call, tmp_path, files):
    results = call(tmp_path / "run", num_train_epochs=6, validation_file=files["validation_file"])
    assert results["test_accuracy"] > 0.7
    assert "test_f1_macro" in results
    predictions, dev = (
        read_csv(tmp_path / "run" / "run" / "predictions.csv"),
        read_csv(files["validation_file"]),
    )
    assert [row["sentence"] for row in predictions] == [row["sentence"] for row in dev]
    card = (tmp_path / "run" / "README.md").read_text(encoding="utf-8")
    assert "test: the validation data, as no test data is given" in card
    history = json.loads((tmp_path / "run" / "run" / "trainer_state.json").read_text())["log_history"]
    chosen = max(entry["eval_accuracy"] for entry in history if "eval_accuracy" in entry)
    assert results["validation_accuracy"] == pytest.approx(chosen)


def test_the_part_that_chooses_shares_no_sentence_with_train(files):
    data = prepare(AbsaDataArguments(**{name: str(path) for name, path in files.items()}))
    assert {name: len(split) for name, split in data.splits.items()} == {
        "train": 90 - len(data.splits["validation"]), "validation": len(data.splits["validation"]), "test": 30,
    }  # fmt: skip
    assert len(sentences(data.splits["validation"])) == 6
    assert not sentences(data.splits["validation"]) & sentences(data.splits["train"])
    assert any("split from train, with no sentence in common" in note for note in data.notes)


def test_a_bound_on_the_test_holds_for_dev_in_its_place(files):
    arguments = AbsaDataArguments(**{name: str(path) for name, path in files.items()}, max_predict_samples=7)
    assert len(prepare(arguments).splits["test"]) == 7


def test_given_test_data_dev_chooses(files):
    paths = {name: str(path) for name, path in files.items()}
    data = prepare(AbsaDataArguments(**paths, test_file=paths["train_file"]))
    assert [len(data.splits[name]) for name in ("train", "validation", "test")] == [90, 30, 90]
    assert "test: 90 texts have a sentence that also occurs in train" in " ".join(data.notes)


def test_aspects_that_their_sentence_lacks_are_counted(tmp_path):
    path = write_rows(tmp_path / "odd.csv", [*aspects(20), ("good day", "night", "positive")])
    assert "train: 1 aspects do not occur in their sentence" in prepare(AbsaDataArguments(str(path))).notes


# The recipe


def test_the_recipe_is_the_paper_s(tmp_path, tiny_encoder_dir, files):
    arguments = AbsaTrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    assert (arguments.num_train_epochs, arguments.learning_rate, arguments.metric_for_best_model) == (
        10, 2e-5, "main",
    )  # fmt: skip
    data_arguments = AbsaDataArguments(str(files["train_file"]))
    data = prepare(data_arguments)
    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder_dir)
    encoded = tokenize(data, tokenizer, data_arguments)
    model_arguments = PoolingModelArguments(tiny_encoder_dir)
    arguments = with_metric(arguments, data.schema.problem_type)  # as scripts do once the labels are known
    trainer = make_trainer(data, encoded, tokenizer, model_arguments, arguments)
    assert trainer.model.config.pooling == "lstm"
    assert trainer.model.config.classifier_dropout == 0.1
    optimizer = trainer.create_optimizer()
    assert type(optimizer) is torch.optim.Adam
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, 1e-5}
    # The first step of Adam is the sign of gradient + L2 × weight, times the rate.
    weight = trainer.model.get_input_embeddings().weight
    before = weight.detach().clone()
    weight.grad = torch.zeros_like(weight)
    optimizer.step()
    moved = before.abs() > 0.01  # where the L2 is well above Adam's epsilon
    assert moved.any()
    torch.testing.assert_close((before - weight)[moved], 2e-5 * before.sign()[moved], rtol=0.2, atol=1e-8)

    decayed = dataclasses.replace(arguments, decoupled_weight_decay=True)
    optimizer = make_trainer(data, encoded, tokenizer, model_arguments, decayed).create_optimizer()
    assert type(optimizer) is torch.optim.AdamW
    with pytest.raises(UserError, match="found --optim sgd"):
        make_trainer(data, encoded, tokenizer, model_arguments, dataclasses.replace(arguments, optim="sgd"))


def test_a_long_pair_is_cut_at_its_sentence(tmp_path, tiny_encoder_dir):
    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder_dir)
    long = "good day " * 20
    rows = [(f"{long}{number}", "my good phone", "ab"[number % 2]) for number in range(20)]
    path = str(write_rows(tmp_path / "long.csv", rows))
    arguments = AbsaDataArguments(path, max_seq_length=10)
    ids = tokenize(prepare(arguments), tokenizer, arguments)["train"]["input_ids"][0]
    expected = "[CLS] good day good day [SEP] my good phone [SEP]"
    assert tokenizer.decode(ids) == expected
    alone = AbsaDataArguments(path, max_seq_length=6, sentence_only=True)
    ids = tokenize(prepare(alone), tokenizer, alone)["train"]["input_ids"][0]
    assert tokenizer.decode(ids) == "[CLS] good day good day [SEP]"

    short = AbsaDataArguments(path, max_seq_length=6)
    with pytest.raises(
        UserError, match=r"train: row 2: the aspect has 3 tokens and is not truncated"
    ) as caught:
        tokenize(prepare(short), tokenizer, short)
    assert "\n" not in str(caught.value)


# Cross-validation


@pytest.fixture(scope="module")
def whole(call, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cross") / "whole"
    return folder, call(folder, folds=3)


def test_folds_share_no_sentence_in_any_of_their_parts(files):
    folds = prepare_folds(AbsaDataArguments(str(files["train_file"]), folds=5))
    tested = []
    for data in folds:
        parts = [sentences(data.splits[name]) for name in ("train", "validation", "test")]
        assert len(set.union(*parts)) == sum(map(len, parts)) == 60
        assert len(data.splits["validation"]) >= 0.05 * 90
        # Two aspects of each sentence of one class, one of each of the other.
        shares = np.bincount(data.splits["test"]["label"]) / len(data.splits["test"])
        np.testing.assert_allclose(sorted(shares), [1 / 3, 2 / 3], atol=0.08)
        tested += data.splits["test"]["row"][:]
    assert sorted(tested) == list(range(2, 92))
    assert any("fold 2 of 5, stratified and grouped by sentence" in note for note in folds[1].notes)


@pytest.mark.parametrize(
    "values", [["0.5", "1.5", "2.5"], [["a"], ["b"], ["a", "b"]]], ids=["numbers", "several labels"]
)
def test_folds_of_labels_that_are_no_single_classes_are_grouped_alone(tmp_path, values):
    rows = [
        {"sentence": text, "aspect": "food", "label": values[row % 3]}
        for row, (text, _) in enumerate(tiny_texts(24))
    ]
    for row in rows:
        row["label"] = float(row["label"]) if isinstance(row["label"], str) else row["label"]
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows + rows[:6]))
    for fold_split, how in (("stratified_group", "grouped by sentence"), ("stratified", "not grouped")):
        runs = prepare_folds(AbsaDataArguments(train_file=str(path), folds=3, fold_split=fold_split))
        assert sum(len(run.splits["test"]) for run in runs) == 30
        assert f"fold 1 of 3, {how}" in "\n".join(runs[0].notes)
        shared = [set(run.splits["test"]["sentence"]) & set(run.splits["train"]["sentence"]) for run in runs]
        assert any(shared) == (fold_split == "stratified")


def test_the_naive_split_is_there_by_name_and_says_what_leaks(files):
    folds = prepare_folds(AbsaDataArguments(str(files["train_file"]), folds=5, fold_split="stratified"))
    assert any(sentences(data.splits["test"]) & sentences(data.splits["train"]) for data in folds)
    assert any("stratified and not grouped" in note for note in folds[0].notes)
    leaks = sum(row in sentences(folds[0].splits["train"]) for row in folds[0].splits["test"]["sentence"])
    assert f"test: {leaks} texts have a sentence that also occurs in train" in folds[0].notes


def test_given_validation_data_chooses_in_every_fold(files):
    for data in prepare_folds(AbsaDataArguments(**{n: str(p) for n, p in files.items()}, folds=3)):
        assert len(data.splits["validation"]) == 30
        assert len(data.splits["train"]) + len(data.splits["test"]) == 90


def test_a_fold_is_a_run_on_its_parts_and_the_summary_their_mean(whole, call, tmp_path, files):
    folder, summary = whole
    rows = read_csv(files["train_file"])
    labels, groups = [row["label"] for row in rows], [row["sentence"] for row in rows]
    train, test = stratified_group_folds(labels, groups, 3, seed=42)[1]
    parts = {
        f"{name}_file": write_rows(tmp_path / f"{name}.csv", [tuple(rows[index].values()) for index in part])
        for name, part in (("train", train), ("test", test))
    }
    alone = call(tmp_path / "alone", **parts)
    runs = [
        json.loads((folder / f"fold-{number}" / "run" / "all_results.json").read_text())
        for number in (1, 2, 3)
    ]
    for name in ("validation_loss", "test_loss", "test_accuracy", "test_f1_macro"):
        assert runs[1][name] == pytest.approx(alone[name], abs=1e-6)
        assert summary[name]["mean"] == pytest.approx(np.mean([run[name] for run in runs]))
        assert summary[name]["sd"] == pytest.approx(np.std([run[name] for run in runs], ddof=1))
    assert json.loads((folder / "run" / "all_results.json").read_text()) == summary
    assert summary["folds"] == 3
    assert not list(folder.glob("fold-*/checkpoint-*"))
    assert len(list(folder.glob("fold-*/model.safetensors"))) == 3


def test_an_interrupted_cross_validation_goes_on_where_it_stopped(whole, call, tmp_path, monkeypatch):
    save, train = LayerFusionTrainer._save_checkpoint, LayerFusionTrainer.train
    saved, resumed = [], []

    def cut_off(self, *args, **kwargs):
        save(self, *args, **kwargs)
        saved.append(self.args.output_dir)
        if len(saved) == 3:
            raise KeyboardInterrupt

    def remember(self, resume_from_checkpoint=None, **kwargs):
        resumed.append((self.args.output_dir[-6:], resume_from_checkpoint and resume_from_checkpoint[-12:]))
        return train(self, resume_from_checkpoint, **kwargs)

    monkeypatch.setattr(LayerFusionTrainer, "_save_checkpoint", cut_off)
    with pytest.raises(KeyboardInterrupt):
        call(tmp_path / "cut", folds=3)
    monkeypatch.setattr(LayerFusionTrainer, "_save_checkpoint", save)
    monkeypatch.setattr(LayerFusionTrainer, "train", remember)
    with pytest.raises(UserError, match="must be empty"):
        call(tmp_path / "cut", folds=3)
    summary = call(tmp_path / "cut", "--resume_from_checkpoint", "True", folds=3)
    assert [name for name, _ in resumed] == ["fold-2", "fold-3"]
    assert resumed[0][1].startswith("checkpoint-")
    assert resumed[1][1] is None
    for name in ("test_loss", "test_accuracy", "validation_loss"):
        assert summary[name] == whole[1][name]


MISTAKES = {
    "fewer sentences than folds": ({"folds": 61}, "61 folds for 60 groups"),
    "one fold": ({"folds": 1}, "--folds must be 2 or more, found 1"),
    "unknown split": ({"folds": 3, "fold_split": "random"}, "--fold_split must be one of"),
    "unknown truncation": ({"truncation": "never"}, "--truncation must be one of"),
    "group that is no text": ({"group_column": "label"}, "--group_column must be a text column"),
    "epoch that is not reached": ({"plot_layers": 3}, "--plot_layers must name epochs from 1 to"),
    "nothing to draw beside": ({"plot_layers_beside": "x"}, "--plot_layers_beside needs --plot_layers"),
    "no run beside": ({"plot_layers": 1, "plot_layers_beside": "x"}, "must hold a run with --plot_layers"),
    "seeds and folds": ({"folds": 3, "seeds": 1}, "--folds and --seeds exclude each other"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_line_and_leave_nothing(call, tmp_path, mistake):
    changes, message = MISTAKES[mistake]
    with pytest.raises(UserError) as caught:
        call(tmp_path / "run", **changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_test_data_beside_folds_is_refused(call, tmp_path, files):
    with pytest.raises(UserError, match="found test data too"):
        call(tmp_path / "run", folds=3, test_file=files["validation_file"])


# What the layers hold


@pytest.mark.slow
def test_layers_are_drawn_at_epochs_beside_the_baseline_s(call, tmp_path, files):
    """The states kept are those of the model that the run ends with, and keeping them changes no weight."""
    options = {"validation_file": files["validation_file"], "report_on_selection": True}
    last = {**options, "load_best_model_at_end": False}
    call(tmp_path / "base", "--plot_layers", "1", "2", pooling="last", **last)
    call(tmp_path / "lstm", "--plot_layers", "2", plot_layers_beside=tmp_path / "base", **last)
    call(tmp_path / "without", pooling="last", **last)
    kept = read_states(tmp_path / "base")
    assert list(kept) == ["bert-last, epoch 1", "bert-last, epoch 2"]
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    rows = read_csv(files["validation_file"])
    inputs = tokenizer(
        [row["sentence"] for row in rows], [row["aspect"] for row in rows], padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        states = model(**inputs, output_hidden_states=True).hidden_states
    layers = kept["bert-last, epoch 2"]["layers"].tolist()
    assert layers == list(range(1, model.config.num_hidden_layers + 1))[-6:]
    expected = torch.stack([states[layer][:, 0] for layer in layers], dim=1).numpy()
    np.testing.assert_allclose(kept["bert-last, epoch 2"]["states"], expected, atol=1e-5)
    assert np.abs(kept["bert-last, epoch 1"]["states"] - expected).max() > 1e-3
    assert [model.config.label2id[row["label"]] for row in rows] == list(kept["bert-last, epoch 1"]["labels"])
    weights = AutoModelForSequenceClassification.from_pretrained(tmp_path / "without").state_dict()
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    assert "run/plots/layer_states.png" in (tmp_path / "lstm" / "README.md").read_text(encoding="utf-8")
    with pytest.raises(UserError, match="other texts than this run validates on"):
        call(tmp_path / "other", "--plot_layers", "1", plot_layers_beside=tmp_path / "base")


def test_a_dry_run_shows_the_groups_and_writes_nothing(call, tmp_path):
    groups = call(tmp_path / "run", "--dry_run", layer_decay=0.9, fusion_learning_rate=0.01)["groups"]
    rates = {row[0]: row[1] for row in groups}
    assert rates["layer_3"] == "0.003"
    assert rates["layer_2"] == "0.0027"
    assert rates["fusion"] == "0.01"
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match="excludes --folds"):
        call(tmp_path / "run", "--dry_run", folds=3)
