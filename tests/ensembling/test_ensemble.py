"""Tests of ensembles: against transformers' own pipelines, saved, copied, nested, and refused."""

import json
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.special import softmax
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer, pipeline

from hf_layerfusion.data.text_preparation import prepared_tokenizer
from hf_layerfusion.data.tweets import TweetPreprocessor
from hf_layerfusion.ensembling import member_models as models
from hf_layerfusion.ensembling.ensemble import Ensemble
from hf_layerfusion.ensembling.member_models import MemberModel, Runtime
from hf_layerfusion.ensembling.trained_texts import text_hashes, write_trained_texts
from hf_layerfusion.errors import UserError
from hf_layerfusion.recipes.ensembles.ensemble_report import members_prepare
from tests.ensembling.small import LABELS, TEXTS, byte_level_bpe, save_member, unigram
from tests.modeling.multitask_cases import build
from tests.tiny import tiny_config, tiny_tokenizer

ROWS = [(text,) for text in TEXTS]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """Members of three architectures and tokenizers, each with its labels in another order."""
    folder = tmp_path_factory.mktemp("zoo")
    return {
        "wordpiece": save_member(folder / "wordpiece", "bert", seed=1),
        "bpe": save_member(folder / "bpe", "roberta", LABELS[::-1], seed=2, tokenizer=byte_level_bpe()),
        "unigram": save_member(
            folder / "unigram",
            "xlm-roberta",
            ("neutral", "positive", "negative"),
            seed=3,
            tokenizer=unigram(),
        ),
        "second": save_member(folder / "second", "bert", seed=4),
    }


@pytest.fixture(scope="module")
def chances(zoo):
    """Return the probabilities of each label by name, for each member, from transformers' own pipelines."""
    return {
        name: [
            {entry["label"]: entry["score"] for entry in answer}
            for answer in pipeline("text-classification", model=path, top_k=None)(TEXTS)
        ]
        for name, path in zoo.items()
    }


def by_label(answers):
    return [{entry["label"]: entry["score"] for entry in answer} for answer in answers]


def close(found, expected, **tolerance):
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for label in one:
            assert one[label] == pytest.approx(other[label], **({"abs": 1e-5} | tolerance))


# Answers


def test_members_with_three_kinds_of_tokenizer_vote(zoo, chances):
    names = ("wordpiece", "bpe", "unigram")
    ensemble = Ensemble.of([zoo[name] for name in names], "majority_vote")
    expected = []
    for row in range(len(TEXTS)):
        answers = [chances[name][row] for name in names]
        votes = [max(answer, key=answer.get) for answer in answers]
        sums = {label: sum(answer[label] for answer in answers) for label in LABELS}
        expected.append(max(LABELS, key=lambda label: (votes.count(label), sums[label])))
    assert [answer["label"] for answer in ensemble(TEXTS)] == expected
    kinds = {
        frozenset(max(chances[n][row], key=chances[n][row].get) for n in names) for row in range(len(TEXTS))
    }
    assert len({len(kind) for kind in kinds}) > 1  # they agree here and differ there


def test_averages_go_by_the_names_of_labels(zoo, chances):
    names = ("wordpiece", "bpe", "unigram")
    ensemble = Ensemble.of([zoo[name] for name in names], weights=[1, 2, 1])
    expected = [
        {
            label: sum(w * chances[n][row][label] for n, w in zip(names, (1, 2, 1), strict=True)) / 4
            for label in LABELS
        }
        for row in range(len(TEXTS))
    ]
    close(by_label(ensemble(TEXTS, top_k=None)), expected)


@pytest.mark.parametrize("combiner", ["average_logits", "average_probabilities"])
def test_one_member_answers_in_every_form_as_its_pipeline(zoo, combiner):
    theirs = pipeline("text-classification", model=zoo["bpe"])
    ours = Ensemble.of([zoo["bpe"]], combiner)
    pair = {"text": TEXTS[0], "text_pair": TEXTS[1]}
    for inputs in (TEXTS[0], TEXTS[:3], TEXTS[:1], pair, [pair, {"text": TEXTS[2]}]):
        for options in ({}, {"top_k": None}, {"top_k": 2}, {"top_k": 1}):
            found, expected = ours(inputs, **options), theirs(inputs, **options)
            assert json.loads(json.dumps(found), parse_float=lambda _: 0) == json.loads(
                json.dumps(expected), parse_float=lambda _: 0
            )
            np.testing.assert_allclose(_numbers(found), _numbers(expected), atol=1e-5)
    assert ours([]) == []


