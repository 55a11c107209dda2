"""Tests of run_ensemble.py: members in, a folder out, and no fitting on texts that members have seen."""

import csv
import json
import os
import shutil

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, pipeline

from hf_layerfusion.cli.script import run_script
from hf_layerfusion.ensembling.ensemble import Ensemble
from hf_layerfusion.ensembling.member_models import MemberModel
from hf_layerfusion.ensembling.prediction_files import write_logits
from hf_layerfusion.errors import UserError
from hf_layerfusion.evaluation.diversity import error_correlation
from hf_layerfusion.recipes.ensembles.combiner_comparison import open_ensemble
from hf_layerfusion.recipes.ensembles.ensemble_arguments import EnsembleArguments, EnsembleDataArguments
from hf_layerfusion.recipes.ensembles.ensemble_run import make_ensemble
from hf_layerfusion.recipes.recipe_arguments import DataArguments, ModelArguments, TweetTrainingArguments
from hf_layerfusion.recipes.training_run import classify
from tests import figures
from tests.ensembling.small import save_member
from tests.examples.command_line import QUICK_TRAINING, parse
from tests.modeling.multitask_cases import build
from tests.tiny import read_csv, tiny_texts, tiny_tokenizer, write_csv

LABELS = ("negative", "positive")


@pytest.fixture(scope="module")
def trained(tiny_encoder_dir, tiny_tweets, tmp_path_factory):
    """Two models trained by this package on the tiny tweets."""
    folder = tmp_path_factory.mktemp("trained")
    for number, fusion in enumerate(("share", "last_mean")):
        options = {
            **QUICK_TRAINING, "model_name_or_path": tiny_encoder_dir, "train_file": tiny_tweets["train"],
            "validation_file": tiny_tweets["validation"], "output_dir": folder / fusion, "fusion": fusion,
            "num_groups": 2 if number == 0 else None, "per_device_train_batch_size": 64, "seed": number,
            "preprocessing": "none",
        }  # fmt: skip
        classify(*parse((ModelArguments, DataArguments, TweetTrainingArguments), options))
    return [str(folder / "share"), str(folder / "last_mean")]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Texts that no member has seen."""
    folder = tmp_path_factory.mktemp("held-out")
    return {
        "validation_file": write_csv(folder / "dev.csv", tiny_texts(40, seed=11)),
        "test_file": write_csv(folder / "test.csv", tiny_texts(30, seed=12)),
    }


def call(output, members, *extra, **options):
    options = {"output_dir": output, "prediction_cache": output.parent / "cache", "device": "cpu", **options}
    named = ["--members", *members] if members else []
    return make_ensemble(*parse((EnsembleArguments, EnsembleDataArguments), options, *named, *extra))


@pytest.fixture(scope="module")
def run(trained, files, tmp_path_factory):
    """An ensemble of both trained models and one with reversed labels that is no better than chance."""
    folder = tmp_path_factory.mktemp("ensemble")
    third = save_member(folder / "third", labels=LABELS[::-1], seed=3)
    members = [*trained, third]
    with figures.drawn():
        results = call(folder / "run", members, unverified_members=True, **files)
    return folder, members, results


def chances(member, rows):
    """Return probabilities `[N, 2]` by transformers' own pipeline."""
    answers = pipeline("text-classification", model=member, top_k=None)([row["text"] for row in rows])
    return np.array([[next(e["score"] for e in a if e["label"] == name) for name in LABELS] for a in answers])


