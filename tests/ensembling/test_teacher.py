"""Tests of Teacher: averages by the names of labels, of raw texts, in every form that a teacher has."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from scipy.special import expit, softmax
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, pipeline

from hf_layerfusion import Ensemble, Teacher
from hf_layerfusion.data.text_preparation import copy_dictionary, prepared_tokenizer
from hf_layerfusion.ensembling.member_models import MemberModel
from hf_layerfusion.ensembling.trained_texts import text_hashes, write_trained_texts
from hf_layerfusion.errors import UserError
from tests.ensembling.small import LABELS, TEXTS, byte_level_bpe, save_member
from tests.modeling.multitask_cases import build
from tests.tiny import tiny_tokenizer

SINGLE = "single_label_classification"
ROWS = [(text,) for text in TEXTS]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two models of other architectures, tokenizers and orders of labels."""
    folder = tmp_path_factory.mktemp("teachers")
    first = save_member(folder / "first", seed=1)
    second = save_member(folder / "second", "roberta", LABELS[::-1], seed=2, tokenizer=byte_level_bpe())
    return [first, second]


def probabilities(folder: str, texts: list[str]) -> np.ndarray:
    """Scores of transformers' pipeline, `[N, C]` in the order of `LABELS`."""
    answers = pipeline("text-classification", model=folder, device="cpu", top_k=None)(texts)
    return np.array([[{e["label"]: e["score"] for e in row}[label] for label in LABELS] for row in answers])


def test_probabilities_are_averaged_by_name(folders: list[str]) -> None:
    teacher = Teacher.of(folders, progress=False)
    logits = teacher.logits(ROWS, SINGLE, LABELS)
    assert logits.dtype == np.float32
    expected = np.mean([probabilities(folder, TEXTS) for folder in folders], axis=0)
    np.testing.assert_allclose(softmax(logits, axis=1), expected, atol=1e-5)
    # The student's order is the order of the result.
    other = teacher.logits(ROWS, SINGLE, ["positive", "negative", "neutral"])
    np.testing.assert_array_equal(other, logits[:, [2, 0, 1]])


def test_an_ensemble_s_folder_teaches_what_the_ensemble_predicts(folders: list[str], tmp_path: Path) -> None:
    ensemble = Ensemble.of(folders, "majority_vote", weights=[0.7, 0.3])
    ensemble.save_pretrained(tmp_path / "vote")
    logits = Teacher.of(str(tmp_path / "vote")).logits(ROWS, SINGLE, LABELS)
    expected = softmax(ensemble.predict("default", ROWS), axis=1)
    np.testing.assert_allclose(softmax(logits, axis=1), expected, atol=1e-6)
    assert np.isfinite(logits).all()  # also of a class without a vote
    both = Teacher.of([str(tmp_path / "vote"), folders[0]]).logits(ROWS, SINGLE, LABELS)
    np.testing.assert_allclose(
        softmax(both, axis=1), (expected + probabilities(folders[0], TEXTS)) / 2, atol=1e-5
    )


def test_values_and_several_labels_are_averaged(tmp_path: Path) -> None:
    values = [save_member(tmp_path / f"value-{seed}", labels=[f"score-{seed}"], seed=seed) for seed in (1, 2)]
    alone = [Teacher.of(folder).logits(ROWS, "regression", ["mark"]) for folder in values]
    assert alone[0].shape == (len(ROWS), 1)
    found = Teacher.of(values).logits(ROWS, "regression", ["mark"])
    np.testing.assert_allclose(found, np.mean(alone, axis=0), rtol=1e-6)

    several = []
    for seed in (1, 2):
        folder = save_member(tmp_path / f"several-{seed}", seed=seed)
        config = AutoConfig.from_pretrained(folder)
        config.problem_type = "multi_label_classification"
        config.save_pretrained(folder)
        several.append(folder)
    kind = "multi_label_classification"
    alone = [expit(Teacher.of(folder).logits(ROWS, kind, LABELS)) for folder in several]
    found = Teacher.of(several).logits(ROWS, kind, LABELS)
    np.testing.assert_allclose(expit(found), np.mean(alone, axis=0), rtol=1e-5)


def test_raw_texts_are_prepared_as_each_model_s_own(tmp_path: Path) -> None:
    """A step that the saved tokenizer has, one that it cannot have, and its limit of tokens."""
    folder = save_member(tmp_path / "prepared", seed=1)
    dictionary = tmp_path / "words.json"
    dictionary.write_text('{"good": 5}')
    steps = ["users", "lowercase", "spelling"]
    tokenizer = prepared_tokenizer(tiny_tokenizer(), steps, 6, spelling_dictionary=str(dictionary))
    tokenizer.save_pretrained(folder)
    copy_dictionary(tokenizer, str(dictionary), Path(folder))
    raw = [f"@me goood {text.upper()}" for text in TEXTS]
    logits = Teacher.of(folder).logits([(text,) for text in raw], SINGLE, LABELS)
    np.testing.assert_allclose(softmax(logits, axis=1), probabilities(folder, raw), atol=1e-5)
    plain = Ensemble.of([folder]).predict("default", [(text,) for text in raw])
    assert np.abs(softmax(plain, axis=1) - softmax(logits, axis=1)).max() > 1e-3