def test_each_member_prepares_raw_texts_as_its_own_were(tmp_path):
    # Of these steps a tokenizer can express one.
    steps = {"one": ["emoticons", "lowercase"], "two": ["hashtags"]}
    members, plain = {}, {}
    for seed, (name, of_member) in enumerate(steps.items()):
        tokenizer = prepared_tokenizer(tiny_tokenizer(), of_member)
        members[name] = save_member(tmp_path / name, seed=seed, tokenizer=tokenizer)
        folder = save_member(tmp_path / f"{name}-plain", seed=seed)
        plain[name] = MemberModel(Path(folder), Runtime())
    both = Ensemble.of(list(members.values()), "average_logits")
    assert not members_prepare(both, ["hashtags"])
    assert members_prepare(Ensemble.of([members["two"]] * 2, "average_logits"), ["hashtags"])
    raw = ["so GOOD :)", "#fun day :("]
    found = both(raw, top_k=None)
    logits = np.mean(
        [
            plain[name].predict(
                models.ONLY_TASK, [(TweetPreprocessor(of_member).clean(text),) for text in raw]
            )
            for name, of_member in steps.items()
        ],
        axis=0,
    )
    expected = [dict(zip(LABELS, chances, strict=True)) for chances in softmax(logits, axis=1)]
    close(by_label(found), expected)


def test_half_a_surrogate_pair_is_refused_by_its_row(zoo):
    ensemble = Ensemble.of([zoo["bpe"]])
    with pytest.raises(UserError, match=r"row 3: the text holds '\\ud83d', half a surrogate pair") as caught:
        ensemble([*TEXTS[:2], "bad \ud83d", TEXTS[3]])
    assert "\n" not in str(caught.value)


def _numbers(answer):
    if isinstance(answer, dict):
        return [answer["score"]]
    return [number for each in answer for number in _numbers(each)]


def test_a_regression_is_averaged_and_answered_as_a_value(tmp_path):
    paths = [save_member(tmp_path / name, labels=(name,), seed=seed) for seed, name in enumerate("ab")]
    values = [
        [answer["score"] for answer in pipeline("text-classification", model=path)(TEXTS)] for path in paths
    ]
    ensemble = Ensemble.of(paths)
    found = ensemble(TEXTS)
    np.testing.assert_allclose([answer["score"] for answer in found], np.mean(values, axis=0), atol=1e-5)
    assert {answer["label"] for answer in found} == {"a"}
    with pytest.raises(UserError, match="MajorityVote combines classes"):
        Ensemble.of(paths, "majority_vote")


def test_long_texts_are_cut_where_the_member_ends(zoo):
    long = " ".join(TEXTS * 4)
    ids = AutoTokenizer.from_pretrained(zoo["wordpiece"])(
        long, truncation=True, max_length=64, return_tensors="pt"
    )
    model = AutoModelForSequenceClassification.from_pretrained(zoo["wordpiece"]).eval()
    with torch.no_grad():
        expected = model(**ids).logits[0].numpy()
    np.testing.assert_allclose(
        Ensemble.of([zoo["wordpiece"]], "average_logits").predict("default", [(long,)])[0],
        expected,
        atol=1e-5,
    )
    short = AutoTokenizer.from_pretrained(zoo["wordpiece"])(
        TEXTS[0], truncation=True, max_length=4, return_tensors="pt"
    )
    with torch.no_grad():
        expected = model(**short).logits[0].numpy()
    cut = Ensemble.of([zoo["wordpiece"]], "average_logits", max_length=4)
    np.testing.assert_allclose(cut.predict("default", ROWS[:1])[0], expected, atol=1e-5)


# Folders


