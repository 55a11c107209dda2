"""Tests of table runs that learn from an ensemble of other rows' models, and of the ensemble's own row."""

import json
from pathlib import Path

import numpy as np
import pytest

from hf_layerfusion import Teacher
from hf_layerfusion.errors import UserError
from hf_layerfusion.recipes import teaching
from hf_layerfusion.training.trainer import LayerFusionTrainer
from reproduction import run_teachers
from reproduction.run_table import TEACHER_MEMBERS, RunTable, table_names
from reproduction.runner import execute
from tests.tiny import read_csv, tiny_texts, write_csv


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setattr(teaching, "CACHE", tmp_path / "cache")
    folder = tmp_path / "data"
    folder.mkdir()
    write_csv(folder / "train.csv", tiny_texts(60))
    write_csv(folder / "test.csv", tiny_texts(20, seed=1))
    return folder


@pytest.fixture
def table(tiny_encoder_dir):
    common = {
        "model_name_or_path": tiny_encoder_dir, "use_cpu": True, "num_train_epochs": 1, "train_on_all": True,
        "learning_rate": 1e-3, "max_train_samples": 24, "token_pooling": "mean", "eval_strategy": "no",
        "save_strategy": "no", "load_best_model_at_end": False,
    }  # fmt: skip
    teacher = {"variants": ["plain", "fused"], "seeds": [0, 1]}
    more = {"unlabelled_file": "train.csv", "max_unlabelled_samples": 16}
    variants = {
        "plain": {"settings": {"pooling": "last"}},
        "fused": {"settings": {"pooling": "concat"}},
        "ensemble": {"recipe": "text-ensemble", "teacher": teacher},
        "taught": {"settings": {"pooling": "concat", **more}, "teacher": teacher},
    }
    files = {"train_file": "train.csv", "test_file": "test.csv"}
    return RunTable(
        "t", "T", "g", "test", "accuracy", "plain", files, common, [0], variants, "text", draws=True
    )


def test_a_row_learns_from_an_ensemble_whose_members_are_trained_once(table, data, tmp_path, monkeypatch):
    trained, shown = [], []
    classify, train = run_teachers.classify, LayerFusionTrainer.train
    monkeypatch.setattr(
        run_teachers, "classify", lambda *arguments: trained.append(arguments) or classify(*arguments)
    )

    def keep_rows(self, *args, **kwargs):
        shown.append(self.train_dataset)
        return train(self, *args, **kwargs)

    monkeypatch.setattr(LayerFusionTrainer, "train", keep_rows)
    runs = {run.variant: run for run in table.runs()}
    contents = {}
    for name in ("ensemble", "taught"):
        file = execute(runs[name], data, tmp_path / "results", tmp_path / "work")
        contents[name] = json.loads(file.read_text())
    members = sorted(str(path) for path in (tmp_path / "work" / "teachers").iterdir() if path.is_dir())
    assert len(members) == 4 and len(shown) == 5  # each member trained for the first row alone
    assert [(model.pooling, training.seed) for model, _, training in trained[:4]] == [
        ("last", 0), ("last", 1), ("concat", 0), ("concat", 1),
    ]  # fmt: skip

    # The ensemble's row is the average of the members' probabilities of the test texts.
    rows = [(row["text"],) for row in read_csv(data / "test.csv")]
    logits = [
        Teacher.of([member]).logits(rows, "single_label_classification", ["negative", "positive"])
        for member in members
    ]
    chances = [np.exp(each) / np.exp(each).sum(axis=1, keepdims=True) for each in logits]
    expected = np.mean(chances, axis=0)
    found = [int(each) for each in contents["ensemble"]["predictions"].split()]
    assert np.abs(expected[:, 0] - 0.5).min() > 1e-6 and found == expected.argmax(axis=1).tolist()
    labels = [int(each) for each in contents["ensemble"]["labels"].split()]
    assert contents["ensemble"]["metrics"]["test"]["accuracy"] == np.mean(np.equal(found, labels))

    # The student has the labelled rows of the draw, and texts without a label.
    assert len(shown[-1]) == 40 and (np.array(shown[-1]["labels"][:]) == -100).sum() == 16
    taught = contents["taught"]
    assert taught["num_examples"] == {"train": 24, "test": 20, "unlabelled": 16}
    assert taught["teacher"] == {
        name: contents["ensemble"][name] for name in ("parameters", "training_seconds")
    }
    assert taught["settings"] == runs["taught"].settings  # in words, without a folder of this machine
    assert str(tmp_path) not in json.dumps({**taught, "settings": None})


def test_a_row_of_an_ensemble_without_members_is_refused(table, data, tmp_path):
    table.variants["ensemble"].pop("teacher")
    run = next(run for run in table.runs() if run.variant == "ensemble")
    with pytest.raises(UserError, match="needs teacher_members, found none"):
        execute(run, data, tmp_path / "results", tmp_path / "work")


@pytest.mark.parametrize("name", table_names())
def test_members_read_the_texts_of_the_row_that_learns_from_them(name):
    for run in RunTable.load(name).runs():
        for member in run.settings.get(TEACHER_MEMBERS, ()):
            for option in ("train_file", "test_file", "max_train_samples", "split_seed", "pair_features"):
                assert member.get(option) == run.settings.get(option)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda table: table.common.update(folds=3), "taught: a row with a teacher has no folds, found 3"),
        (
            lambda table: table.variants["taught"]["teacher"]["variants"].append("fuse"),
            "found 'fuse'; did you mean",
        ),
        (lambda table: table.variants["plain"].update(recipe="tweets"), "without recipe, found plain"),
        (
            lambda table: table.variants["fused"].update(teacher={"variants": ["plain"], "seeds": [0]}),
            "without teacher",
        ),
        (lambda table: table.common.update(embeddings={}), "without embeddings, found plain"),
    ],
)
def test_members_that_cannot_be_trained_as_declared_are_refused(table, change, named):
    table.variants.pop("ensemble")
    change(table)
    with pytest.raises(UserError, match=named):
        table.runs()


def test_members_are_the_same_however_the_folder_of_the_data_is_written(table, data, tmp_path, monkeypatch):
    run = next(run for run in table.runs() if run.variant == "ensemble")
    execute(run, data, tmp_path / "results", tmp_path / "work")
    monkeypatch.chdir(tmp_path)
    execute(run, Path("data"), tmp_path / "again", tmp_path / "work")
    first, again = (json.loads(run.file(tmp_path / name).read_text()) for name in ("results", "again"))
    assert first["predictions"] == again["predictions"] and first["data"] == again["data"]
