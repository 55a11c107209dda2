import json
import math
import statistics

import pytest

from hf_layerfusion.data.statistics import corpus_statistics, statistics_table, word_counts

TEXTS = ["a b c", "a", "a b", "", "a  b\tc d\u0085e", "a b c d"]
LABELS = [1, 0, 1, 0, 1, 1]


def test_word_counts_by_class() -> None:
    counts = word_counts(TEXTS, LABELS)

    assert list(counts) == [0, 1]
    assert [values.tolist() for values in counts.values()] == [[1, 0], [3, 2, 5, 4]]


def test_classes_stand_in_numeric_order() -> None:
    assert list(word_counts(["a"] * 4, [10, 9, "pos", "neg"])) == [9, 10, "neg", "pos"]


def test_numbers_from_a_file_stand_in_numeric_order_before_names() -> None:
    labels = ["10", "9", "b", "-1.5", "a"]
    assert list(word_counts(labels, labels)) == ["-1.5", "9", "10", "a", "b"]


def test_statistics_against_the_standard_library() -> None:
    words = [3, 2, 5, 4]
    found = corpus_statistics(TEXTS, LABELS)[1]

    assert found["texts"] == 4
    assert found["mean"] == statistics.mean(words)
    assert found["sd"] == round(statistics.pstdev(words), 2)
    assert (found["min"], found["max"]) == (2, 5)
    # Linear interpolation between the sorted values 2, 3, 4, 5 at position 3q.
    quantiles = [found[f"q{share}"] for share in (0.05, 0.25, 0.5, 0.75, 0.95)]
    assert quantiles == pytest.approx([2.15, 2.75, 3.5, 4.25, 4.85])


def test_statistics_are_plain_numbers() -> None:
    found = corpus_statistics(["a b"], [0])[0]

    assert json.loads(json.dumps(found)) == found
    assert found["sd"] == 0.0
    assert all(math.isfinite(value) for value in found.values())


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"Found 1 labels and 2 texts"):
        corpus_statistics(["a", "b"], [0])
    with pytest.raises(ValueError, match=r"texts must not be empty"):
        word_counts([], [])


def test_table() -> None:
    before = corpus_statistics(["a"] * 1500 + ["a b"], [0] * 1500 + [1])
    after = corpus_statistics(["a b c"], [0])

    header, rows = statistics_table(before, after)

    assert statistics_table(after, after)[0] == ["words a text", "0"]
    assert header == ["words a text", "0, before", "0, after", "1, before", "1, after"]
    assert rows[0] == ["texts", "1,500", "1", "1", "–"]
    assert rows[1] == ["mean", "1", "3", "2", "–"]
    assert {len(row) for row in rows} == {5}
    assert [row[0] for row in rows] == [
        *("texts", "mean", "sd", "max", "min"),
        *("q0.05", "q0.25", "q0.5", "q0.75", "q0.95"),
    ]