def test_a_saved_ensemble_answers_as_before_and_points_to_its_members(zoo, tmp_path):
    ensemble = Ensemble.of([zoo["wordpiece"], zoo["bpe"]], "majority_vote", weights=[2, 1], max_length=6)
    ensemble.save_pretrained(tmp_path / "both")
    written = sorted(path.name for path in (tmp_path / "both").iterdir())
    assert written == ["README.md", "ensemble.json", "model_manifest.json"]
    again = Ensemble.from_pretrained(tmp_path / "both", max_loaded_members=1)
    assert again(TEXTS) == ensemble(TEXTS)
    assert again.sha256 == ensemble.sha256
    entry = json.loads((tmp_path / "both" / "ensemble.json").read_text())["members"][1]
    assert not Path(entry["folder"]).is_absolute()
    assert (tmp_path / "both" / entry["folder"]).resolve() == Path(zoo["bpe"]).resolve()
    card = (tmp_path / "both" / "README.md").read_text(encoding="utf-8")
    assert "wordpiece" in card and entry["sha256"][:16] in card and "weights 2 1" in card
    assert str(tmp_path) not in card


def test_ensembles_of_ensembles_to_any_depth(zoo, chances, tmp_path):
    Ensemble.of([zoo["wordpiece"], zoo["bpe"]]).save_pretrained(tmp_path / "one")
    Ensemble.of([str(tmp_path / "one"), zoo["unigram"]], weights=[1, 3]).save_pretrained(tmp_path / "two")
    top = Ensemble.of([str(tmp_path / "two"), zoo["second"]])
    shares = {"wordpiece": 1 / 16, "bpe": 1 / 16, "unigram": 6 / 16, "second": 8 / 16}
    expected = [
        {label: sum(share * chances[name][row][label] for name, share in shares.items()) for label in LABELS}
        for row in range(len(TEXTS))
    ]
    close(by_label(top(TEXTS, top_k=None)), expected)

    # Carried, it needs nothing that it was made of, and is the same member to others.
    top.save_pretrained(tmp_path / "top", carry_members=True)
    shutil.move(tmp_path / "top", tmp_path / "elsewhere")
    shutil.rmtree(tmp_path / "one"), shutil.rmtree(tmp_path / "two")
    moved = Ensemble.from_pretrained(tmp_path / "elsewhere")
    close(by_label(moved(TEXTS, top_k=None)), expected)
    assert moved.sha256 == top.sha256
    assert len(list((tmp_path / "elsewhere").rglob("model.safetensors"))) == 4
    assert len(list((tmp_path / "elsewhere").rglob("ensemble.json"))) == 3


def test_members_stream_through_memory(zoo, tmp_path, monkeypatch):
    Ensemble.of([zoo["wordpiece"], zoo["bpe"]]).save_pretrained(tmp_path / "inner")
    names = [str(tmp_path / "inner"), zoo["unigram"], zoo["wordpiece"]]
    expected = Ensemble.of(names)(TEXTS)
    loads, load = [], MemberModel.load

    def remember(self):
        loads.append((self.name, len(self.runtime._loaded)))
        return load(self)

    monkeypatch.setattr(MemberModel, "load", remember)
    runtime = Runtime(max_loaded_members=2)
    streamed = Ensemble.of(names, runtime=runtime)
    assert loads == []  # nothing is loaded before it is asked
    assert streamed(TEXTS) == expected
    assert [name for name, _ in loads] == ["wordpiece", "bpe", "unigram", "wordpiece"]
    assert max(held for _, held in loads) == 1
    loads.clear()
    assert Ensemble.of(names)(TEXTS) == expected
    assert [name for name, _ in loads] == [
        "wordpiece",
        "bpe",
        "unigram",
    ]  # the same model twice is loaded once


