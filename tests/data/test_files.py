import csv
import json
import logging
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_layerfusion.data.files import check_examples, read_competition, read_examples, read_hub
from hf_layerfusion.errors import UserError

FORMATS = ("csv", "tsv", "jsonl", "json", "parquet")
NASTY_TEXTS = [
    "NA",
    "null",
    "None",
    "nan",
    "  leading and trailing  ",
    'say "hi", twice',
    '"',
    "tab\there",
    "next\x85line and line\u2028separator",
    "=1+1",
    "\ufefflater mark",
    "007",
    "emoji 👩‍👩‍👧 🇨🇭",
    "line\nbreak",
]


def write(path: Path, rows: list[dict]) -> Path:
    """Writes rows by each format's usual writer, none of which is ours."""
    suffix = path.suffix
    if suffix in (".csv", ".tsv"):
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="," if suffix == ".csv" else "\t")
            writer.writeheader()
            writer.writerows(rows)
    elif suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif suffix == ".json":
        path.write_text(json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8")
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def refused(pattern: str, function, *arguments, **options) -> str:
    """Calls the function, which must raise a one-line `UserError` that matches; returns the message."""
    with pytest.raises(UserError, match=pattern) as caught:
        function(*arguments, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500
    return message


def refused_file(path: Path, content: bytes | str, pattern: str, **options) -> None:
    """The file is refused with its name at the start of the message."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    message = refused(pattern, read_examples, path, **options)
    assert message.startswith(f"{path}: ")


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_keeps_texts_labels_ids_and_order(tmp_path, suffix):
    rows = [
        {"key": f"k{number}", "text": text, "label": number % 3 - 1, "other": "x"}
        for number, text in enumerate(NASTY_TEXTS)
    ]
    dataset = read_examples(write(tmp_path / f"a.{suffix}", rows), id_column="key")
    assert dataset["text"][:] == NASTY_TEXTS
    assert dataset["label"][:] == [number % 3 - 1 for number in range(len(rows))]
    assert dataset["id"][:] == [f"k{number}" for number in range(len(rows))]
    first_row = 2 if suffix in ("csv", "tsv") else 1
    assert dataset["row"][:] == list(range(first_row, first_row + len(rows)))
    assert sorted(dataset.column_names) == ["id", "label", "row", "text"]
    assert dataset.features["text"] == Value("string")
    assert dataset.features["label"] == Value("int64")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\n"), min_size=1).filter(
            lambda text: text.strip()
        ),
        min_size=1,
        max_size=6,
    )
)
def test_any_text_survives_every_format(tmp_path, texts):
    rows = [{"text": text, "label": "a"} for text in texts]
    for suffix in FORMATS:
        assert read_examples(write(tmp_path / f"a.{suffix}", rows))["text"][:] == texts


@pytest.mark.parametrize("suffix", FORMATS)
def test_pairs_and_ids_by_number(tmp_path, suffix):
    rows = [{"a": "x", "b": "y", "score": 1.5}, {"a": "z", "b": "w", "score": 2.0}]
    dataset = read_examples(
        write(tmp_path / f"a.{suffix}", rows), text_columns=("a", "b"), label_column="score"
    )
    assert dataset["a"][:] == ["x", "z"]
    assert dataset["b"][:] == ["y", "w"]
    assert dataset["label"][:] == [1.5, 2.0]
    assert dataset["id"][:] == ["0", "1"]


@pytest.mark.parametrize("suffix", FORMATS)
def test_without_labels(tmp_path, suffix):
    path = write(tmp_path / f"a.{suffix}", [{"text": "x"}])
    refused(r"no column 'label' \(found: 'text'\)", read_examples, path)
    assert "label" not in read_examples(path, label_required=False).column_names
    assert "label" not in read_examples(path, label_column=None).column_names
    labelled = write(tmp_path / f"b.{suffix}", [{"text": "x", "label": 1}])
    assert read_examples(labelled, label_required=False)["label"][:] == [1]
    assert "label" not in read_examples(labelled, label_column=None).column_names


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (["0", "1", "-1", "+1"], [0, 1, -1, 1]),
        (["0", "1.5", "1e-3"], [0.0, 1.5, 0.001]),
        (["007", "1"], ["007", "1"]),
        (["1_000", "2"], ["1_000", "2"]),
        (["١", "2"], ["١", "2"]),
        (["1", "one"], ["1", "one"]),
        (["NA", "null"], ["NA", "null"]),
        (["12345678901234567890", "1"], ["12345678901234567890", "1"]),
    ],
)
def test_types_of_csv_labels(tmp_path, written, read):
    path = write(tmp_path / "a.csv", [{"text": "x", "label": label} for label in written])
    labels = read_examples(path)["label"][:]
    assert labels == read
    assert [type(label) for label in labels] == [type(label) for label in read]


def test_csv_label_nan_is_a_number(tmp_path):
    path = write(tmp_path / "a.csv", [{"text": "x", "label": label} for label in ("1.0", "nan")])
    assert str(read_examples(path)["label"][:]) == "[1.0, nan]"


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ([True, False, 2], [1, 0, 2]),
        ([1, 2.5], [1.0, 2.5]),
        ([["a", "b"], []], [["a", "b"], []]),
        ([[1], [True, 0]], [[1], [1, 0]]),
        (["True", "1"], ["True", "1"]),
    ],
)
def test_types_of_json_labels(tmp_path, written, read):
    rows = [{"text": "x", "label": label} for label in written]
    for suffix in ("jsonl", "json"):
        assert read_examples(write(tmp_path / f"a.{suffix}", rows))["label"][:] == read


@pytest.mark.parametrize(
    ("array", "read"),
    [
        (pa.array([1, 0], pa.int8()), [1, 0]),
        (pa.array([True, False]), [1, 0]),
        (pa.array([1.5, 2], pa.float32()), [1.5, 2.0]),
        (pa.array(["a", "b"]).dictionary_encode(), ["a", "b"]),
        (pa.array(["a", "b"], pa.large_string()), ["a", "b"]),
        (pa.array([["a"], ["a", "b"]]), [["a"], ["a", "b"]]),
    ],
)
def test_types_of_parquet_labels(tmp_path, array, read):
    texts = pa.array(["x", "y"]).dictionary_encode()
    pq.write_table(pa.table({"text": texts, "label": array, "n": pa.array([7, 8])}), tmp_path / "a.parquet")
    dataset = read_examples(tmp_path / "a.parquet", id_column="n")
    assert dataset["label"][:] == read
    assert dataset["text"][:] == ["x", "y"]
    assert dataset["id"][:] == ["7", "8"]


def test_byte_order_mark_crlf_and_blank_end(tmp_path):
    (tmp_path / "a.csv").write_bytes("\ufefftext,label\r\nä,1\r\nb,0\r\n\r\n\n".encode())
    dataset = read_examples(tmp_path / "a.csv")
    assert dataset["text"][:] == ["ä", "b"]
    assert dataset["label"][:] == [1, 0]
    (tmp_path / "a.jsonl").write_bytes('\ufeff{"text": "ä", "label": 1}\r\n\r\n'.encode())
    assert read_examples(tmp_path / "a.jsonl")["text"][:] == ["ä"]


def test_json_lines_in_a_json_file_and_suffix_in_capitals(tmp_path):
    (tmp_path / "a.JSON").write_text('{"text": "x", "label": 1}\n{"text": "y", "label": 0}\n')
    assert read_examples(tmp_path / "a.JSON")["text"][:] == ["x", "y"]


def test_long_texts_pass_and_the_csv_module_keeps_its_limit(tmp_path):
    former = csv.field_size_limit(12_345)
    try:
        path = write(tmp_path / "a.csv", [{"text": "x" * 900_000, "label": 1}])
        assert len(read_examples(path)["text"][0]) == 900_000
        assert csv.field_size_limit() == 12_345
        refused_file(path, 'text,label\n"x,1\n', "never closed")
        assert csv.field_size_limit() == 12_345
    finally:
        csv.field_size_limit(former)


def test_repeated_ids_are_kept_and_counted(tmp_path, caplog):
    path = write(tmp_path / "a.csv", [{"n": number, "text": "x", "label": 1} for number in (1, 2, 1, 1)])
    with caplog.at_level(logging.WARNING):
        assert read_examples(path, id_column="n")["id"][:] == ["1", "2", "1", "1"]
    assert "2 ids occur more than once" in caplog.text


# What the file is made of.


def test_missing_file_directory_and_unknown_suffix(tmp_path):
    for suffix in FORMATS:
        refused(
            rf"absent\.{suffix}: cannot be read .*; check the path",
            read_examples,
            tmp_path / f"absent.{suffix}",
        )
    (tmp_path / "folder.csv").mkdir()
    refused(r"folder\.csv: cannot be read", read_examples, tmp_path / "folder.csv")
    refused(
        r"a\.xlsx: .*'\.xlsx'.* \.csv, \.tsv, \.jsonl, \.json, \.parquet", read_examples, tmp_path / "a.xlsx"
    )


@pytest.mark.parametrize("suffix", FORMATS[:4])
@pytest.mark.parametrize("content", ["", "\n \n", "\ufeff"])
def test_empty_file(tmp_path, suffix, content):
    refused_file(tmp_path / f"a.{suffix}", content, "the file is empty; give one")


def test_files_without_examples(tmp_path):
    refused_file(tmp_path / "a.csv", "text,label\n", "header line and no examples; add rows")
    refused_file(tmp_path / "a.json", "[]", "the file is empty")
    pq.write_table(
        pa.table({"text": pa.array([], pa.string()), "label": pa.array([], pa.int64())}),
        tmp_path / "a.parquet",
    )
    refused(r"a\.parquet: holds no examples", read_examples, tmp_path / "a.parquet")


@pytest.mark.parametrize("suffix", FORMATS)
def test_missing_columns_are_named_with_those_found(tmp_path, suffix):
    path = write(tmp_path / f"a.{suffix}", [{"tweet": "x", "label": 1}])
    message = refused(r"no column 'text' \(found: 'tweet', 'label'\)", read_examples, path)
    assert message.startswith(f"{path}: ")
    refused(r"no column 'n' \(found", read_examples, path, text_columns=("tweet",), id_column="n")


def test_repeated_columns(tmp_path):
    refused_file(tmp_path / "a.csv", "text,label,text\nx,1,y\n", "'text' occurs twice in the header; rename")
    refused_file(
        tmp_path / "a.jsonl",
        '{"text": "x", "label": 1}\n{"text": "x", "text": "y"}',
        "row 2: .*'text' occurs twice",
    )
    table = pa.Table.from_arrays([pa.array(["x"]), pa.array(["y"])], names=["text", "text"])
    pq.write_table(table, tmp_path / "a.parquet")
    refused("'text' occurs twice", read_examples, tmp_path / "a.parquet", label_column=None)


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "json"])
def test_bytes_that_are_no_utf8(tmp_path, suffix):
    refused_file(
        tmp_path / f"a.{suffix}",
        b"text,label\nfine,1\ncaf\xe9,0\n",
        "line 3: byte 0xe9 at offset 21 is not UTF-8; save the file as UTF-8",
    )
    refused_file(
        tmp_path / f"a.{suffix}", "text,label\nx,1\n".encode("utf-16"), "line 1: byte 0xff at offset 0"
    )


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "json"])
def test_nul_bytes(tmp_path, suffix):
    refused_file(
        tmp_path / f"a.{suffix}", b"text,label\na\0b,1\n", "line 2: NUL byte at offset 12; delete it"
    )


def test_nul_by_escape_or_in_parquet(tmp_path):
    refused_file(
        tmp_path / "a.jsonl", r'{"text": "a\u0000b", "label": 1}', "row 1: .* NUL character; delete it"
    )
    path = write(tmp_path / "a.parquet", [{"text": "a", "label": 1}, {"text": "a\0b", "label": 1}])
    refused(r"a\.parquet: row 2: .*NUL", read_examples, path)


# What a row is made of.


@pytest.mark.parametrize(
    ("rows", "pattern"),
    [
        (
            "x,1\na,b,0\n",
            "row 3: 3 fields where the header has 2; correct the row, or put a text that holds a comma",
        ),
        ("x,1\ny\n", "row 3: 1 fields where the header has 2"),
        ("x,1\n\ny,0\n", "row 3 is blank; delete the line"),
        ('x,1\n"y,0\nz,1\n', "row 3: a double quote opens a field and is never closed; close it"),
        ('x,1\n"y"z,0\n', "row 3: a closing double quote is not followed by ',' or a line end"),
        ('"x\ny",1\nz\n', "row 3: 1 fields"),
    ],
)
def test_broken_csv_rows(tmp_path, rows, pattern):
    refused_file(tmp_path / "a.csv", f"text,label\n{rows}", pattern)


def test_broken_tsv_rows(tmp_path):
    refused_file(
        tmp_path / "a.tsv", "text\tlabel\na\tb\t0\n", "row 2: 3 fields .* holds a tab in double quotes"
    )
    refused_file(
        tmp_path / "a.tsv",
        'text\tlabel\n"a"b\t0\nc\td\t0\n',
        r"row 2: a closing double quote is not followed by '\\t'",
    )


@pytest.mark.parametrize(
    ("content", "pattern"),
    [
        ('{"text": "x", "label": 1}\n{"text": ', "row 2: not valid JSON .*column 10"),
        ('{"text": "x", "label": 1}\n\n{"text": "y", "label": 1}', "row 2: not valid JSON"),
        ('{"text": "x", "label": 1}\n["y", 1]', r"row 2: \['y', 1\] is not an object; write each example as"),
        ('{"text": "x", "label": 1}\n{"label": 1}', "row 2: no column 'text' \\(found: 'label'\\)"),
        ('{"text": "x", "label": 1}\n{"text": "y"}', "row 2: no column 'label' \\(found: 'text'\\)"),
        ('{"text": 7, "label": 1}', "row 1: column 'text' holds 7, not a string; put it in quotes"),
        (r'{"text": "\ud83d", "label": 1}', "row 1: column 'text' holds '.ud83d', half a surrogate pair"),
        (r'{"text": "x", "label": "\ud83d"}', "row 1: the label holds '.ud83d', half a surrogate pair"),
        ("[" * 200_000, "JSON that cannot be read"),
        ('{"text": "x", "label": 1' + "0" * 5000 + "}", "row 1: JSON that cannot be read"),
    ],
)
def test_broken_json(tmp_path, content, pattern):
    refused_file(tmp_path / "a.jsonl", content, pattern)


def test_broken_json_array_names_line_and_row(tmp_path):
    refused_file(tmp_path / "a.json", '[\n{"text": "x"},\n{"text" "y"}]', "not valid JSON .line 3, column 9")
    refused_file(tmp_path / "a.json", '[{"text": "x", "label": 1}, 2]', "row 2: 2 is not an object")


@pytest.mark.parametrize(
    "damage", [lambda raw: raw[: len(raw) // 2], lambda raw: b"nonsense", lambda raw: b""]
)
def test_corrupt_parquet(tmp_path, damage):
    path = write(tmp_path / "a.parquet", [{"text": "x", "label": 1}])
    refused_file(path, damage(path.read_bytes()), "not a valid parquet file .*; write it again")


def test_parquet_text_that_is_no_utf8(tmp_path):
    array = pa.Array.from_buffers(pa.string(), 1, pa.array([b"caf\xe9"], pa.binary()).buffers())
    pq.write_table(pa.table({"text": array, "label": [1]}), tmp_path / "a.parquet")
    refused(r"a\.parquet: not a valid parquet file", read_examples, tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("column", "array", "kind"),
    [("text", pa.array([1]), "text"), ("label", pa.array([b"x"]), "label"), ("n", pa.array([1.5]), "id")],
)
def test_parquet_columns_of_a_wrong_type(tmp_path, column, array, kind):
    columns = {"text": pa.array(["x"]), "label": pa.array([1]), "n": pa.array([1])} | {column: array}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    refused(
        f"column '{column}' holds .*, which is not a valid {kind}",
        read_examples,
        tmp_path / "a.parquet",
        id_column="n",
    )


def test_parquet_label_beyond_64_bits(tmp_path):
    pq.write_table(
        pa.table({"text": ["x"], "label": pa.array([2**64 - 1], pa.uint64())}), tmp_path / "a.parquet"
    )
    refused("column 'label' cannot be read as int64", read_examples, tmp_path / "a.parquet")


# What texts, labels and ids are made of.


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("text", ["", " \t ", "\u00a0\u2028"])
def test_empty_text(tmp_path, suffix, text):
    path = write(tmp_path / f"a.{suffix}", [{"text": "x", "label": 1}, {"text": text, "label": 1}])
    row = 3 if suffix in ("csv", "tsv") else 2
    message = refused(
        f"row {row}: the text in column 'text' is empty; fill it in or delete", read_examples, path
    )
    assert message.startswith(f"{path}: ")


@pytest.mark.parametrize("suffix", ["jsonl", "json", "parquet"])
@pytest.mark.parametrize("column", ["text", "label"])
def test_null_text_and_label(tmp_path, suffix, column):
    path = write(
        tmp_path / f"a.{suffix}", [{"text": "x", "label": 1}, {"text": "y", "label": 1} | {column: None}]
    )
    refused(f"row 2: the {column}.* is empty; fill it in or delete the row", read_examples, path)


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_blank_label(tmp_path, suffix):
    path = write(tmp_path / f"a.{suffix}", [{"text": "x", "label": "a"}, {"text": "y", "label": " "}])
    row = 3 if suffix in ("csv", "tsv") else 2
    refused(f"row {row}: the label is empty; fill it in or delete the row", read_examples, path)


@pytest.mark.parametrize(
    ("labels", "pattern"),
    [
        (["a", 1], "row 2: the label 1 is a number, that of row 1 a string; write every label alike"),
        ([["a"], "a"], "row 2: the label 'a' is not a list, unlike that of row 1"),
        (["a", ["a"]], r"row 2: the label \['a'\] is a list, unlike that of row 1"),
        ([["a"], [1]], "row 2: the label 1 is a number, that of row 1 a string"),
        ([1, {"a": 1}], r"row 2: \{'a': 1\} is not a label; write a string, a number or a list"),
        ([["a"], [["b"]]], r"row 2: \['b'\] is not a label"),
        ([["a"], [None]], "row 2: the label is empty"),
        ([1, 2**70], "a label is an integer beyond 64 bits; write labels as strings"),
    ],
)
def test_unusable_json_labels(tmp_path, labels, pattern):
    path = tmp_path / "a.jsonl"
    content = "".join(json.dumps({"text": "x", "label": label}) + "\n" for label in labels)
    refused_file(path, content, pattern)


@pytest.mark.parametrize("suffix", FORMATS)
def test_text_beyond_the_limit(tmp_path, suffix):
    path = write(tmp_path / f"a.{suffix}", [{"text": "x", "label": 1}, {"text": "ä" * 51, "label": 1}])
    row = 3 if suffix in ("csv", "tsv") else 2
    refused(
        f"row {row}: .* longer than the limit of 100 bytes; shorten it",
        read_examples,
        path,
        max_text_bytes=100,
    )
    assert len(read_examples(path, max_text_bytes=102)) == 2


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_line_of_ten_megabytes(tmp_path, suffix):
    path = write(tmp_path / f"a.{suffix}", [{"text": "x" * 10_000_000, "label": 1}])
    refused("longer than the limit of 1,000,000 bytes", read_examples, path)


@pytest.mark.parametrize("suffix", FORMATS)
def test_empty_id(tmp_path, suffix):
    path = write(
        tmp_path / f"a.{suffix}", [{"n": "1", "text": "x", "label": 1}, {"n": "", "text": "y", "label": 1}]
    )
    row = 3 if suffix in ("csv", "tsv") else 2
    refused(
        f"row {row}: the id is empty; fill it in, or name no id column", read_examples, path, id_column="n"
    )


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        ({"text_columns": ()}, "no text column is named; name at least one"),
        ({"text_columns": ("text", "text")}, "'text' is asked for twice"),
        ({"label_column": "text"}, "'text' is asked for twice"),
        ({"text_columns": ("id",)}, "must not be called 'id'"),
        ({"text_columns": ("row",)}, "must not be called 'row'"),
    ],
)
def test_columns_that_clash(tmp_path, options, pattern):
    refused(pattern, read_examples, write(tmp_path / "a.csv", [{"text": "x", "label": 1}]), **options)


# The competition's pair of files.


def test_competition(tmp_path, caplog):
    (tmp_path / "pos.txt").write_bytes("good\x85day \n\n \ngreat\r\n".encode())
    (tmp_path / "neg.txt").write_bytes('bad\u2028day, "oh"\nNA'.encode())
    with caplog.at_level(logging.WARNING):
        dataset = read_competition(tmp_path / "pos.txt", tmp_path / "neg.txt", text_column="tweet")
    assert dataset["tweet"][:] == ["good\x85day ", "great", 'bad\u2028day, "oh"', "NA"]
    assert dataset["label"][:] == ["positive", "positive", "negative", "negative"]
    assert dataset["id"][:] == ["0", "1", "2", "3"]
    assert dataset["row"][:] == [1, 4, 1, 2]
    assert "pos.txt: 2 blank lines left out" in caplog.text


@pytest.mark.parametrize(
    ("content", "pattern"),
    [
        (b"", "the file is empty"),
        (b"x\n\xff\n", "line 2: byte 0xff at offset 2 is not UTF-8"),
        (b"x\n\0\n", "line 2: NUL byte at offset 2"),
        (b"x\n\n" + b"y" * 2_000_000, "row 3: .* longer than the limit"),
    ],
)
def test_competition_faults(tmp_path, content, pattern):
    good, bad = tmp_path / "good.txt", tmp_path / "bad.txt"
    good.write_text("x\n")
    bad.write_bytes(content)
    for pair in ((good, bad), (bad, good)):
        assert refused(pattern, read_competition, *pair).startswith(f"{bad}: ")
    refused("absent.txt: cannot be read", read_competition, good, tmp_path / "absent.txt")


# The Hub, by way of data sets on the disk.


@pytest.fixture
def _offline(monkeypatch, tmp_path):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def hub_folder(folder: Path, splits: dict[str, Dataset]) -> str:
    for name, split in splits.items():
        folder.mkdir(exist_ok=True)
        split.to_parquet(folder / f"{name}-00000-of-00001.parquet")
    return str(folder)


@pytest.mark.usefixtures("_offline")
def test_hub_keeps_class_names_and_drops_labels_not_given(tmp_path):
    features = Features({"sentence": Value("string"), "label": ClassLabel(names=["neg", "pos"])})
    name = hub_folder(
        tmp_path / "set",
        {
            "train": Dataset.from_dict({"sentence": ["x", "NA"], "label": [1, 0]}, features=features),
            "test": Dataset.from_dict({"sentence": ["z"], "label": [-1]}, features=features),
        },
    )
    splits = read_hub(name, text_columns=("sentence",))
    assert set(splits) == {"train", "test"}
    assert splits["train"]["sentence"][:] == ["x", "NA"]
    assert splits["train"].features["label"] == ClassLabel(names=["neg", "pos"])
    assert splits["train"]["label"][:] == [1, 0]
    assert splits["train"]["row"][:] == [1, 2]
    assert sorted(splits["test"].column_names) == ["id", "row", "sentence"]
    options = {"text_columns": ("sentence",), "label_column": "mood"}
    refused(r"no column 'mood' \(found: 'sentence', 'label'\)", read_hub, name, **options)


@pytest.mark.usefixtures("_offline")
def test_hub_checks_examples(tmp_path):
    features = Features({"text": Value("string"), "label": ClassLabel(names=["neg", "pos"])})
    some_missing = Dataset.from_dict({"text": ["x", "y"], "label": [1, -1]}, features=features)
    name = hub_folder(tmp_path / "one", {"train": some_missing})
    refused(re.escape(f"{name}[train]: row 2: the label is empty"), read_hub, name)
    kept = read_hub(name, skip_incomplete=True)["train"]
    assert (kept["text"][:], kept["label"][:], kept["row"][:]) == (["x"], [1], [1])
    no_text = Dataset.from_dict({"text": ["x", None], "label": [1, 0]}, features=features)
    name = hub_folder(tmp_path / "two", {"train": no_text})
    refused(re.escape(f"{name}[train]: row 2: the text in column 'text' is empty"), read_hub, name)


@pytest.mark.usefixtures("_offline")
def test_hub_that_cannot_be_reached(tmp_path):
    refused(
        "the data set 'nobody/nothing/some' cannot be loaded .*; check name",
        read_hub,
        "nobody/nothing",
        "some",
    )


def test_hub_result_of_several_lines_is_told_on_one(monkeypatch):
    def fail(*arguments):
        raise RuntimeError("first\nsecond")

    monkeypatch.setattr("datasets.load_dataset", fail)
    refused(r"'a/b' cannot be loaded \(RuntimeError: first second\)", read_hub, "a/b")


def test_hub_passes_name_and_configuration(monkeypatch):
    calls = []

    def load(*arguments):
        calls.append(arguments)
        return DatasetDict(train=Dataset.from_dict({"text": ["x"], "label": ["a"]}))

    monkeypatch.setattr("datasets.load_dataset", load)
    assert read_hub("a/b", "c")["train"]["label"][:] == ["a"]
    assert calls == [("a/b", "c")]


# Data that came by another way.


@pytest.mark.parametrize(
    ("columns", "pattern"),
    [
        ({"a": ["x", " "]}, "mine: row 2: the text in column 'a' is empty"),
        ({"b": ["x"]}, "mine: no column 'a' .found: 'b'."),
        ({"a": [1]}, "mine: column 'a' holds int64, which is not text"),
        ({"a": []}, "mine: holds no examples; give at least one"),
    ],
)
def test_check_examples_without_row_column(columns, pattern):
    check_examples(Dataset.from_dict({"a": ["x"]}), text_columns=("a",), where="mine")
    refused(pattern, check_examples, Dataset.from_dict(columns), text_columns=("a",), where="mine")


def test_check_examples_names_the_row_of_the_file_after_selecting(tmp_path):
    path = write(tmp_path / "a.csv", [{"text": text, "label": 1} for text in ("x", "y", "z")])
    chosen = read_examples(path).select([2, 0])
    emptied = chosen.map(lambda example: {"text": example["text"].replace("z", "")})
    refused("file: row 4: ", check_examples, emptied, text_columns=("text",), where="file")


# Files of Stanford's CS 224N: named .csv, separated by tabs, with an index column that has no name

COURSE = (
    "\tid\tsentence1\tsentence2\tis_duplicate\n"
    '290564\tfb1\t"""Which, is it?"""\tGrammar, again?\t0.0\n'
    "318737\t318\tWhat makes one angry?\tWhy angry?\t1.0\n"
    "400012\tb22\tNo second question\t\t1.0\n"
    "400013\tb23\tNo label\tSecond\t\n"
)
COURSE_COLUMNS = {
    "text_columns": ("sentence1", "sentence2"),
    "label_column": "is_duplicate",
    "id_column": "id",
}


def test_the_course_s_files_are_read_as_they_are(tmp_path, caplog):
    path = tmp_path / "quora-train.csv"
    path.write_text(COURSE)
    with pytest.raises(UserError, match="row 4: the text in column 'sentence2' is empty"):
        read_examples(path, **COURSE_COLUMNS)
    with caplog.at_level("WARNING"):
        examples = read_examples(path, **COURSE_COLUMNS, skip_incomplete=True)
    assert examples[:] == {
        "sentence1": ['"Which, is it?"', "What makes one angry?"],
        "sentence2": ["Grammar, again?", "Why angry?"],
        "label": [0.0, 1.0],
        "id": ["fb1", "318"],
        "row": [2, 3],
    }
    assert caplog.messages == [f"{path}: 2 rows without a text or label left out"]


def test_a_row_without_a_label_is_still_refused_by_name(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text("text,label\na,1\nb,\n")
    with pytest.raises(UserError, match="row 3: the label is empty"):
        read_examples(path)