def test_the_table_is_what_members_and_combiners_reach(run, files):
    folder, members, results = run
    table = {row["name"]: row for row in read_csv(folder / "run" / "run" / "table.csv")}
    assert list(table)[:3] == ["1 share", "2 last_mean", "3 third"]
    assert [row["kind"] for row in table.values()] == ["member"] * 3 + ["combiner"] * 7
    for split in ("validation", "test"):
        rows = read_csv(files[f"{split}_file"])
        true = np.array([LABELS.index(row["label"]) for row in rows])
        each = [chances(member, rows) for member in members]
        for row, found in zip(list(table.values())[:3], each, strict=True):
            assert float(row[f"{split}_accuracy"]) == pytest.approx(
                (found.argmax(1) == true).mean(), abs=1e-4
            )
        mean = (np.mean(each, axis=0).argmax(1) == true).mean()
        assert float(table["average_probabilities"][f"{split}_accuracy"]) == pytest.approx(mean, abs=1e-4)
        votes = np.sum([np.eye(2)[found.argmax(1)] for found in each], axis=0).argmax(1)
        assert float(table["majority_vote"][f"{split}_accuracy"]) == pytest.approx(
            (votes == true).mean(), abs=1e-4
        )
    best = max(
        table.values(), key=lambda row: float(row["validation_accuracy"]) * (row["kind"] == "combiner")
    )
    assert results["combiner"] == best["name"]
    assert results["test_accuracy"] == pytest.approx(float(best["test_accuracy"]), abs=1e-4)
    tests = {name: float(row["test_accuracy"]) for name, row in table.items()}
    baseline = max(list(table.values())[:3], key=lambda row: float(row["validation_accuracy"]))["name"]
    for name, row in table.items():
        if row["kind"] == "combiner":
            assert float(row["gain"]) == pytest.approx(tests[name] - tests[baseline], abs=2e-4)
            assert float(row["gain_low"]) <= float(row["gain"]) <= float(row["gain_high"])
    rows = read_csv(files["test_file"])
    wrong = [
        [LABELS[a] != row["label"] for a, row in zip(chances(m, rows).argmax(1), rows, strict=True)]
        for m in members
    ]
    pairs = error_correlation(np.array(wrong))[np.triu_indices(3, 1)]
    assert results["error_correlation"] == pytest.approx(np.nanmean(pairs), abs=1e-6)


def test_the_folder_is_an_ensemble_that_answers_as_its_predictions(run, files):
    folder, _, results = run
    names = {path.name for path in (folder / "run").iterdir()}
    assert names == {
        "README.md",
        "ensemble.json",
        "model_manifest.json",
        "run",
    }
    rows = read_csv(folder / "run" / "run" / "predictions.csv")
    answers = Ensemble.from_pretrained(folder / "run", device="cpu")([row["text"] for row in rows])
    assert [row["text"] for row in rows] == [row["text"] for row in read_csv(files["test_file"])]
    assert [answer["label"] for answer in answers] == [row["label"] for row in rows]
    np.testing.assert_allclose([a["score"] for a in answers], [float(r["score"]) for r in rows], atol=1e-5)
    card = (folder / "run" / "README.md").read_text(encoding="utf-8")
    assert "training texts of these members are unknown" in card and ": third." in card
    assert "| majority_vote" in card.replace("\\_", "_") and "run/plots/gain.png" in card
    assert f"The ensemble here is {results['combiner']}" in card.replace("\\_", "_")
    assert "Correlation of two members' errors" in card
    assert "measured on the test data" in card and "also fitted and selected" not in card
    assert (folder / "run" / "run" / "plots" / "gain.png").stat().st_size > 5000
    assert json.loads((folder / "run" / "run" / "all_results.json").read_text()) == results


def test_a_second_run_asks_no_member_again(run, files, tmp_path, monkeypatch):
    folder, members, _ = run
    monkeypatch.setattr(MemberModel, "_predict", lambda *_: pytest.fail("predicted again"))
    options = {"prediction_cache": folder / "cache", "combiner": "majority_vote", "weights": None, **files}
    results = call(tmp_path / "again", members, "--combiners", "majority_vote", "average_logits", **options)
    assert results["combiner"] == "majority_vote"
    ensemble = json.loads((tmp_path / "again" / "ensemble.json").read_text())
    assert ensemble["tasks"]["default"]["combiner"]["name"] == "majority_vote"
    assert ensemble["unverified_members"] == []  # a vote learns nothing


# What was seen


def test_texts_that_a_member_was_trained_or_chosen_on_are_refused(trained, tiny_tweets, tmp_path):
    for split, what in (("train", "trained"), ("validation", "selected")):
        with pytest.raises(UserError, match=f"member share: .* that it was {what} on"):
            call(tmp_path / "run", trained, validation_file=tiny_tweets[split])
    assert not (tmp_path / "run").exists()
    call(
        tmp_path / "vote", trained, "--combiners", "majority_vote", validation_file=tiny_tweets["validation"]
    )


def test_seen_texts_may_be_left_out_and_are_counted(trained, tiny_tweets, files, tmp_path):
    rows = [
        tuple(row.values())
        for path in (tiny_tweets["train"], files["validation_file"])
        for row in read_csv(path)
    ]
    mixed = write_csv(tmp_path / "mixed.csv", rows)
    with pytest.raises(UserError, match="must not have seen"):
        call(tmp_path / "run", trained, validation_file=mixed)
    call(tmp_path / "run", trained, validation_file=mixed, skip_seen_texts=True)
    card = (tmp_path / "run" / "README.md").read_text(encoding="utf-8")
    seen = {
        row["text"] for path in (tiny_tweets["train"], tiny_tweets["validation"]) for row in read_csv(path)
    }
    left_out = sum(row[0] in seen for row in rows)
    assert left_out >= 128
    assert f"{left_out} of {len(rows)} validation texts left out" in card
    assert len(read_csv(tmp_path / "run" / "run" / "predictions.csv")) == len(rows) - left_out
    with pytest.raises(UserError, match="must be unseen by all members"):
        call(tmp_path / "none", trained, validation_file=tiny_tweets["train"], skip_seen_texts=True)


