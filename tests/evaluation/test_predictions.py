import csv

import numpy as np
import pytest

from hf_layerfusion.errors import UserError
from hf_layerfusion.evaluation.predictions import check_predictions, spreadsheet_cell, write_predictions

SINGLE = "single_label_classification"
MULTI = "multi_label_classification"


def rows(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def test_single_label(tmp_path):
    path = tmp_path / "predictions.csv"
    texts = ['He said "no", twice', "two\nlines\r\nor three", "cr\ralone \x85 é 😀"]
    write_predictions(
        path,
        ids=[7, "b", 9],
        texts={"text": texts},
        logits=np.array([[0.0, np.log(3)], [0.0, 0.0], [800.0, -800.0]], np.float32),
        problem_type=SINGLE,
        label_names=["negative", "positive"],
    )
    assert rows(path) == [
        ["id", "text", "label", "score"],
        ["7", texts[0], "positive", "0.750000"],
        ["b", texts[1], "negative", "0.500000"],
        ["9", texts[2], "negative", "1.000000"],
    ]
    # RFC 4180: lines end in CRLF; fields with quotes, commas or line breaks are quoted, quotes doubled
    assert path.read_bytes().startswith(
        b'id,text,label,score\r\n7,"He said ""no"", twice",positive,0.750000\r\n'
    )


def test_pairs_have_a_column_for_each_text(tmp_path):
    path = tmp_path / "p.csv"
    texts = {"sentence1": ["a"], "sentence2": ["b"]}
    write_predictions(
        path, ids=[0], texts=texts, logits=np.eye(2)[:1], problem_type=SINGLE, label_names=["x", "y"]
    )
    assert rows(path)[0] == ["id", "sentence1", "sentence2", "label", "score"]
    assert rows(path)[1][:4] == ["0", "a", "b", "x"]


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_regression(tmp_path, shape):
    path = tmp_path / "p.csv"
    logits = np.array([2.5, -0.1, 1e-9], np.float32).reshape(shape)
    write_predictions(
        path, ids=[0, 1, 2], texts={"text": ["a", "b", "c"]}, logits=logits, problem_type="regression"
    )
    assert rows(path)[0] == ["id", "text", "value"]
    assert [float(row[2]) for row in rows(path)[1:]] == pytest.approx([2.5, -0.1, 1e-9])


def test_multi_label(tmp_path):
    path = tmp_path / "p.csv"
    write_predictions(
        path,
        ids=[0, 1],
        texts={"text": ["a", "b"]},
        logits=np.array([[np.log(3), -1.0, np.log(4)], [-1.0, -1.0, -1.0]]),
        problem_type=MULTI,
        label_names=["joy", "fear", "love"],
    )
    assert rows(path)[1:] == [["0", "a", "joy;love", "0.750000;0.800000"], ["1", "b", "", ""]]


def test_kaggle(tmp_path):
    path = tmp_path / "p.csv"
    write_predictions(
        path,
        ids=["1", 3, "2"],
        texts={"text": ["a", "b", "c"]},
        logits=np.array([[0.0, 1.0], [1.0, 0.0], [-3.0, -2.0]]),
        problem_type=SINGLE,
        label_names=["sad", "happy"],
        format="kaggle",
    )
    assert rows(path) == [["Id", "Prediction"], ["1", "1"], ["3", "-1"], ["2", "1"]]


@pytest.mark.parametrize(
    ("logits", "problem_type", "names"),
    [
        (np.zeros((2, 3)), SINGLE, ["a", "b", "c"]),
        (np.zeros((2, 2)), MULTI, ["a", "b"]),
        (np.zeros((2, 1)), "regression", []),
        (np.zeros(2), "regression", []),
    ],
)
def test_kaggle_wants_two_classes(tmp_path, logits, problem_type, names):
    path = tmp_path / "p.csv"
    with pytest.raises(UserError, match=r"two classes.*use prediction_format standard"):
        write_predictions(
            path,
            ids=[1, 2],
            texts={"text": ["a", "b"]},
            logits=logits,
            problem_type=problem_type,
            label_names=names,
            format="kaggle",
        )
    assert not path.exists()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"ids": [1]}, ValueError, "ids must have one entry a row, 2 in all; found 1"),
        ({"texts": {"text": ["a"]}}, ValueError, "text must have"),
        ({"texts": {"score": ["a", "b"]}}, UserError, "'score'"),
        ({"label_names": ["x"]}, ValueError, "label_names"),
        ({"format": "xml"}, ValueError, "'xml'"),
        ({"problem_type": "ranking"}, ValueError, "'ranking'"),
        ({"problem_type": MULTI, "label_names": ["a;b", "c"]}, UserError, "'a;b'"),
        ({"problem_type": "regression"}, ValueError, "regression"),
        ({"format": "kaggle", "ids": [0, 1]}, UserError, "different whole numbers from 1 on; found '0'"),
        ({"format": "kaggle", "ids": ["1", "x"]}, UserError, "different whole numbers from 1 on; found 'x'"),
        ({"format": "kaggle", "ids": ["1", 1]}, UserError, "different whole numbers from 1 on; found '1'"),
    ],
)
def test_bad_input_leaves_the_old_file_alone(tmp_path, change, error, message):
    path = tmp_path / "p.csv"
    path.write_text("old")
    arguments = {
        "ids": [1, 2],
        "texts": {"text": ["a", "b"]},
        "logits": np.zeros((2, 2)),
        "problem_type": SINGLE,
        "label_names": ["x", "y"],
    }
    with pytest.raises(error, match=message) as caught:
        write_predictions(path, **(arguments | change))
    assert "\n" not in str(caught.value)
    assert path.read_text() == "old"


