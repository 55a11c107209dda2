"""Tests of --teacher and --unlabelled_file in the scripts that train one task."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard
from scipy.special import softmax
from transformers import pipeline

from hf_layerfusion import Ensemble
from hf_layerfusion.cli.recipe_command import check_paths
from hf_layerfusion.ensembling.member_models import MemberModel
from hf_layerfusion.ensembling.trained_texts import read_trained_texts, text_hashes, write_trained_texts
from hf_layerfusion.errors import UserError
from hf_layerfusion.recipes import teaching
from hf_layerfusion.recipes.data_preparation import prepare
from hf_layerfusion.recipes.fold_runs import cross_validate
from hf_layerfusion.recipes.multitask.multitask_arguments import MultitaskDataArguments
from hf_layerfusion.recipes.multitask.task_preparation import make_tasks
from hf_layerfusion.recipes.recipe_arguments import (
    AbsaDataArguments,
    DataArguments,
    ModelArguments,
    RunTrainingArguments,
    TextDataArguments,
    TextTrainingArguments,
)
from hf_layerfusion.recipes.teaching import with_predictions, with_unlabelled
from hf_layerfusion.recipes.training_run import classify
from hf_layerfusion.training.trainer import LayerFusionTrainer
from tests.ensembling.small import save_member
from tests.examples.command_line import QUICK_TRAINING, parse
from tests.tiny import read_csv, tiny_texts, write_csv

LABELS = ("negative", "positive")
CLASSES = (ModelArguments, TextDataArguments, TextTrainingArguments)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setattr(teaching, "CACHE", tmp_path / "cache")


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    """A model, and an ensemble of it and another, whose labels stand in another order."""
    folder = tmp_path_factory.mktemp("teachers")
    members = [
        save_member(folder / "a", labels=LABELS[::-1], seed=1),
        save_member(folder / "b", labels=LABELS),
    ]
    Ensemble.of(members).save_pretrained(folder / "vote")
    return {"model": members[0], "ensemble": str(folder / "vote")}


@pytest.fixture
def call(tiny_encoder_dir, tmp_path):
    files = {
        f"{split}_file": write_csv(tmp_path / f"{split}.csv", tiny_texts(24, seed))
        for seed, split in enumerate(("train", "validation", "test"))
    }

    def run(output, *extra, arguments=CLASSES, **changes):
        options = {
            "model_name_or_path": tiny_encoder_dir,
            "architecture": "layer_pooling",
            "output_dir": tmp_path / output,
            **files,
            **QUICK_TRAINING,
            "num_train_epochs": 1,
            **changes,
        }
        function = cross_validate if "folds" in changes else classify
        return function(*parse(arguments, options, *extra))

    return run


def unlabelled_file(tmp_path: Path, count: int = 10) -> Path:
    """Texts of their own, one that is repeated, and one of each other split."""
    texts = [text for text, _ in tiny_texts(count, seed=9)]
    texts += [texts[0], *(tiny_texts(24, seed)[3][0] for seed in range(3))]
    path = tmp_path / "more.csv"
    path.write_text("text\n" + "".join(f"{text}\n" for text in texts))
    return path


def test_a_part_of_the_unlabelled_texts_is_drawn_with_the_seed_of_the_split(call, tmp_path):
    file = unlabelled_file(tmp_path, 20)

    def drawn(seed, most):
        arguments = TextDataArguments(
            train_file=str(tmp_path / "train.csv"), validation_file=str(tmp_path / "validation.csv"),
            unlabelled_file=str(file), max_unlabelled_samples=most, split_seed=seed,
        )  # fmt: skip
        data = with_unlabelled(prepare(arguments), arguments)
        return data.splits["unlabelled"]["text"][:], data.notes

    all_texts, _ = drawn(0, None)
    texts, notes = drawn(0, 5)
    assert len(texts) == 5 and set(texts) < set(all_texts) and texts == drawn(0, 5)[0] != drawn(1, 5)[0]
    assert f"unlabelled: 5 of {len(all_texts)} texts drawn" in notes
    assert drawn(0, 100)[0] == all_texts


@pytest.mark.parametrize("kind", ["model", "ensemble"])
def test_a_run_learns_from_its_teacher(call, teachers, tmp_path, monkeypatch, caplog, kind):
    monkeypatch.setattr(logging.getLogger("hf_layerfusion"), "propagate", True)
    shown = []
    train = LayerFusionTrainer.train

    def keep_rows(self, *args, **kwargs):
        shown.append((self.train_dataset, self.args))
        return train(self, *args, **kwargs)

    monkeypatch.setattr(LayerFusionTrainer, "train", keep_rows)
    more = unlabelled_file(tmp_path)
    results = call("run", teacher=teachers[kind], unlabelled_file=more, distillation_temperature=3.0)
    assert np.isfinite(results["validation_loss"])
    ((rows, arguments),) = shown
    assert (arguments.distillation_weight, arguments.distillation_temperature) == (0.5, 3.0)

    # Each row has the teacher's answer to its raw text, the labels by name.
    texts = [row["text"] for row in read_csv(tmp_path / "train.csv")]
    further = [text for text, _ in tiny_texts(10, seed=9)]
    assert rows["labels"][:] == [LABELS.index(row["label"]) for row in read_csv(tmp_path / "train.csv")] + [
        -100
    ] * len(further)
    if kind == "model":
        classifier = pipeline("text-classification", model=teachers[kind], device="cpu", top_k=None)
    else:
        classifier = Ensemble.from_pretrained(teachers[kind])
    answers = classifier(texts + further, top_k=None)
    expected = [[{e["label"]: e["score"] for e in row}[label] for label in LABELS] for row in answers]
    found = softmax(np.array(rows["teacher_logits"][:]), axis=1)
    np.testing.assert_allclose(found, expected, atol=1e-5)

    card = ModelCard.load(tmp_path / "run" / "README.md")
    name = Path(teachers[kind]).name
    assert f"on the predictions of {name} (sha256" in card.text
    assert "10 further texts, from more.csv, had no labels" in card.text
    assert "temperature 3" in card.text
    assert "unlabelled: 4 texts left out that occur before or in another split" in card.text
    stored = json.loads((tmp_path / "run" / "run" / "run.json").read_text())
    assert stored["data"]["unlabelled"]["rows"] == 10
    assert stored["data"]["teacher"]["sha256"]
    trained = read_trained_texts(tmp_path / "run")["train"]
    assert set(text_hashes([(text,) for text in texts + further])) <= set(trained)
    assert not list((tmp_path / "run").glob("checkpoint-*/*teacher*"))


def test_a_second_run_predicts_nothing_and_another_teacher_is_noticed(call, tmp_path, monkeypatch, caplog):
    folder = save_member(tmp_path / "teacher", labels=LABELS, seed=1)
    predicted = []
    predict = MemberModel._predict
    monkeypatch.setattr(
        MemberModel, "_predict", lambda self, *rest: predicted.append(len(rest[1])) or predict(self, *rest)
    )
    first = call("first", teacher=folder)
    assert predicted == [24]
    predicted.clear()
    again = call("second", teacher=folder)
    assert not predicted
    assert again["validation_loss"] == first["validation_loss"]
    save_member(tmp_path / "teacher", labels=LABELS, seed=2)
    with pytest.raises(UserError, match=r"holds a run on other data: teacher \(.*teacher: other content\)"):
        call("second", teacher=folder, resume_from_checkpoint="True")
    assert call("third", teacher=folder)["validation_loss"] != first["validation_loss"]
    assert predicted == [24]


def test_texts_that_the_teacher_knows_are_warned_of(call, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(logging.getLogger("hf_layerfusion"), "propagate", True)
    folder = save_member(tmp_path / "teacher", labels=LABELS, seed=1)
    known = [(text,) for text, _ in tiny_texts(24, seed=1)[:5]]
    write_trained_texts(folder, text_hashes(known))
    call("run", teacher=folder)
    warning = "validation: the teacher teacher was trained or selected on 5 of 24 texts, so scores on them"
    assert warning in caplog.text
    assert "the teacher teacher was trained" not in caplog.text.replace(warning, "")
    assert warning in (tmp_path / "run" / "README.md").read_text()
    # The student has learned of these texts, too.
    assert set(text_hashes(known)) <= set(read_trained_texts(tmp_path / "run")["train"])
    (Path(folder) / "run" / "trained_texts.npz").unlink()
    call("other", teacher=folder)
    assert "test: it is not known whether the teacher teacher was trained on its texts" in caplog.text


@pytest.mark.parametrize(
    ("labels", "problem_type"),
    [([1.5, 2.0, 3.0, 4.5], "regression"), ([["a"], ["a", "b"], ["b"], []], "multi_label_classification")],
)
def test_rows_of_other_kinds_get_targets(tmp_path, labels, problem_type):
    texts = [text for text, _ in tiny_texts(4)]
    train = tmp_path / "train.jsonl"
    train.write_text(
        "".join(json.dumps({"text": t, "label": y}) + "\n" for t, y in zip(texts, labels, strict=True))
    )
    arguments = TextDataArguments(
        train_file=str(train), validation_file=str(train), unlabelled_file=str(unlabelled_file(tmp_path, 3))
    )
    data = with_unlabelled(prepare(arguments), arguments)
    encoded = {
        name: split.remove_columns([c for c in split.column_names if c != "label"])
        for name, split in data.splits.items()
    }
    encoded["unlabelled"] = (
        data.splits["unlabelled"].select_columns(["row"]).rename_column("row", "input_ids")
    )
    encoded["train"] = encoded["train"].rename_column("label", "labels").add_column("input_ids", [1, 2, 3, 4])

    class Fixed:
        def logits(self, rows, problem_type, names):
            return np.full((len(rows), len(names)), 0.5, np.float32)

    rows = with_predictions(Fixed(), data, encoded)["train"]
    assert len(rows) == 4 + len(data.splits["unlabelled"])
    assert np.isnan(np.array(rows["labels"][4:], float)).all()
    assert np.isfinite(np.array(rows["labels"][:4], float)).all()
    assert np.shape(rows["teacher_logits"][:]) == (len(rows), 1 if problem_type == "regression" else 2)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"unlabelled_file": "more.csv"}, "--unlabelled_file needs --teacher, found none; leave it out"),
        ({"max_unlabelled_samples": 5}, "--max_unlabelled_samples needs --teacher, found none"),
        ({"distillation_weight": 0.5}, "--distillation_weight needs --teacher, found none"),
        ({"distillation_temperature": 2}, "--distillation_temperature needs --teacher, found none"),
        ({"teacher": "no-such-folder"}, "--teacher: member no-such-folder: is not a folder"),
        ({"teacher": "TEACHER", "folds": 3}, "--teacher excludes --folds, which tests on training texts"),
        ({"teacher": "TEACHER", "do_predict": True}, "--teacher is for training, found --do_predict alone"),
        (
            {"teacher": "TEACHER", "train_file": "OTHER"},
            "--teacher: teacher a: its labels must be the student's, bad, g",
        ),
        (
            {"teacher": "TEACHER", "class_balance": "weights"},
            "distillation_weight=0.5 .* excludes class_balance",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(call, teachers, tmp_path, changes, named):
    other = write_csv(
        tmp_path / "other.csv", [(t, "good" if y == "positive" else "bad") for t, y in tiny_texts(24)]
    )
    values = {"TEACHER": teachers["model"], "OTHER": other}
    changes = {name: values.get(value, value) for name, value in changes.items()}
    if "train_file" in changes:
        changes |= {"validation_file": None, "test_file": None}
    if "folds" in changes:
        changes |= {
            "arguments": (ModelArguments, AbsaDataArguments, TextTrainingArguments),
            "test_file": None,
        }
    with pytest.raises(UserError, match=named) as error:
        call("run", **changes)
    assert "\n" not in str(error.value)


def test_what_a_run_would_refuse_a_dry_run_refuses_too(call, tmp_path):
    values = [(text, f"{place % 5 / 2}") for place, (text, _) in enumerate(tiny_texts(24))]
    files = {
        f"{name}_file": write_csv(tmp_path / f"values-{name}.csv", values) for name in ("train", "validation")
    }
    teacher = save_member(tmp_path / "value", labels=("score",), problem_type="regression")
    with pytest.raises(UserError, match="distillation_temperature=2 is of classes, found a regression"):
        call(
            "values", "--dry_run", "True", teacher=teacher, distillation_temperature=2.0, test_file=None,
            problem_type="regression", **files,
        )  # fmt: skip
    assert not (tmp_path / "values").exists()


def test_unlabelled_texts_need_no_ids(call, teachers, tmp_path):
    rows = [
        {"tid": str(number), "text": text, "label": label}
        for number, (text, label) in enumerate(tiny_texts(24))
    ]
    train = tmp_path / "ids.csv"
    train.write_text("tid,text,label\n" + "".join(f"{r['tid']},{r['text']},{r['label']}\n" for r in rows))
    arguments = TextDataArguments(
        train_file=str(train), unlabelled_file=str(unlabelled_file(tmp_path)), id_column="tid"
    )
    assert len(with_unlabelled(prepare(arguments), arguments).splits["unlabelled"]) > 0


def test_texts_that_are_all_known_are_refused(tmp_path, call, teachers):
    path = write_csv(tmp_path / "known.csv", tiny_texts(24, 0))
    with pytest.raises(UserError, match=r"--unlabelled_file .* that are in no other split, found none"):
        call("run", teacher=teachers["model"], unlabelled_file=path)


def test_paths_are_checked_before_anything_is_imported(tmp_path, teachers):
    check_paths({"teacher": [teachers["model"], f"default={teachers['model']}", "org/model"]})
    with pytest.raises(UserError, match="--teacher /no/such: no such folder"):
        check_paths({"teacher": [teachers["model"], "default=/no/such"]})
    with pytest.raises(UserError, match=r"--unlabelled_file none\.csv: cannot be read"):
        check_paths({"unlabelled_file": "none.csv"})


def test_a_task_of_several_has_no_teacher(tmp_path, tiny_tweets):
    entry = {"train_file": str(tiny_tweets["train"]), "teacher": ["outputs/vote"]}
    with pytest.raises(UserError, match="'teacher'"):
        make_tasks({"one": entry}, tmp_path, MultitaskDataArguments())


def test_the_defaults_of_every_script_have_none():
    assert DataArguments().teacher is None
    assert RunTrainingArguments(output_dir="out", use_cpu=True).distillation_weight is None
