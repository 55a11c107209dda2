"""Double quotes in csv and tsv files: no row is ever lost in a quoted text, whole files and streams alike."""

from __future__ import annotations

import csv
from pathlib import Path

import pandas as pd
import pytest

from hf_layerfusion.data.files import read_examples
from hf_layerfusion.data.streaming import stream_texts
from hf_layerfusion.errors import UserError

HEADER = "text\tlabel\n"
UNQUOTED = {
    "stray quotes glue rows": (
        HEADER + '"he said\t0\nso it was\t1\nand left"\t1\n',
        ['"he said', "so it was", 'and left"'],
    ),
    "label first": ('label\ttext\n0\t"he said\n1\tso\n1\tand left"\n', ['"he said', "so", 'and left"']),
    "never closed": (HEADER + 'a\t0\n"b\t1\n', ["a", '"b']),
    "closed within the text": (HEADER + '"a" b\t0\n"c", d "e"\t1\n', ['"a" b', '"c", d "e"']),
    "a lone quote": (HEADER + '"\t0\nb\t1\n', ['"', "b"]),
    "a quotation": (HEADER + '"a b"\t0\nc\t1\n', ['"a b"', "c"]),
    "line ends of Windows": (HEADER + '"a\t0\r\nb"\t1\r\n', ['"a', 'b"']),
}


@pytest.mark.parametrize("suffix", [".tsv", ".csv"])  # files of CS 224N are called .csv and separated by tabs
@pytest.mark.parametrize("case", UNQUOTED)
def test_quotes_are_part_of_the_texts_of_a_file_written_without_quoting(tmp_path, case, suffix):
    content, texts = UNQUOTED[case]
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content.encode())
    examples = read_examples(path)
    assert examples["text"][:] == texts
    assert examples["row"][:] == list(range(2, 2 + len(texts)))
    assert list(stream_texts(path)) == texts
    position = content.splitlines()[0].split("\t").index("label")
    assert examples["label"][:] == [int(line.split("\t")[position]) for line in content.splitlines()[1:]]


TEXTS = [
    "plain",
    'say "hi"',
    '"opens',
    'closes"',
    "two\nlines",
    "with\ttab",
    "comma, here",
    "semicolon; here",
    '""',
    "x",
]


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
@pytest.mark.parametrize(("suffix", "separator"), [(".tsv", "\t"), (".csv", ","), (".csv", ";")])
def test_what_a_writer_of_csv_quotes_is_read_as_it_was(tmp_path, suffix, separator, quoting):
    path = tmp_path / f"a{suffix}"
    for texts in (TEXTS, [text for text in TEXTS if "\n" not in text and "\t" not in text], ["a", "b"]):
        frame = pd.DataFrame({"text": texts, "label": [number % 2 for number in range(len(texts))]})
        frame.to_csv(path, sep=separator, index=False, quoting=quoting)
        assert read_examples(path)["text"][:] == texts
        assert list(stream_texts(path)) == texts


def test_excel_quotes_tab_separated_texts_with_commas(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text(HEADER + '"a, b"\t0\nc\t1\n')
    assert read_examples(path)["text"][:] == ["a, b", "c"]


def test_a_column_that_is_quoted_throughout_is_read_without_quotes(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text(HEADER + '"a b"\t0\n"c"\t1\n')
    assert read_examples(path)["text"][:] == ["a b", "c"]


SWALLOWED = {
    # A row with a tab too many makes quoting necessary; the stray quote is met before it.
    "tsv": (".tsv", HEADER + '"a\t0\nb\t1\nc"\t1\n"d\te"\t0\n', 2, 2),
    "one column": (".tsv", 'text\na\n"b\nc"\n', 3, 1),
    "csv": (".csv", 'text,label\n"a,0\nb,1\nc",1\nd,0\n', 2, 2),
    "csv, label first": (".csv", 'label,text\n1,x\n0,"a\n1,b"\n', 3, 1),
    "csv, at the end": (".csv", 'text,label\nx,0\ny,1\n"a,0\nb",1\n', 4, 1),
}


@pytest.mark.parametrize("case", SWALLOWED)
def test_rows_that_a_stray_quote_swallows_are_refused(tmp_path, case):
    suffix, content, row, lines = SWALLOWED[case]
    path = tmp_path / f"a{suffix}"
    path.write_text(content)
    message = (
        f"row {row}: a double quote opens a text and is closed {lines} lines later, and these lines are rows"
    )
    if case != "one column":
        with pytest.raises(UserError, match=message):
            read_examples(path)
    with pytest.raises(UserError, match=message):
        list(stream_texts(path))


@pytest.mark.parametrize(
    "text", ["Well, then\nlet us go, now", "a, 0\nb", "no comma\nhere, one", "one\ntwo\nthree"]
)
def test_texts_over_several_lines_of_a_csv_file_are_texts(tmp_path, text):
    path = tmp_path / "a.csv"
    pd.DataFrame({"text": [text, "b", "c"], "label": [0, 1, 0]}).to_csv(path, index=False)
    assert read_examples(path)["text"][:] == [text, "b", "c"]
    assert list(stream_texts(path)) == [text, "b", "c"]


def test_predictions_that_we_write_are_read_as_they_were(tmp_path: Path):
    np = pytest.importorskip("numpy")
    from hf_layerfusion.evaluation.predictions import write_predictions

    path = tmp_path / "predictions.csv"
    write_predictions(
        path,
        ids=range(len(TEXTS)),
        texts={"text": TEXTS},
        logits=np.eye(2)[[number % 2 for number in range(len(TEXTS))]],
        problem_type="single_label_classification",
        label_names=("a", "b"),
    )
    assert read_examples(path)["text"][:] == TEXTS


def test_numbers_with_decimal_commas_are_values_where_semicolons_separate(tmp_path):
    path = tmp_path / "excel.csv"
    path.write_text("text;label\na;0,5\nb;2\n")
    assert read_examples(path)["label"][:] == [0.5, 2.0]
    path.write_text('text,label\na,"0,5"\nb,2\n')
    assert read_examples(path)["label"][:] == ["0,5", "2"]