def test_the_second_text_of_a_pair_is_cut_as_in_training(tmp_path: Path) -> None:
    folder = save_member(tmp_path / "pairs", seed=1)
    prepared_tokenizer(tiny_tokenizer(), [], 20, "only_second").save_pretrained(folder)
    pairs = [(TEXTS[0], " ".join([text] * 3)) for text in TEXTS[:4]]
    logits = Teacher.of(folder).logits(pairs, SINGLE, LABELS)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for found, pair in zip(logits, pairs, strict=True):
        inputs = tokenizer(*pair, truncation="only_second", return_tensors="pt")
        with torch.no_grad():
            expected = model(**inputs).logits[0].softmax(-1)
        np.testing.assert_allclose(softmax(found), expected, atol=1e-5)
    with pytest.raises(UserError, match=r"row 2: .* leaves no room for the other one within 20 tokens"):
        Teacher.of(folder).logits([pairs[0], pairs[0][::-1]], SINGLE, LABELS)


def test_predictions_are_kept_by_the_content_of_models_and_texts(
    folders: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = []
    predict = MemberModel._predict
    monkeypatch.setattr(
        MemberModel, "_predict", lambda self, *rest: runs.append(self.name) or predict(self, *rest)
    )

    def logits(sources: list[str], rows: Any = ROWS) -> np.ndarray:
        runs.clear()
        teacher = Teacher.of(sources, cache_dir=tmp_path / "cache")
        return teacher.logits(rows, SINGLE, LABELS)

    first = logits(folders)
    assert runs == ["first", "second"]
    np.testing.assert_array_equal(logits(folders), first)
    assert not runs
    logits(folders, ROWS[:-1])
    assert runs == ["first", "second"]
    # Another model in the same folder is another teacher.
    moved = save_member(tmp_path / "moved", seed=1)
    sha = Teacher.of(moved).sha256
    logits([moved])
    assert not runs
    save_member(tmp_path / "moved", seed=3)
    assert Teacher.of(moved).sha256 != sha
    assert np.abs(logits([moved]) - Teacher.of(folders[0]).logits(ROWS, SINGLE, LABELS)).max() > 1e-3
    assert runs


def test_rows_get_a_column_for_the_trainer(folders: list[str]) -> None:
    config = AutoConfig.from_pretrained(folders[1])
    rows = Dataset.from_dict({"text": TEXTS, "labels": [0] * len(TEXTS)})
    taught = Teacher.of(folders).add_to(rows, config)
    assert taught.column_names == ["text", "labels", "teacher_logits"]
    expected = Teacher.of(folders).logits(ROWS, SINGLE, LABELS[::-1])
    np.testing.assert_array_equal(np.array(taught["teacher_logits"][:], np.float32), expected)


def test_texts_that_a_model_has_seen_are_counted(tmp_path: Path) -> None:
    folders = [save_member(tmp_path / name) for name in ("known", "unknown", "innocent")]
    write_trained_texts(folders[0], text_hashes(ROWS[:3]), text_hashes(ROWS[3:4]))
    write_trained_texts(folders[2], text_hashes(ROWS[8:]))
    teacher = Teacher.of(folders)
    assert teacher.overlap(ROWS[2:6]) == {"known": 2, "unknown": None}
    assert set(teacher.trained_texts()) == set(text_hashes([*ROWS[:4], *ROWS[8:]]))


@pytest.mark.parametrize(
    ("kind", "labels", "named"),
    [
        (
            SINGLE,
            ["negative", "positive"],
            "labels must be the student's, negative, positive, found negative, ne",
        ),
        (SINGLE, ["0", "1", "2"], "labels must be the student's, 0, 1, 2, found negative, neutral, positive"),
        ("regression", ["score"], "problem type must be the student's, regression, found single_label"),
    ],
)
def test_other_labels_are_refused(folders: list[str], kind: str, labels: list[str], named: str) -> None:
    with pytest.raises(UserError, match=f"teacher first: its {named}") as error:
        Teacher.of(folders).logits(ROWS, kind, labels)
    assert "\n" not in str(error.value)


def test_what_is_no_teacher_is_refused(folders: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs one model or ensemble or more, found none"):
        Teacher.of([])
    with pytest.raises(UserError, match="must be a folder or a Hub id, found neither"):
        Teacher.of(str(tmp_path / "nothing"))
    build().save_pretrained(tmp_path / "tasks")
    tiny_tokenizer().save_pretrained(tmp_path / "tasks")
    with pytest.raises(
        UserError, match=r"teacher tasks: must be used for one task, found .*name one as TASK="
    ):
        Teacher.of(str(tmp_path / "tasks"))


def test_rows_that_get_no_column_are_refused_in_one_line(folders: list[str]) -> None:
    config, teacher = AutoConfig.from_pretrained(folders[1]), Teacher.of(folders[:1])
    rows = Dataset.from_dict({"sentence": [*TEXTS[:2], None], "labels": [0, 1, 1]})
    for given, columns, named in (
        (rows, ("text",), "rows must have the columns text, found no text among sentence, labels"),
        (rows.to_list(), ("sentence",), r"rows must be a datasets\.Dataset, found list"),
        (rows, ("sentence",), "column 'sentence' must have a text in every row, found none in row 2"),
        (
            rows.add_column("teacher_logits", [[0.0]] * 3),
            ("sentence",),
            "must have no column teacher_logits yet",
        ),
    ):
        with pytest.raises(UserError, match=named) as error:
            teacher.add_to(given, config, columns)
        assert "\n" not in str(error.value)