def test_out_of_fold_predictions_are_fitted_on(trained, tiny_tweets, files, tmp_path):
    """On the training data themselves; the second member's predictions are made right, so that it is taken."""
    rows = read_csv(tiny_tweets["train"])
    true = np.eye(2)[[LABELS.index(row["label"]) for row in rows]]
    texts = {"text": [row["text"] for row in rows]}
    for name, logits in (("one", 1 - true), ("two", true)):
        for fold in (0, 1):
            (tmp_path / name / f"fold-{fold}" / "run").mkdir(parents=True)
            part = slice(fold, None, 2)
            write_logits(
                tmp_path / name / f"fold-{fold}" / "run" / "logits.csv", ids=list(range(len(rows)))[part],
                texts={"text": texts["text"][part]}, logits=logits[part], labels=LABELS,
            )  # fmt: skip
    given = ("--out_of_fold", tmp_path / "one", tmp_path / "two", "--combiners", "task_based")
    options = {"validation_file": tiny_tweets["train"], "test_file": files["test_file"]}
    results = call(tmp_path / "run", trained, *given, **options)
    assert results["validation_accuracy"] == 1
    table = read_csv(tmp_path / "run" / "run" / "table.csv")
    assert [row["validation_accuracy"] for row in table] == ["0.0000", "1.0000", "1.0000"]
    assert table[2]["test_accuracy"] == table[1]["test_accuracy"]
    assert json.loads((tmp_path / "run" / "ensemble.json").read_text())["tasks"]["default"]["fitted"][
        "out_of_fold"
    ]
    with pytest.raises(UserError, match="must predict the 40 requested rows"):
        call(tmp_path / "other", trained, *given, validation_file=files["validation_file"])
    with pytest.raises(
        UserError, match="--out_of_fold must name predictions of one task for each of 2 members"
    ):
        call(tmp_path / "other", trained, "--out_of_fold", tmp_path / "one", **options)


# Several tasks, values, soups


def test_several_tasks_each_with_its_own_members(tmp_path):
    torch.manual_seed(0)
    for name in ("left", "right"):
        build().save_pretrained(tmp_path / name)
        tiny_tokenizer().save_pretrained(tmp_path / name)
    labels = ["--", "-", "0", "+", "++"]
    save_member(tmp_path / "plain", labels=labels[::-1])
    generator, words = np.random.default_rng(0), [text for text, _ in tiny_texts(60)]
    for name, header, draw in (
        ("sst5", ("text", "label"), lambda: (labels[generator.integers(5)],)),
        ("quora", ("sentence1", "sentence2", "label"), lambda: ("x", int(generator.integers(2)))),
        ("sts", ("sentence1", "sentence2", "label"), lambda: ("x", round(5 * generator.random(), 1))),
    ):
        rows = [
            (text, *(words[n - 1] if cell == "x" else cell for cell in draw()))
            for n, text in enumerate(words)
        ]
        with open(tmp_path / f"{name}.csv", "w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([header, *rows])
    pair = {"text_column": "sentence1", "text_pair_column": "sentence2"}
    tasks = {
        "sst5": {"labels": labels},
        "quora": {**pair, "labels": ["no", "yes"]},
        "sts": {**pair, "problem_type": "regression", "value_range": [0, 5]},
    }
    tasks = {
        name: {"train_file": "x.csv", "validation_file": f"{name}.csv", **task}
        for name, task in tasks.items()
    }
    (tmp_path / "tasks.json").write_text(json.dumps(tasks))
    members = [str(tmp_path / "left"), str(tmp_path / "right"), f"sst5={tmp_path / 'plain'}"]
    options = {"tasks_file": tmp_path / "tasks.json", "unverified_members": True}
    results = call(tmp_path / "run", members, combiner="task_based", **options)
    table = {row["name"]: row for row in read_csv(tmp_path / "run" / "run" / "table.csv")}
    assert "majority_vote" not in table  # there is a regression among the tasks
    columns = ["validation_sst5_accuracy", "validation_quora_accuracy", "validation_sts_pearsonr"]
    for column in columns:
        best = max(float(row[column]) for row in table.values() if row["kind"] == "member" and row[column])
        assert float(table["task_based"][column]) == pytest.approx(best)
        assert results[column] == pytest.approx(best, abs=1e-4)
    assert float(table["task_based"]["gain"]) == 0
    assert results["validation_mean"] == pytest.approx(np.mean([results[column] for column in columns]))
    assert table["3 plain"]["validation_quora_accuracy"] == table["3 plain"]["validation_mean"] == ""
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "left").eval()
    quora = read_csv(tmp_path / "quora.csv")
    inputs = tiny_tokenizer()(
        [row["sentence1"] for row in quora],
        [row["sentence2"] for row in quora],
        padding=True,
        return_tensors="pt",
    )
    with torch.no_grad():
        answers = model(**inputs, task="quora").logits.argmax(1).numpy()
    share = (answers == [int(row["label"]) for row in quora]).mean()
    assert float(table["1 left"]["validation_quora_accuracy"]) == pytest.approx(share, abs=1e-4)
    names = sorted(path.name for path in (tmp_path / "run" / "run" / "predictions").iterdir())
    assert names == ["quora-validation.csv", "sst5-validation.csv", "sts-validation.csv"]
    with pytest.raises(UserError, match="MajorityVote combines classes"):
        call(tmp_path / "vote", members, combiner="majority_vote", **options)
    with pytest.raises(UserError, match="--tasks_file must name the data of the members' tasks"):
        call(tmp_path / "none", members, validation_file=tmp_path / "sst5.csv")