@pytest.mark.parametrize("max_loaded_members", [1, 2, None])
def test_threads_share_members_and_hold_no_more_than_are_allowed(zoo, monkeypatch, max_loaded_members):
    names = [zoo["wordpiece"], zoo["bpe"], zoo["unigram"]]
    ways = ["average_probabilities", "majority_vote", "average_logits"]
    expected = {way: Ensemble.of(names, way)(TEXTS) for way in ways}
    runtime = Runtime(max_loaded_members=max_loaded_members, batch_size=4)
    ensembles = {way: Ensemble.of(names, way, runtime=runtime) for way in ways}
    answer, running, most = MemberModel._logits, Counter(), []

    def watched(self, *args):
        running[self.sha256] += 1
        most.append(len(set(runtime._loaded) | {key for key, count in running.items() if count}))
        try:
            return answer(self, *args)
        finally:
            running[self.sha256] -= 1

    monkeypatch.setattr(MemberModel, "_logits", watched)
    asked = ways * 8
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda way: ensembles[way](TEXTS), asked))
    for way, given in zip(asked, found, strict=True):
        assert [each["label"] for each in given] == [each["label"] for each in expected[way]]
        assert [each["score"] for each in given] == pytest.approx(
            [each["score"] for each in expected[way]], abs=1e-5
        )
    assert max(most) == (max_loaded_members or 3)


def test_threads_may_cut_texts_at_different_lengths(zoo):
    model = Ensemble.of([zoo["wordpiece"]]).members[0].predictor
    lengths = [3, 5, 9, 17]
    expected = {length: model.predict("default", ROWS, length) for length in lengths}
    asked = lengths * 8
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda length: model.predict("default", ROWS, length), asked))
    assert all(np.array_equal(given, expected[length]) for length, given in zip(asked, found, strict=True))


def test_a_member_from_the_hub_is_kept_with_its_commit(zoo, tmp_path, monkeypatch):
    commit = "0123456789abcdef0123456789abcdef01234567"
    shutil.copytree(zoo["wordpiece"], tmp_path / "snapshots" / commit)
    asked = []

    def snapshot_download(name, revision=None):
        asked.append((name, revision))
        return str(tmp_path / "snapshots" / commit)

    monkeypatch.setattr(models, "snapshot_download", snapshot_download)
    ensemble = Ensemble.of(["somebody/model@v1", zoo["bpe"]])
    ensemble.save_pretrained(tmp_path / "both")
    entry = json.loads((tmp_path / "both" / "ensemble.json").read_text())["members"][0]
    assert (entry["hub_id"], entry["revision"], entry["folder"]) == ("somebody/model", commit, None)
    assert Ensemble.from_pretrained(tmp_path / "both")(TEXTS) == ensemble(TEXTS)
    assert asked == [("somebody/model", "v1"), ("somebody/model", commit)]
    assert "base_model:\n- somebody/model" in (tmp_path / "both" / "README.md").read_text()


# Several tasks


@pytest.fixture(scope="module")
def multitask(tmp_path_factory):
    """Two models of three tasks, one with joint and one with siamese pairs."""
    folder, built = tmp_path_factory.mktemp("multitask"), {}
    for seed, name in enumerate(("left", "right")):
        torch.manual_seed(seed)
        built[name] = build()
        built[name].save_pretrained(folder / name)
        tiny_tokenizer().save_pretrained(folder / name)
    return folder, built


PAIRS = list(zip(TEXTS[:6], TEXTS[6:], strict=True))


def direct(model, task, rows):
    """Return the predictions of each row by itself, as the model's page shows it."""
    tokenizer, found = tiny_tokenizer(), []
    for row in rows:
        if task == "sts":
            both = tokenizer(list(row), padding=True, return_tensors="pt")
            inputs = {name: values[None] for name, values in both.items()}
        else:
            inputs = tokenizer(*row, return_tensors="pt")
        with torch.no_grad():
            found.append(model(**inputs, task=task).logits[0].numpy())
    return np.array(found)


def test_models_of_several_tasks_are_averaged_task_by_task(multitask):
    folder, built = multitask
    ensemble = Ensemble.of([str(folder / name) for name in built], "average_logits")
    assert sorted(ensemble.tasks) == ["quora", "sst5", "sts"]
    for task, rows in (("sst5", ROWS), ("quora", PAIRS), ("sts", PAIRS)):
        expected = np.mean([direct(model, task, rows) for model in built.values()], axis=0)
        expected = expected[:, 0] if task == "sts" else expected
        np.testing.assert_allclose(ensemble.predict(task, rows), expected, atol=2e-5)
    pair = {"text": PAIRS[0][0], "text_pair": PAIRS[0][1]}
    assert ensemble(pair, task="sts")["label"] == "sts"
    assert ensemble(TEXTS[0], task="sst5")[0]["label"] in built["left"].config.task_configs["sst5"].labels


