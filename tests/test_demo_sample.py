"""The data of the demo and the tutorials: made again byte for byte, and no way to score on it by remembering."""

from collections import Counter
from pathlib import Path

import pytest

from examples.data import make_sample, make_tasks
from tests.tiny import read_csv

SPLITS = ("train", "validation", "test")
SAMPLE = Path(make_sample.__file__).parent


def read(split: str) -> list[dict[str, str]]:
    return read_csv(SAMPLE / f"tweets_{split}.csv")


def test_the_committed_files_are_what_the_generator_makes(tmp_path: Path) -> None:
    for made in [*make_sample.write_sample(tmp_path), *make_tasks.write_tasks(tmp_path)]:
        assert made.read_bytes() == (SAMPLE / made.name).read_bytes()


def test_no_template_stands_in_two_splits() -> None:
    used = {split: {tweet.template for tweet in make_sample.make_split(split)} for split in SPLITS}
    assert not used["train"] & used["validation"]
    assert not used["train"] & used["test"]
    assert not used["validation"] & used["test"]
    for split in SPLITS:
        assert used[split] == {row for rows in make_sample.TEMPLATES[split].values() for row in rows}


@pytest.mark.parametrize("split", SPLITS)
def test_one_label_in_twenty_is_wrong(split: str) -> None:
    rows = make_sample.make_split(split)
    wrong = sum(tweet.template not in make_sample.TEMPLATES[split][tweet.label] for tweet in rows)
    assert wrong == round(len(rows) / 20)


def test_there_are_enough_texts_of_both_classes_and_none_twice() -> None:
    rows = [row for split in SPLITS for row in read(split)]
    assert len(rows) >= 1000
    assert max(Counter(make_sample.without_handles(row["text"]) for row in rows).values()) == 1
    counts = Counter(row["label"] for row in rows)
    assert set(counts) == {"negative", "positive"}
    assert min(counts.values()) > 0.45 * len(rows)
    assert sum(path.stat().st_size for path in SAMPLE.glob("*.csv")) < 300_000


def test_the_texts_look_like_tweets() -> None:
    texts = " ".join(row["text"] for row in read("train"))
    for sign in ("@", "http://example.com/", "#", "ooo"):
        assert sign in texts


def test_the_tutorials_test_on_aspects_wordings_and_subjects_that_training_never_saw() -> None:
    aspects = {
        split: {row["aspect"] for row in read_csv(SAMPLE / f"aspects_{split}.csv")}
        for split in ("train", "test")
    }
    assert aspects["train"] and aspects["test"] and not aspects["train"] & aspects["test"]
    wordings = {
        split: {each for group in make_tasks.JUDGEMENTS[split].values() for each in group}
        for split in aspects
    }
    assert not wordings["train"] & wordings["test"]
    assert not set(make_tasks.ACTIONS["train"]) & set(make_tasks.ACTIONS["test"])
    for kind, labels in (("aspects", 3), ("questions", 2)):
        counts = Counter(row["label"] for row in read_csv(SAMPLE / f"{kind}_train.csv"))
        assert len(counts) == labels and min(counts.values()) > 0.25 * sum(counts.values())
