"""Texts one after another: what `read_examples` reads, what it refuses, in memory that does not grow."""

from __future__ import annotations

import csv
import json
import tracemalloc
from pathlib import Path

import pandas as pd
import pytest

from hf_layerfusion.data.files import read_examples
from hf_layerfusion.data.streaming import BATCH_ROWS, array_items, is_held_out, stream_texts
from hf_layerfusion.data.utf8 import read_utf8, utf8_blocks, utf8_lines
from hf_layerfusion.errors import UserError

# A hundred kinds of trouble: quotes, breaks within a text, other scripts, what pandas takes for nothing.
TEXTS = [
    text
    for number in range(BATCH_ROWS // 4)
    for text in (
        f"plain {number}",
        f'a "quoted", {number}',
        f"two\nlines {number}",
        "NA",
        f"née 日本 {number} 😀",
    )
]


def write(folder: Path, suffix: str, rows: list[dict]) -> Path:
    path = folder / f"texts{suffix}"
    if suffix in (".csv", ".tsv"):
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    elif suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif suffix == ".json":
        path.write_text(json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8")
    else:
        pd.DataFrame(rows).to_parquet(path)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json", ".parquet"])
def test_texts_are_those_of_the_reader_of_whole_files(tmp_path, suffix):
    pairs = [{"label": 1, "a": text, "b": f"{text}!"} for text in TEXTS]
    path = write(tmp_path, suffix, pairs)
    expected = read_examples(path, text_columns=("a", "b"))
    assert list(stream_texts(path, text_columns=("a",))) == expected["a"][:] == TEXTS
    both = [text for row in expected for text in (row["a"], row["b"])]
    assert list(stream_texts(path, text_columns=("a", "b"))) == both


def test_lines_of_a_txt_file_are_texts_and_blank_ones_are_none(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffone\r\n\n  two  \n \nthree\x0bstill three".encode())
    assert list(stream_texts(tmp_path / "a.txt")) == ["one", "  two  ", "three\x0bstill three"]


def broken(folder: Path, suffix: str, content: bytes) -> Path:
    path = folder / f"broken{suffix}"
    path.write_bytes(content)
    return path


GOOD = {suffix: "".join('{"text": "x"}\n' for _ in range(1500)).encode() for suffix in (".jsonl",)}
FAULTS = {
    "csv not utf-8": (".csv", b"text\na\n\xe9\n", "line 3: byte 0xe9 at offset 7 is not UTF-8"),
    "csv NUL": (".csv", b"text\na\0b\n", "line 2: NUL byte at offset 6"),
    "csv shifted": (".csv", b"text,label\na,b,0\n", "row 2: 3 fields where the header has 2"),
    "csv open quote": (".csv", b'text\n"a\n', "row 2: a double quote opens a field and is never closed"),
    "csv blank row": (".csv", b"text\na\n\nb\n", "row 3 is blank"),
    "csv no column": (".csv", b"body\na\n", "no column 'text'"),
    "csv no rows": (".csv", b"text\n", "holds no texts"),
    "csv no text": (".csv", b"text,label\na,1\n ,0\n", "row 3: the text in column 'text' is empty"),
    "csv long": (".csv", b"text\n" + b"x" * 1_000_001 + b"\n", "longer than the limit of 1,000,000 bytes"),
    "tsv shifted": (".tsv", b"text\tlabel\na\tb\t0\n", "row 2: 3 fields where the header has 2"),
    "txt not utf-8": (".txt", b"a\n\xff\n", "line 2: byte 0xff at offset 2"),
    "txt utf-16": (".txt", "ab".encode("utf-16-le"), "NUL byte at offset 1"),
    "txt empty": (".txt", b"\n \n", "the file is empty"),
    "jsonl row": (
        ".jsonl",
        GOOD[".jsonl"] + b'{"text": 5}\n',
        "row 1501: column 'text' holds 5, not a string",
    ),
    "jsonl twice": (".jsonl", b'{"text": "a", "text": "b"}\n', "row 1: the column 'text' occurs twice"),
    "jsonl missing": (".jsonl", b'{"text": "a"}\n{"body": "b"}\n', "row 2: no column 'text'"),
    "jsonl blank": (".jsonl", b'{"text": "a"}\n\n{"text": "b"}\n', "row 2 is blank"),
    "jsonl null": (".jsonl", b'{"text": null}\n', "row 1: the text in column 'text' is empty"),
    "jsonl surrogate": (".jsonl", b'{"text": "\\ud800"}\n', "row 1: .*half a surrogate pair"),
    "jsonl no object": (".jsonl", b'"a"\n', "row 1: 'a' is not an object"),
    "json open": (".json", b'[{"text": "a"}', r"no '\]' after row 1"),
    "json comma": (".json", b'[{"text": "a"} {"text": "b"}]', "before row 2: '{' in place of , or ]"),
    "json trailing": (".json", b'[{"text": "a"}] x', "before row 2: 'x' in place of the end"),
    "json half": (".json", b'[{"text": "a"}, {"text": "b]', "row 2: not valid JSON"),
    "json twice": (".json", b'[{"text": "a", "text": "b"}]', "row 1: the column 'text' occurs twice"),
    "parquet": (".parquet", b"PAR1 no", "not a valid parquet file"),
    "suffix": (".doc", b"a", "the suffix '.doc' is not that of a known text format"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_doubtful_is_an_error_with_its_row(tmp_path, fault):
    suffix, content, message = FAULTS[fault]
    with pytest.raises(UserError, match=message) as caught:
        list(stream_texts(broken(tmp_path, suffix, content)))
    assert "\n" not in str(caught.value)


def test_missing_files_and_second_columns_of_lines_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"no\.txt: cannot be read"):
        list(stream_texts(tmp_path / "no.txt"))
    with pytest.raises(UserError, match=r"one text a line, found text columns a, b"):
        list(stream_texts(broken(tmp_path, ".txt", b"a\n"), text_columns=("a", "b")))


def test_rows_without_a_text_may_be_left_out(tmp_path, caplog):
    path = write(tmp_path, ".jsonl", [{"a": "x", "b": "y"}, {"a": " ", "b": "z"}, {"a": "u", "b": None}] * 2)
    for _ in range(2):
        assert list(stream_texts(path, text_columns=("a", "b"), skip_incomplete=True)) == ["x", "y"] * 2
    assert [record.message for record in caplog.records] == [f"{path}: 4 rows without a text left out"]
    with pytest.raises(UserError, match="row 2: the text in column 'a' is empty"):
        list(stream_texts(path, text_columns=("a", "b")))


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".json", ".txt", ".parquet"])
def test_memory_does_not_grow_with_the_file(tmp_path, suffix):
    """Peak allocations over 1.6 MB and over four times that, both more than is read at once."""
    peaks = []
    for size in (2 * BATCH_ROWS, 8 * BATCH_ROWS):
        rows = [{"text": f"{number} {'word ' * 160}"} for number in range(size)]
        if suffix == ".txt":
            path = tmp_path / "texts.txt"
            path.write_text("\n".join(row["text"] for row in rows))
        else:
            path = write(tmp_path, suffix, rows)
        del rows
        tracemalloc.start()
        assert sum(1 for _ in stream_texts(path)) == size
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


@pytest.mark.parametrize("block_bytes", [1, 2, 3, 7, 1 << 20])
def test_blocks_may_cut_characters_and_lines_anywhere(tmp_path, block_bytes):
    text = "née\r\n\n日本 😀\rend"
    path = tmp_path / "a.txt"
    path.write_bytes(f"\ufeff{text}".encode())
    assert "".join(utf8_blocks(path, block_bytes)) == read_utf8(path) == text
    assert list(utf8_lines(path, block_bytes)) == ["née\r\n", "\n", "日本 😀\rend"]
    path.write_bytes(text.encode() + b"\nab\xe6\x97")
    with pytest.raises(
        UserError, match=rf"line 4: byte 0xe6 at offset {len(text.encode()) + 3} is not UTF-8"
    ):
        list(utf8_blocks(path, block_bytes))


@pytest.mark.parametrize("cut", [1, 2, 5, 1000])
def test_an_array_may_be_cut_anywhere(cut):
    items = [{"text": 'a "b" ]}', "n": [1, {"c": None}]}, {"text": "é"}, {}]
    text = f" {json.dumps(items, indent=2)} \n"
    blocks = [text[start : start + cut] for start in range(0, len(text), cut)]
    assert list(array_items(blocks, "x.json")) == items
    assert list(array_items(["[", "]"], "x.json")) == []


def test_the_share_held_out_is_drawn_text_by_text():
    texts = [f"text {number}" for number in range(4000)]
    held = {text for text in texts if is_held_out(text, 0.1, seed=1)}
    assert len(held) == pytest.approx(400, abs=80)
    assert held == {text for text in reversed(texts) if is_held_out(text, 0.1, seed=1)}
    other = {text for text in texts if is_held_out(text, 0.1, seed=2)}
    assert len(held & other) == pytest.approx(40, abs=30)
    assert not any(is_held_out(text, 0.0, seed=1) for text in texts)
    assert all(is_held_out(text, 1.0, seed=1) for text in texts)
