"""Reader of the test file of GRUBERT's competition, `test_data.txt`: a number, a comma and a tweet per
line, no labels.
"""

import re
from pathlib import Path

import pyarrow as pa

from hf_layerfusion.data.columns import Columns, RequestedColumns, excerpt
from hf_layerfusion.data.utf8 import read_utf8, split_lines
from hf_layerfusion.errors import UserError

_LINE = re.compile(r"([1-9][0-9]*),(.*)")


def read_numbered_tweets(path: Path, wanted: RequestedColumns, max_text_bytes: int) -> Columns:
    """Read `id,tweet` lines; lines end at LF or CR LF only, and everything after the first comma is the tweet.

    The single text column has the requested name; the ids are those of the file.

    Raises:
        UserError: If a line has another form, with its number, or a label or a second text is requested.
    """
    if wanted.label is not None and wanted.label_required:
        raise UserError(
            f"{path}: a .txt file holds numbered tweets to predict and no labels; name it as --test_file, and the "
            "competition's other files as --train_pos_file and --train_neg_file"
        )
    if len(wanted.text) != 1:
        raise UserError(
            f"{path}: a .txt file holds one text a line, found {len(wanted.text)} text columns asked for "
            f"({', '.join(wanted.text)}); name one"
        )
    found = []
    for number, line in enumerate(split_lines(read_utf8(path)), start=1):
        match = _LINE.fullmatch(line)
        if match is None:
            raise UserError(
                f"{path}: row {number}: must be a number from 1 on, a comma and a tweet, found {excerpt(line)}; "
                "correct the line"
            )
        found.append(match.groups())
    ids, tweets = zip(*found, strict=True)
    return {wanted.text[0]: pa.array(tweets, pa.string()), "id": pa.array(ids, pa.string())}
