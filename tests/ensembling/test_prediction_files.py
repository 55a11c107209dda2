"""Tests of prediction files and text hashes: round trips, and refusals."""

import csv
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from hf_layerfusion.ensembling.prediction_files import cached, read_logits, rows_hash, write_logits
from hf_layerfusion.ensembling.trained_texts import (
    check_held_out,
    read_trained_texts,
    seen_rows,
    text_hashes,
    write_trained_texts,
)
from hf_layerfusion.errors import UserError
from hf_layerfusion.run_layout import TRAINED_TEXTS_FILE, find

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
        (tmp_path / f"fold-{number}" / "run").mkdir(parents=True)
        write_logits(
            tmp_path / f"fold-{number}" / "run" / "logits.csv",
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
        "must predict the 3 requested rows, with the same ids and texts, found none",
    ),
    "row too many": (lambda rows: [*rows, ["10", "f", "0", "0"]], "found 4 rows"),
    "other text": (lambda rows: [*rows[:-1], ["9", "E", "0", "0"]], "found none for id '9'"),
    "row twice": (lambda rows: [*rows, rows[-1]], "found the id '9' twice"),
    "other labels": (
        lambda rows: [["id", "text", "logit_no", "logit_maybe"], *rows[1:]],
        "its labels must be the ensemble's",
    ),
    "not finite": (
        lambda rows: [*rows[:-1], ["9", "e", "nan", "0"]],
        "must hold finite numbers, found others at id '9'",
    ),
    "no number": (
        lambda rows: [*rows[:-1], ["9", "e", "x", "0"]],
        "must hold finite numbers, found others at id '9'",
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
    with pytest.raises(UserError, match=r"or a folder with fold-\*/run/logits.csv, found none"):
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
    path = find(tmp_path, TRAINED_TEXTS_FILE)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="found a damaged file"):
        read_trained_texts(tmp_path)


def test_a_flipped_bit_anywhere_in_a_file_of_seen_texts_is_found_or_changes_nothing(tmp_path):
    write_trained_texts(tmp_path, text_hashes([("a",), ("b",)]), text_hashes([("c",)]))
    path = find(tmp_path, TRAINED_TEXTS_FILE)
    content, expected = path.read_bytes(), read_trained_texts(tmp_path)
    refused = 0
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        try:
            found = read_trained_texts(tmp_path)
        except UserError:
            refused += 1
            continue
        for part, hashes in expected.items():
            np.testing.assert_array_equal(found[part], hashes)
    assert refused > len(content) / 2


def test_unknown_members_are_named_or_refused():
    seen = [("known", {"train": text_hashes([("a",)])}), ("unknown", None)]
    assert check_held_out(seen, [("b",)], unverified_members=True) == ["unknown"]
    with pytest.raises(UserError, match="member unknown: must record which texts"):
        check_held_out(seen, [("b",)], unverified_members=False)
    with pytest.raises(UserError, match="member known: must not have seen"):
        check_held_out(seen, [("a",)], unverified_members=True)


# The cache

ANSWERS = np.arange(6, dtype=np.float32).reshape(3, 2)


def entry(tmp_path, key=("model", "task"), answers=ANSWERS):
    """Fill a cache with one entry, and return its file."""
    folder = tmp_path / "cache"
    before = set(folder.glob("*.safetensors"))
    cached(folder, key, lambda: answers, answers.shape)
    (path,) = set(folder.glob("*.safetensors")) - before
    return path


def asked_again(path, shape=ANSWERS.shape):
    """Return what the cache returns for the entry, and whether it was computed again."""
    made = []

    def predict():
        made.append(1)
        return np.full(shape, 9, np.float32)

    return cached(path.parent, ("model", "task"), predict, shape), bool(made)


def test_a_flipped_bit_anywhere_in_an_entry_is_found(tmp_path, caplog):
    path = entry(tmp_path)
    content = path.read_bytes()
    for position in range(len(content)):
        changed = bytearray(content)
        changed[position] ^= 1 << position % 8
        path.write_bytes(changed)
        caplog.clear()
        found, anew = asked_again(path)
        assert anew, position
        assert (found == 9).all()
        assert f"{path}: cached predictions are damaged (" in caplog.text
    path.write_bytes(content)
    found, anew = asked_again(path)
    assert not anew
    np.testing.assert_array_equal(found, ANSWERS)


def test_an_entry_of_another_shape_type_key_or_with_nan_is_made_anew(tmp_path, caplog):
    others = {
        "found float32 of (2, 2)": ANSWERS[:2],
        "found float32 of (3, 1)": ANSWERS[:, :1],
        "found float64 of (3, 2)": ANSWERS.astype(np.float64),
        "not all of them are finite": np.full_like(ANSWERS, np.nan),
    }
    for number, (message, answers) in enumerate(others.items()):
        path = entry(tmp_path / str(number), answers=answers)
        assert asked_again(path)[1]
        assert message in caplog.text
    path, other = entry(tmp_path), entry(tmp_path, key=("another", "task"))
    other.replace(path)
    assert asked_again(path)[1]
    assert "sha256 differs" in caplog.text


def test_threads_that_fill_one_cache_leave_whole_entries(tmp_path):
    def fill(number):
        return cached(tmp_path, [number % 5], lambda: np.full((50, 3), number % 5, np.float32), (50, 3))

    with ThreadPoolExecutor(8) as pool:
        for number, found in enumerate(pool.map(fill, range(400))):
            assert (found == number % 5).all()
    assert len(list(tmp_path.glob("*.safetensors"))) == 5


def test_a_cache_that_cannot_be_written_to_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        UserError, match=r"^cache of predictions .*file: cannot be written: .*; a file stands"
    ):
        cached(tmp_path / "file", ("key",), lambda: ANSWERS, ANSWERS.shape)