def test_a_soup_is_a_row_and_a_model(files, tmp_path):
    members = [save_member(tmp_path / f"m{seed}", labels=LABELS, seed=seed) for seed in range(2)]
    call(tmp_path / "run", members, "--combiners", "average_logits", soup=True, **files)
    rows = read_csv(files["test_file"])
    found = chances(str(tmp_path / "run" / "soup"), rows).argmax(1)
    share = np.mean([LABELS[answer] == row["label"] for answer, row in zip(found, rows, strict=True)])
    table = {row["kind"]: row for row in read_csv(tmp_path / "run" / "run" / "table.csv")}
    assert float(table["soup"]["test_accuracy"]) == pytest.approx(share, abs=1e-4)
    assert table["soup"]["members"] == "2"


def test_a_regression_and_integer_labels(tmp_path):
    rows = tiny_texts(20, seed=5)
    values = [(text, round(len(text) / 7, 2)) for text, _ in rows]
    members = [save_member(tmp_path / f"m{seed}", labels=("score",), seed=seed) for seed in range(2)]
    path = write_csv(tmp_path / "values.csv", values)
    results = call(tmp_path / "values", members, "--combiners", "average_logits", test_file=path)
    answers = [
        [a["score"] for a in pipeline("text-classification", model=m)([t for t, _ in rows])] for m in members
    ]
    expected = np.corrcoef(np.mean(answers, axis=0), [value for _, value in values])[0, 1]
    assert results["test_pearsonr"] == pytest.approx(expected, abs=1e-4)

    member = save_member(tmp_path / "classes", labels=LABELS[::-1], seed=4)
    numbered = write_csv(tmp_path / "numbers.csv", [(text, LABELS.index(label)) for text, label in rows])
    options = {"combiner": "average_logits", "test_file": numbered}
    results = call(tmp_path / "numbers", [member], "--class_names", *LABELS, **options)
    named = write_csv(tmp_path / "names.csv", rows)
    assert (
        results["test_accuracy"]
        == call(tmp_path / "names", [member], combiner="average_logits", test_file=named)["test_accuracy"]
    )


def test_what_cannot_be_combined_is_refused_before_members_predict(
    trained, tiny_tweets, files, tmp_path, monkeypatch
):
    monkeypatch.setattr(MemberModel, "_predict", lambda *_: pytest.fail("predicted"))
    with pytest.raises(UserError, match="must not have seen texts that a combiner is fitted on"):
        call(tmp_path / "a", trained, validation_file=tiny_tweets["validation"])
    other = save_member(tmp_path / "other", "roberta", LABELS)
    with pytest.raises(
        UserError, match=r"member other: .* found another model_type \(roberta for gru_fusion\)"
    ):
        call(tmp_path / "b", [trained[0], other], combiner="average_logits", soup=True, **files)


