from pathlib import Path

import pytest

from hf_layerfusion.data.files import read_examples
from hf_layerfusion.errors import UserError


def write(path: Path, content: str) -> Path:
    path.write_bytes(content.encode())
    return path


def test_the_first_comma_ends_the_number(tmp_path):
    path = write(tmp_path / "test_data.txt", '1,no, not "this", again\r\n2,,\n10, 3,4 \u2028 <user>\n')
    examples = read_examples(path, text_columns=("tweet",), label_required=False)
    assert examples[:] == {
        "tweet": ['no, not "this", again', ",", " 3,4 \u2028 <user>"],
        "id": ["1", "2", "10"],
        "row": [1, 2, 3],
    }


@pytest.mark.parametrize(
    ("content", "pattern"),
    [
        ("1,a\n\n3,c\n", "row 2: must be a number from 1 on, a comma and a tweet, found ''"),
        ("1,a\nb\n", "row 2: must be a number from 1 on, a comma and a tweet, found 'b'"),
        ("0,a\n", "row 1: must be a number from 1 on"),
        ("id,tweet\n1,a\n", "row 1: must be a number from 1 on"),
        ("1,a\n2,  \n", "row 2: the text in column 'text' is empty"),
        ("", "the file is empty"),
    ],
)
def test_other_lines_are_refused(tmp_path, content, pattern):
    path = write(tmp_path / "test_data.txt", content)
    with pytest.raises(UserError, match=pattern) as caught:
        read_examples(path, label_required=False)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        ({}, "holds numbered tweets to predict and no labels; name it as --test_file"),
        ({"text_columns": ("a", "b"), "label_column": None}, r"holds one text a line, found 2 .* \(a, b\)"),
    ],
)
def test_what_the_file_has_not(tmp_path, options, pattern):
    with pytest.raises(UserError, match=pattern):
        read_examples(write(tmp_path / "test_data.txt", "1,a\n"), **options)
