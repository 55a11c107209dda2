"""Files of predictions and of seen texts: what is written comes back, and what does not fit is refused."""

import csv

import numpy as np
import pytest

from hf_layerfusion.ensembling.prediction_files import read_logits, rows_hash, write_logits
from hf_layerfusion.ensembling.trained_texts import (
    FILE_NAME,
    check_held_out,
    read_trained_texts,
    seen_rows,
    text_hashes,
    write_trained_texts,
)
from hf_layerfusion.errors import UserError

IDS = ["7", "8", "9"]
TEXTS = {"text": ["a, b", 'say "c"\nd', "e"]}
LOGITS = np.array([[0.1, -2.0], [1 / 3, 5e-7], [4.0, 1e30]])
NAMES = ["no", "yes"]


def test_predictions_come_back_to_the_last_digit_in_the_order_asked_for(tmp_path):
    path = tmp_path / "logits.csv"
    write_logits(path, ids=IDS, texts=TEXTS, logits=LOGITS, labels=NAMES)
    np.testing.assert_array_equal(read_logits(path, ids=IDS, texts=TEXTS, labels=NAMES), LOGITS)
    order = [2, 0, 1]
    texts = {"text": [TEXTS["text"][row] for row in order]}
    found = read_logits(path, ids=[IDS[row] for row in order], texts=texts, labels=NAMES[::-1])
    np.testing.assert_array_equal(found, LOGITS[order][:, ::-1])
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["logits.csv"]
    write_logits(path, ids=IDS, texts=TEXTS, logits=LOGITS[:, :1], labels=())
    np.testing.assert_array_equal(read_logits(path, ids=IDS, texts=TEXTS, labels=()), LOGITS[:, 0])


def test_the_folds_of_a_cross_validation_are_read_together(tmp_path):
    for number, rows in enumerate(([2], [0, 1]), start=1):
        (tmp_path / f"fold-{number}").mkdir()
        write_logits(
            tmp_path / f"fold-{number}" / "logits.csv",
            ids=[IDS[row] for row in rows],
            texts={"text": [TEXTS["text"][row] for row in rows]},
            logits=LOGITS[rows],
            labels=NAMES,
        )
    np.testing.assert_array_equal(read_logits(tmp_path, ids=IDS, texts=TEXTS, labels=NAMES), LOGITS)


def rewrite(path, change):
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(change(rows))


DAMAGES = {
    "row missing": (
        lambda rows: rows[:-1],
        "must predict the 3 rows that are asked for, ids and texts alike, found none",
    ),
    "row too many": (lambda rows: [*rows, ["10", "f", "0", "0"]], "found 4 rows"),
    "other text": (lambda rows: [*rows[:-1], ["9", "E", "0", "0"]], "found none for id '9'"),
    "row twice": (lambda rows: [*rows, rows[-1]], "found the id '9' twice"),
    "other labels": (
        lambda rows: [["id", "text", "logit_no", "logit_maybe"], *rows[1:]],
        "its labels must be the ensemble's",
    ),
    "no number": (
        lambda rows: [*rows[:-1], ["9", "e", "x", "0"]],
        "must hold numbers, found others at id '9'",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_predictions_of_other_rows_or_labels_are_refused(tmp_path, damage):
    change, message = DAMAGES[damage]
    path = tmp_path / "logits.csv"
    write_logits(path, ids=IDS, texts=TEXTS, logits=LOGITS, labels=NAMES)
    rewrite(path, change)
    with pytest.raises(UserError) as caught:
        read_logits(path, ids=IDS, texts=TEXTS, labels=NAMES)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"or a folder with fold-\*/logits.csv, found none"):
        read_logits(tmp_path, ids=IDS, texts=TEXTS, labels=NAMES)


def test_rows_are_told_apart_by_text_order_and_place():
    hashes = {
        rows_hash(rows)
        for rows in (
            [("a", "b")],
            [("ab",)],
            [("a",), ("b",)],
            [("b",), ("a",)],
            [("b", "a")],
            [("a", "b"), ()],
        )
    }
    assert len(hashes) == 6
    assert rows_hash([("a",)]) == rows_hash([("a",)])


# Seen texts


def test_seen_texts_are_known_again_pairs_either_way_round(tmp_path):
    write_trained_texts(tmp_path, text_hashes([("a", "b"), ("c",), ("c",)]), text_hashes([("d",)]))
    seen = read_trained_texts(tmp_path)
    assert {part: len(hashes) for part, hashes in seen.items()} == {"train": 2, "selection": 1}
    rows = [("b", "a"), ("c",), ("d",), ("ab",), ("a",), ("c", "")]
    assert seen_rows(text_hashes(rows), seen).tolist() == [True, True, True, False, False, False]
    assert read_trained_texts(tmp_path / "nowhere") is None
    assert not seen_rows(text_hashes(rows), {}).any()
    # One in 2**64 rows is taken for another: not among a few.
    assert len(set(text_hashes([(str(number),) for number in range(10_000)]).tolist())) == 10_000


def test_a_damaged_file_of_seen_texts_is_refused(tmp_path):
    write_trained_texts(tmp_path, text_hashes([("a",)] * 50))
    path = tmp_path / FILE_NAME
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="found a damaged file"):
        read_trained_texts(tmp_path)


def test_unknown_members_are_named_or_refused():
    seen = [("known", {"train": text_hashes([("a",)])}), ("unknown", None)]
    assert check_held_out(seen, [("b",)], unverified_members=True) == ["unknown"]
    with pytest.raises(UserError, match="member unknown: must say which texts"):
        check_held_out(seen, [("b",)], unverified_members=False)
    with pytest.raises(UserError, match="member known: must not have seen"):
        check_held_out(seen, [("a",)], unverified_members=True)