def test_each_task_s_own_model_answers_it(multitask, tmp_path):
    folder, built = multitask
    labels = built["left"].config.task_configs["sst5"].labels
    plain = save_member(tmp_path / "plain", labels=labels[::-1], seed=7)
    members = [f"sst5={plain}", f"quora={folder / 'left'}", f"sts={folder / 'right'}"]
    ensemble = Ensemble.of(members, "task_based")
    np.testing.assert_allclose(
        ensemble.predict("quora", PAIRS), direct(built["left"], "quora", PAIRS), atol=2e-5
    )
    np.testing.assert_allclose(
        ensemble.predict("sts", PAIRS), direct(built["right"], "sts", PAIRS)[:, 0], atol=2e-5
    )
    answers = pipeline("text-classification", model=plain)(TEXTS)
    assert [each["label"] for each in ensemble(TEXTS)] == [each["label"] for each in answers]
    ensemble.save_pretrained(tmp_path / "task-based")
    # An ensemble in which each task has its own model is a member like another (iterative ensembles, #7).
    both = Ensemble.of([str(tmp_path / "task-based"), str(folder / "left")], "average_logits")
    expected = (direct(built["right"], "sts", PAIRS)[:, 0] + direct(built["left"], "sts", PAIRS)[:, 0]) / 2
    np.testing.assert_allclose(both.predict("sts", PAIRS), expected, atol=2e-5)


# What combiners are fitted on


@pytest.fixture
def held_out(zoo, tmp_path):
    """Copies of two members that record their texts: one was trained on the first half of `ROWS`, the other selected
    on a further row."""
    for name, parts in (("wordpiece", (ROWS[:6], [])), ("bpe", ([], ROWS[6:7]))):
        shutil.copytree(zoo[name], tmp_path / name)
        write_trained_texts(tmp_path / name, *(text_hashes(part) for part in parts))
    return [str(tmp_path / "wordpiece"), str(tmp_path / "bpe")]


LABELS_OF_ROWS = np.arange(12) % 3


def test_rows_that_a_member_was_trained_or_chosen_on_are_refused(held_out):
    ensemble = Ensemble.of(held_out)
    before = ensemble.sha256
    for learner in ("greedy", "greedy_replacement", "stacked", "task_based"):
        with pytest.raises(
            UserError,
            match=r"member wordpiece: .* found 6 of 12 rows that it was trained on",
        ):
            ensemble.fit("default", learner, ROWS, LABELS_OF_ROWS)
        with pytest.raises(UserError, match=r"member bpe: .* found 1 of 6 rows that it was selected on"):
            ensemble.fit("default", learner, ROWS[6:], LABELS_OF_ROWS[6:])
    assert ensemble.sha256 == before
    ensemble.fit("default", "majority_vote", ROWS, LABELS_OF_ROWS)  # learns nothing
    ensemble.fit("default", "stacked", ROWS[7:], LABELS_OF_ROWS[7:])
    assert ensemble.fits["default"].rows == 5


def test_a_fitted_ensemble_has_seen_what_it_was_fitted_on(held_out, zoo, tmp_path):
    inner = Ensemble.of(held_out)
    inner.fit("default", "greedy", ROWS[7:10], LABELS_OF_ROWS[7:10])
    inner.save_pretrained(tmp_path / "inner", carry_members=True)
    for path in (tmp_path / "inner",):
        again = Ensemble.from_pretrained(path)
        assert again(TEXTS) == inner(TEXTS)
        assert again.fits == inner.fits
        outer = Ensemble.of([str(path), held_out[1]])
        with pytest.raises(UserError, match=r"member inner: .* found 1 of 3 rows"):
            outer.fit("default", "greedy", ROWS[9:], LABELS_OF_ROWS[9:])
        outer.fit("default", "greedy", ROWS[10:], LABELS_OF_ROWS[10:])
    card = (tmp_path / "inner" / "README.md").read_text(encoding="utf-8")
    assert "3 held-out texts: accuracy" in card
    (tmp_path / "inner" / "run" / "trained_texts.npz").unlink()
    with pytest.raises(UserError, match="member inner: must record which texts it was trained on"):
        Ensemble.of([str(tmp_path / "inner"), held_out[1]]).fit(
            "default", "greedy", ROWS[10:], LABELS_OF_ROWS[10:]
        )


