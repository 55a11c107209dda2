"""Tests of the changes that a fingerprint detects and of those that it ignores."""

import pytest
from datasets import Dataset

from hf_layerfusion.data.fingerprints import RowHash, file_fingerprint, fingerprint

ROWS = {"text": ["a", "b", "c"], "label": [0, 1, 0], "id": ["1", "2", "3"], "note": ["x", "y", "z"]}
COLUMNS = ("text", "label", "id")
NAMES = ("no", "yes")


def found(names=NAMES, **changes):
    return fingerprint(Dataset.from_dict({**ROWS, **changes}), COLUMNS, names)


@pytest.mark.parametrize(
    "changes",
    [
        {"label": [1, 0, 1]},
        {"text": ["a", "b", "d"]},
        {"text": ["b", "a", "c"], "label": [1, 0, 0], "id": ["2", "1", "3"]},
        {"id": ["1", "2", "4"]},
        {"text": ["a", "bc", ""]},
        {"names": ("yes", "no")},
        {"label": [[0], [1], [0]]},
        {name: values[:2] for name, values in ROWS.items()},
    ],
)
def test_another_row_label_id_order_or_name_is_another_fingerprint(changes):
    assert found(**changes) != found()


def test_columns_that_do_not_count_and_the_way_to_the_rows_do_not_matter():
    assert found(note=["p", "q", "r"]) == found()
    twice = Dataset.from_dict({name: [*values, *values] for name, values in ROWS.items()})
    assert fingerprint(twice.select(range(3, 6)), COLUMNS, NAMES) == found()
    assert found()["rows"] == 3


def test_a_lone_surrogate_is_a_string_as_any():
    rows = RowHash()
    rows.add(["\ud83d"])
    assert rows.fingerprint()["rows"] == 1


def test_files_of_predictions(tmp_path):
    for number in (1, 2):
        (tmp_path / f"fold-{number}").mkdir()
        (tmp_path / f"fold-{number}" / "logits.csv").write_text(f"id\n{number}\n")
    before = file_fingerprint(tmp_path)
    assert before["rows"] == 4
    (tmp_path / "fold-1" / "logits.csv").write_text("id\n3\n")
    assert file_fingerprint(tmp_path) != before
    assert file_fingerprint(tmp_path / "fold-2" / "logits.csv")["rows"] == 2
