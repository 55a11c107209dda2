"""Tests of the texts that a run records as seen: as cleaned and as read, and of no other part."""

import numpy as np
import pytest

from hf_layerfusion.ensembling.prediction_files import read_logits
from hf_layerfusion.ensembling.trained_texts import read_trained_texts, seen_rows, text_hashes
from hf_layerfusion.recipes.data_preparation import prepare
from hf_layerfusion.recipes.ensemble_artifacts import text_rows, write_seen_texts, write_split_logits
from hf_layerfusion.recipes.fold_runs import prepare_folds
from hf_layerfusion.recipes.recipe_arguments import AbsaDataArguments, DataArguments
from tests.tiny import write_csv


def texts(count, start=0):
    """Return texts that cleaning changes, all different."""
    return [
        (f"Good   DAY {chr(97 + number % 26)}{number} !!!", "ab"[number % 2])
        for number in range(start, start + count)
    ]


def seen(tmp_path, arguments):
    data = prepare(arguments)
    write_seen_texts(tmp_path, [data])
    return data, read_trained_texts(tmp_path)


@pytest.mark.parametrize("own_validation", [False, True])
def test_cleaned_and_raw_texts_are_known_by_their_part(tmp_path, own_validation):
    train, dev, test = texts(40), texts(20, 100), texts(10, 200)
    files = {"train_file": str(write_csv(tmp_path / "train.csv", train))}
    if own_validation:
        files["validation_file"] = str(write_csv(tmp_path / "dev.csv", dev))
    files["test_file"] = str(write_csv(tmp_path / "test.csv", test))
    data, found = seen(tmp_path, DataArguments(**files, preprocessing_steps=["whitespace"]))
    raw = {row: (text,) for row, (text, _) in enumerate(train, start=2)}
    for part, split in (("train", "train"), ("selection", "validation")):
        cleaned = text_rows(data.splits[split], ("text",))
        assert cleaned[0][0] != train[0][0]
        assert seen_rows(text_hashes(cleaned), {part: found[part]}).all()
        as_read = [raw[row] for row in data.splits[split]["row"] if split == "train" or not own_validation]
        assert seen_rows(text_hashes(as_read), {part: found[part]}).all()
    others = [(text,) for text, _ in test] + text_rows(data.splits["test"], ("text",))
    assert not seen_rows(text_hashes(others), found).any()
    trained = text_rows(data.splits["train"], ("text",))
    assert not seen_rows(text_hashes(trained), {"selection": found["selection"]}).any()


def test_train_on_all_has_been_trained_on_all(tmp_path):
    path = str(write_csv(tmp_path / "train.csv", texts(40)))
    _, found = seen(tmp_path, DataArguments(path, preprocessing="none", train_on_all=True))
    assert len(found["train"]) == 40 and len(found["selection"]) == 0


def test_a_fold_has_not_seen_what_it_is_tested_on_and_its_predictions_are_read_as_out_of_fold(tmp_path):
    rows = [(f"the {noun} is {n}", "ab"[n % 2]) for n in range(30) for noun in ("food", "phone")]
    arguments = AbsaDataArguments(
        str(write_csv(tmp_path / "train.csv", rows)), text_column="text", group_column=None,
        text_pair_column=None, folds=3, fold_split="stratified",
    )  # fmt: skip
    expected = np.random.default_rng(0).normal(size=(60, 2))
    for number, data in enumerate(prepare_folds(arguments), start=1):
        folder = tmp_path / "run" / f"fold-{number}"
        folder.mkdir(parents=True)
        write_seen_texts(folder, [data])
        tested, found = text_rows(data.splits["test"], ("text",)), read_trained_texts(folder)
        assert not seen_rows(text_hashes(tested), found).any()
        assert len(found["train"]) + len(found["selection"]) == 60 - len(tested)
        places = [int(row) - 2 for row in data.splits["test"]["row"]]
        write_split_logits(folder, data, data.splits["test"], expected[places])
    columns = {"text": [text for text, _ in rows]}
    read = read_logits(tmp_path / "run", ids=list(range(60)), texts=columns, labels=("a", "b"))
    np.testing.assert_array_equal(read, expected)