def test_a_member_that_does_not_say_what_it_was_trained_on_is_named_in_the_card(zoo, held_out, tmp_path):
    ensemble = Ensemble.of([zoo["second"], held_out[1]])
    rows, labels = ROWS[7:], LABELS_OF_ROWS[7:]
    with pytest.raises(UserError, match="member second: must record which texts"):
        ensemble.fit("default", "greedy", rows, labels)
    with pytest.raises(UserError, match="member bpe: must not have seen"):
        ensemble.fit("default", "greedy", ROWS, LABELS_OF_ROWS, unverified_members=True)
    ensemble.fit("default", "greedy", rows, labels, unverified_members=True)
    ensemble.save_pretrained(tmp_path / "unverified")
    card = (tmp_path / "unverified" / "README.md").read_text(encoding="utf-8")
    assert "The training texts of these members are unknown" in card and ": second." in card
    assert Ensemble.from_pretrained(tmp_path / "unverified").unverified == ["second"]


def test_given_predictions_of_the_members_do_not_hide_what_they_have_seen(held_out):
    ensemble = Ensemble.of(held_out)
    predictions = ensemble.member_predictions("default", ROWS)
    with pytest.raises(UserError, match="member wordpiece: must not have seen"):
        ensemble.fit("default", "greedy", ROWS, LABELS_OF_ROWS, predictions=predictions)
    with pytest.raises(UserError, match="predictions must be given with out_of_fold"):
        ensemble.fit("default", "greedy", ROWS, LABELS_OF_ROWS, out_of_fold=True)


def test_out_of_fold_predictions_stand_in_for_the_members_own(held_out):
    ensemble = Ensemble.of(held_out)
    predictions = np.full((2, 12, 3), 0.0)
    predictions[1] = 5 * np.eye(3)[LABELS_OF_ROWS]
    ensemble.fit("default", "task_based", ROWS, LABELS_OF_ROWS, predictions=predictions, out_of_fold=True)
    assert ensemble.combiners["default"].member == 1
    assert ensemble.fits["default"].out_of_fold
    assert ensemble.fits["default"].score == 1.0


# The cache


def test_each_member_predicts_a_text_once(zoo, tmp_path, monkeypatch, caplog):
    calls, predict = [], MemberModel._predict

    def remember(self, *arguments):
        calls.append(self.name)
        return predict(self, *arguments)

    monkeypatch.setattr(MemberModel, "_predict", remember)
    paths = [zoo["wordpiece"], zoo["bpe"]]

    def fresh(**options):
        return Ensemble.of(paths, runtime=Runtime(cache_dir=tmp_path / "cache"), **options)

    first = fresh()(TEXTS)
    assert calls == ["wordpiece", "bpe"]
    assert fresh()(TEXTS) == first
    assert len(calls) == 2
    fresh()(TEXTS[::-1]), fresh(max_length=4)(TEXTS)
    assert len(calls) == 6  # other rows, other length
    shutil.copytree(zoo["wordpiece"], tmp_path / "copy")
    Ensemble.of([str(tmp_path / "copy")], runtime=Runtime(cache_dir=tmp_path / "cache"))(TEXTS)
    assert len(calls) == 6  # the same model elsewhere
    for path in (tmp_path / "cache").iterdir():
        path.write_bytes(path.read_bytes()[:60])
    assert fresh()(TEXTS) == first
    assert len(calls) == 8
    assert caplog.text.count("they are computed again") == 2
    assert fresh()(TEXTS) == first
    assert len(calls) == 8  # the damaged entries were replaced