def test_a_failure_half_way_leaves_nothing_half_written(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write_predictions(
            path,
            ids=[1, 2],
            texts={"text": ["a", "\ud800"]},
            logits=np.zeros((2, 2)),
            problem_type=SINGLE,
            label_names=["x", "y"],
        )
    assert [entry.name for entry in tmp_path.iterdir()] == ["p.csv"]
    assert path.read_text() == "old"


# Spreadsheets


FORMULAS = ["=cmd|' /C calc'!A0", "+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "＝1"]


def test_nothing_that_others_wrote_is_a_formula_in_a_spreadsheets_form(tmp_path):
    path = tmp_path / "predictions.csv"
    for kind, columns in (
        ("single_label_classification", 2),
        ("multi_label_classification", 2),
        ("regression", 1),
    ):
        write_predictions(
            path,
            ids=FORMULAS,
            texts={"=text": FORMULAS, "b": ["plain"] * len(FORMULAS)},
            logits=np.array([[-1.5, 2.0]] * len(FORMULAS))[:, -columns:],
            problem_type=kind,
            label_names=["-no", "=yes"] if columns == 2 else (),
            format="spreadsheet",
        )
        with path.open(encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file)
        assert header[:3] == ["id", "'=text", "b"]
        assert [row[:3] for row in rows] == [[f"'{text}", f"'{text}", "plain"] for text in FORMULAS]
        assert all(row[3] == ("'=yes" if columns == 2 else "2") for row in rows)


def test_numbers_and_plain_texts_stay_as_they_are_in_a_spreadsheet():
    for cell in (-1.5, 3, "plain", "a=b", "", "'quoted"):
        assert spreadsheet_cell(cell) == cell


def test_kaggle_ids_are_checked_before_there_are_predictions():
    check_predictions(
        "single_label_classification", ["a", "b"], ["text"], "kaggle", "tweet_id", ids=["1", "2"]
    )
    with pytest.raises(UserError, match="different whole numbers from 1 on; found 'tw-1'"):
        check_predictions(
            "single_label_classification", ["a", "b"], ["text"], "kaggle", "tweet_id", ids=["tw-1"]
        )