def test_gains_on_data_that_chose_are_said_to_be_such(trained, files, tmp_path):
    """Without a test file all is measured on what fitted the combiners; without validation the best member is chosen on
    what is reported."""
    results = call(tmp_path / "a", trained, "--combiners", "greedy", validation_file=files["validation_file"])
    assert results["gain_on"] == "validation"
    assert {row["gain_on"] for row in read_csv(tmp_path / "a" / "run" / "table.csv")} == {"", "validation"}
    card = (tmp_path / "a" / "README.md").read_text(encoding="utf-8")
    assert (
        "fitted and selected on the validation data, so their scores and gains on it are optimistic" in card
    )
    call(tmp_path / "b", trained, combiner="average_logits", test_file=files["test_file"])
    card = (tmp_path / "b" / "README.md").read_text(encoding="utf-8")
    assert "the best member of each task on the test data. They are measured on the test data" in card
    assert (
        "selected on the reported texts, its score is optimistic" in card
        and "also fitted and selected" not in card
    )


def test_texts_without_labels_are_predicted(trained, tmp_path):
    with open(tmp_path / "texts.csv", "w", encoding="utf-8") as file:
        file.write("number,text\n7,@someone GOOD  day\n9,bad day\n")
    changes = {"test_file": tmp_path / "texts.csv", "id_column": "number", "preprocessing": "light"}
    results = call(tmp_path / "run", trained, combiner="average_logits", **changes)
    assert results == {"combiner": "average_logits"}
    assert "Gains were not measured" in (tmp_path / "run" / "README.md").read_text(encoding="utf-8")
    rows = read_csv(tmp_path / "run" / "run" / "predictions.csv")
    assert [(row["number"], row["text"]) for row in rows] == [("7", "@someone GOOD  day"), ("9", "bad day")]


# Mistakes

MISTAKES = {
    "no members": ([], {}, "--members must name one model or more"),
    "no folder": (None, {"output_dir": ""}, "--output_dir must name the folder"),
    "no data": (None, {"validation_file": None, "test_file": None}, "found neither; name one"),
    "unknown combiner": (None, {"combiner": "vote"}, "--combiner must be one of majority_vote"),
    "unknown metric": (None, {"metric": "bleu"}, "must be one of accuracy"),
    "metric of values": (None, {"metric": "pearsonr"}, "--metric must be a metric of one of the tasks"),
    "nothing to fit on": (None, {"validation_file": None, "combiner": "greedy"}, "must hold what greedy is fitted on"),
    "nothing to choose on": (None, {"validation_file": None}, "--combiner must be named if there are no validation"),
    "weights": (None, {"weights": 2}, "weights must have one value for each of 2 members, found 1"),
    "missing member": (["nowhere/at/all"], {}, "must be a folder or a Hub id"),
    "no such file": (None, {"test_file": "none.csv"}, "none.csv"),
    "other labels": (None, {"class_names": "good"}, "the labels must be the members' negative, positive, found good"),
    "models in memory": (None, {"max_loaded_members": 0}, "max_loaded_members must be 1 or more"),
    "soup of unlike models": (None, {"soup": True}, "members must have one configuration"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_line_and_leave_nothing(trained, files, tmp_path, mistake):
    members, changes, message = MISTAKES[mistake]
    members = trained if members is None else members
    options = {"output_dir": tmp_path / "run", "prediction_cache": tmp_path / "cache", **files} | changes
    with pytest.raises(UserError) as caught:
        call(
            tmp_path / "run", members, **{name: value for name, value in options.items() if value is not None}
        )
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_full_folder_is_left_as_it_is_and_the_script_ends_with_2(trained, files, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(SystemExit) as caught:
        run_script(lambda: call(tmp_path / "run", trained, **files))
    assert caught.value.code == 2
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith("error: --output_dir")
    assert os.listdir(tmp_path / "run") == ["notes.txt"]


def test_the_ensemble_may_carry_its_members(trained, files, tmp_path):
    members = [shutil.copytree(member, tmp_path / str(number)) for number, member in enumerate(trained)]
    call(tmp_path / "run", map(str, members), combiner="average_logits", carry_members=True, **files)
    expected = Ensemble.from_pretrained(tmp_path / "run", device="cpu")("good day")
    for member in members:
        shutil.rmtree(member)
    assert Ensemble.from_pretrained(tmp_path / "run", device="cpu")("good day") == expected


@pytest.mark.parametrize(("preprocessing", "by_members"), [("none", True), ("paper", False)])
def test_members_prepare_the_texts_where_the_run_does_not(trained, tmp_path, preprocessing, by_members):
    data = EnsembleDataArguments(test_file="test.csv", preprocessing=preprocessing)
    arguments = EnsembleArguments(members=trained, output_dir=str(tmp_path / "run"))
    ensemble = open_ensemble(arguments, data, tmp_path)
    assert all(member.predictor.runtime.prepares_texts == by_members for member in ensemble.members)