def test_answers_that_are_not_finite_are_refused_and_not_kept(zoo, tmp_path):
    shutil.copytree(zoo["wordpiece"], tmp_path / "member")
    path = tmp_path / "member" / "model.safetensors"
    weights = load_file(path)
    weights["classifier.bias"][1] = torch.nan
    save_file(weights, path, {"format": "pt"})
    ensemble = Ensemble.of([str(tmp_path / "member")], runtime=Runtime(cache_dir=tmp_path / "cache"))
    with pytest.raises(UserError, match=r"member member: its predictions must be finite, found .* at row 1;"):
        ensemble(TEXTS)
    assert not list(tmp_path.glob("cache/*.safetensors"))


# Mistakes


def change(folder, name="model.safetensors"):
    path = Path(folder) / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


@pytest.fixture
def saved(zoo, tmp_path):
    """An ensemble of two members in folders beside it."""
    for name in ("wordpiece", "bpe"):
        shutil.copytree(zoo[name], tmp_path / name)
    Ensemble.of([str(tmp_path / name) for name in ("wordpiece", "bpe")]).save_pretrained(tmp_path / "both")
    return tmp_path


def edit(path, **changes):
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | changes))


def break_entry(folder):
    edit(folder / "both" / "ensemble.json", members=[{"name": "x"}])


def rename_label(path, old, new):
    path.write_text(path.read_text().replace(f'"{old}"', f'"{new}"'))


DAMAGES = {
    "weights changed": (lambda folder: change(folder / "bpe"), "the member bpe has changed since it was added"),
    "tokenizer changed": (
        lambda folder: edit(folder / "wordpiece" / "tokenizer_config.json", model_max_length=9),
        "the member wordpiece has changed since",
    ),
    "member missing": (lambda folder: shutil.rmtree(folder / "bpe"), "the member bpe must be in the folder ../bpe"),
    "no ensemble": (lambda folder: (folder / "both" / "ensemble.json").unlink(), "must be a trained model, found"),
    "no json": (
        lambda folder: (folder / "both" / "ensemble.json").write_text("{"), "must be an ensemble that",
    ),
    "entry without hash": (break_entry, "must be an ensemble that `save_pretrained` wrote, found TypeError"),
    "empty": (lambda folder: edit(folder / "both" / "ensemble.json", members=[]), "one member or more, found none"),
    "other format": (lambda folder: edit(folder / "both" / "ensemble.json", format=2), "the format 1, found 2"),
    "other labels": (
        lambda folder: rename_label(folder / "both" / "ensemble.json", "neutral", "undecided"),
        "the labels of task 'default' must be its first member's, negative, neutral, positive, found negative, undec",
    ),
    "labels in another order": (
        lambda folder: rename_label(folder / "both" / "ensemble.json", "positive", "negative"),
        "must be its first member's",
    ),
    "other tasks": (
        lambda folder: edit(folder / "both" / "ensemble.json", tasks={}), "must combine the tasks default of its",
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_ensemble_is_refused_by_name(saved, damage):
    breaking, message = DAMAGES[damage]
    breaking(saved)
    with pytest.raises(UserError) as caught:
        Ensemble.from_pretrained(saved / "both")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_card_or_place_is_no_change(saved):
    (saved / "bpe" / "README.md").write_text("another card")
    shutil.move(saved / "both", saved / "wordpiece" / "both")
    with pytest.raises(UserError, match="must be in the folder"):
        Ensemble.from_pretrained(saved / "wordpiece" / "both")
    shutil.move(saved / "wordpiece" / "both", saved / "renamed")
    assert Ensemble.from_pretrained(saved / "renamed")(TEXTS[0])


def test_a_cycle_is_refused_by_its_names(zoo, tmp_path):
    Ensemble.of([zoo["wordpiece"]]).save_pretrained(tmp_path / "a")
    Ensemble.of([str(tmp_path / "a")]).save_pretrained(tmp_path / "b")
    content = json.loads((tmp_path / "a" / "ensemble.json").read_text())
    content["members"][0]["folder"] = "../b"
    (tmp_path / "a" / "ensemble.json").write_text(json.dumps(content))
    for start, circle in (("a", "a → b → a"), ("b", "b → a → b")):
        with pytest.raises(UserError, match=f"member of itself, found {circle}"):
            Ensemble.from_pretrained(tmp_path / start)
    with pytest.raises(UserError, match="member of itself"):
        Ensemble.of([str(tmp_path / "b"), zoo["bpe"]])


def misconfigured(folder):
    member = save_member(folder)
    edit(folder / "config.json", hidden_size="wide")
    return member


def untrained(folder):
    AutoModel.from_config(tiny_config("bert", 2)).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


MISTAKES = {
    "no members": (lambda z, f, m: Ensemble.of([]), "one member or more, found none"),
    "no such folder": (lambda z, f, m: Ensemble.of(["./nowhere"]), "must be a folder or a Hub id"),
    "no such id": (lambda z, f, m: Ensemble.of(["somebody/nothing"]), "cannot be downloaded from the Hub"),
    "no model": (lambda z, f, m: Ensemble.of([str(f)]), "must be a trained model"),
    "a setting of another type": (
        lambda z, f, m: Ensemble.of([misconfigured(f / "x")]), "x: must be a trained model, found",
    ),
    "no head": (lambda z, f, m: Ensemble.of([untrained(f / "x")])(TEXTS), "found no weights of classifier"),
    "other labels": (
        lambda z, f, m: Ensemble.of([z["bpe"], save_member(f / "x", labels=("bad", "neutral", "good"))]),
        "member x: the labels must be the first member's, positive, neutral, negative, found bad, neutral, good",
    ),
    "fewer labels": (
        lambda z, f, m: Ensemble.of([z["bpe"], save_member(f / "x", labels=LABELS[:2])]),
        "member x: the labels must be",
    ),
    "another problem": (
        lambda z, f, m: Ensemble.of([z["bpe"], save_member(f / "x", labels=("score",))]),
        "member x: the problem type must be the first member's, single_label_classification, found regression",
    ),
    "several labels a text": (
        lambda z, f, m: Ensemble.of([save_member(f / "x", problem_type="multi_label_classification")]),
        "found 'multi_label_classification'",
    ),
    "no task among tasks": (
        lambda z, f, m: Ensemble.of([str(m / "left"), z["bpe"]]),
        "member bpe: must be given the name of its task, because others have 'quora'",
    ),
    "a task that it lacks": (
        lambda z, f, m: Ensemble.of([f"nli={m / 'left'}"]), "member left: must have the task 'nli'",
    ),
    "unfitted": (lambda z, f, m: Ensemble.of([z["bpe"]], "greedy"), "greedy must be fitted"),
    "weights": (lambda z, f, m: Ensemble.of([z["bpe"]], weights=[1, 2]), "one value for each of 1 members, found 2"),
    "weights of a learner": (
        lambda z, f, m: Ensemble.of([z["bpe"]], "task_based", weights=[1]), "has no argument 'weights'",
    ),
    "length": (lambda z, f, m: Ensemble.of([z["bpe"]], max_length=0), "max_length must be 1 or more"),
    "models in memory": (lambda z, f, m: Runtime(max_loaded_members=0), "max_loaded_members must be 1 or more"),
    "unknown task": (lambda z, f, m: Ensemble.of([z["bpe"]])(TEXTS, task="x"), "task must be one of default"),
    "no text": (lambda z, f, m: Ensemble.of([z["bpe"]])([3]), "a text or a pair"),
    "model as ensemble": (
        lambda z, f, m: Ensemble.from_pretrained(z["bpe"]), "must be an ensemble, found a model",
    ),
    "full folder": (lambda z, f, m: Ensemble.of([z["bpe"]]).save_pretrained(m), "must be a new or empty folder"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_line(zoo, multitask, tmp_path, mistake):
    call, message = MISTAKES[mistake]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError) as caught:
        call(zoo, tmp_path / "empty", multitask[0])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_probabilities_are_a_softmax(zoo):
    scores = [entry["score"] for entry in Ensemble.of([zoo["bpe"], zoo["second"]])(TEXTS[0], top_k=None)]
    assert sum(scores) == pytest.approx(1)
    assert softmax(np.log(scores)) == pytest.approx(scores)
