"""Readers of data files and Hub data sets that return a `datasets.Dataset` and raise an error for anything doubtful.

Every reader keeps the order of the file and returns these columns:

| column | type | content |
|---|---|---|
| the text columns, by their own names | string | the unchanged text; "NA", "null" and "nan" are texts |
| `label` | int64, double, string, a list of these or of `ClassLabel` | raw label; strings are stripped |
| `id` | string | the value of the id column, otherwise the number of the example, from 0 |
| `row` | int64 | row in the file as in a spreadsheet: the header of csv and tsv is row 1 (xml, raw: line) |

`row` is kept when selecting and splitting, so that later errors can still name the row of the file.
"""

import functools
import logging
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset

from hf_layerfusion.data.absa import read_acl14, read_semeval
from hf_layerfusion.data.arrow_tables import from_table, row_number, select_rows, to_table
from hf_layerfusion.data.columns import Columns, RequestedColumns, missing_columns
from hf_layerfusion.data.delimited import read_csv, read_tsv
from hf_layerfusion.data.formats import arrow_columns, parquet_label, read_json, read_parquet
from hf_layerfusion.data.label_names import with_class_names
from hf_layerfusion.data.numbered_tweets import read_numbered_tweets
from hf_layerfusion.data.utf8 import read_utf8, split_lines, unreadable_file
from hf_layerfusion.errors import UserError, one_line

logger = logging.getLogger(__name__)

MAX_TEXT_BYTES = 1_000_000

FilePath: TypeAlias = str | PathLike[str]

READERS: dict[str, Callable[[Path, RequestedColumns, int], Columns]] = {
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".jsonl": read_json,
    ".json": read_json,
    ".parquet": read_parquet,
    ".xml": read_semeval,
    ".raw": read_acl14,
    ".txt": read_numbered_tweets,
}


def read_examples(
    path: FilePath,
    *,
    text_columns: Sequence[str] = ("text",),
    label_column: str | None = "label",
    label_required: bool = True,
    id_column: str | None = None,
    max_text_bytes: int = MAX_TEXT_BYTES,
    skip_incomplete: bool = False,
) -> Dataset:
    """Read one file of examples; its suffix determines the format.

    - `.csv`, `.tsv`: UTF-8 following RFC 4180 with a header line. Tab-separated files may also be written without
      quoting; double quotes are then part of the texts (`delimited.is_unquoted`). Labels are integers if all of them
      are, otherwise floats if all are, otherwise strings. Quoted texts may contain line breaks.
    - `.jsonl`, `.json`: one object per line, or one array of objects. A list as label means several classes. SNLI's
      files are recognized by their fields (`formats.read_json`).
    - `.parquet`: labels by the type of their column; class names stored by `Dataset.to_parquet` are kept.
    - `.xml`, `.raw`: the aspect terms of SemEval-2014 and the tweets of ACL-14, with the columns `sentence`, `aspect`
      and `label` (`data/absa.py`).
    - `.txt`: the competition's numbered tweets without labels (`data/numbered_tweets.py`).

    Blank lines at the end of a file are ignored. Repeated ids are kept, and their number is logged as a warning.

    Args:
        path: The file.
        text_columns: One column, or two for text pairs.
        label_column: Label column; None reads no labels.
        label_required: Whether a file without the label column is refused instead of being read for prediction only.
        id_column: Id column; None numbers the examples from 0, except for `.txt` files, which contain ids.
        max_text_bytes: Maximum length of a text, in UTF-8 bytes.
        skip_incomplete: Whether to skip rows without a text or label, with a warning, instead of refusing them.

    Raises:
        UserError: If the file is not as described above or violates a rule of `check_examples`; with file, row and the
            way out.
    """
    path = Path(path)
    wanted = RequestedColumns(tuple(text_columns), label_column, id_column, label_required)
    suffix = path.suffix.lower()
    if suffix not in READERS:
        raise UserError(
            f"{path}: the suffix {path.suffix!r} is not that of a known data format; use one of "
            f"{', '.join(READERS)}"
        )
    try:
        columns = READERS[suffix](path, wanted, max_text_bytes)
    except OSError as error:
        raise unreadable_file(path, error) from error
    dataset = _with_id_and_row(columns, str(path), first_row=2 if suffix in (".csv", ".tsv") else 1)
    if suffix == ".parquet" and "label" in columns:
        feature = parquet_label(path, str(label_column))
        dataset = _with_given_names(dataset, feature, str(path), required=label_required)
    if skip_incomplete:
        dataset = _complete_rows(dataset, str(path), text_columns)
    check_examples(dataset, text_columns=text_columns, where=str(path), max_text_bytes=max_text_bytes)
    return dataset


def complete_rows(dataset: Dataset, text_columns: Sequence[str]) -> Dataset:
    """Return the rows that have all texts and, if there is a column `label`, a label."""
    table = to_table(dataset)
    incomplete = functools.reduce(pc.or_, [_is_blank(table[name]) for name in text_columns])
    if "label" in table.column_names:
        incomplete = pc.or_(incomplete, _is_absent(_labels(dataset)))
    return select_rows(dataset, np.flatnonzero(~incomplete.to_numpy()))


def _complete_rows(dataset: Dataset, where: str, text_columns: Sequence[str]) -> Dataset:
    whole = complete_rows(dataset, text_columns)
    if len(whole) < len(dataset):
        logger.warning("%s: %d rows without a text or label left out", where, len(dataset) - len(whole))
    return whole


def read_competition(
    positive: FilePath, negative: FilePath, *, text_column: str = "text", max_text_bytes: int = MAX_TEXT_BYTES
) -> Dataset:
    """Read the pair of files of GRUBERT's competition, `train_pos.txt` and `train_neg.txt`.

    Each line is a tweet; lines end at LF or CR LF only. The labels are "positive" and "negative", and the positive file
    comes first. Blank lines (tweets that consisted only of the removed smiley) are skipped, and their number is logged
    as a warning.

    Raises:
        UserError: In the same cases as `read_examples`.
    """
    parts = [
        _read_tweets(Path(path), label, text_column, max_text_bytes)
        for path, label in ((positive, "positive"), (negative, "negative"))
    ]
    examples = pa.concat_tables(to_table(part) for part in parts)
    numbers = pa.array(map(str, range(len(examples))), pa.string())
    return from_table(examples.set_column(examples.column_names.index("id"), "id", numbers))


def read_hub(
    name: str,
    config: str | None = None,
    *,
    text_columns: Sequence[str] = ("text",),
    label_column: str | None = "label",
    id_column: str | None = None,
    skip_incomplete: bool = False,
    max_text_bytes: int = MAX_TEXT_BYTES,
) -> dict[str, Dataset]:
    """Load every split of a data set on the Hub, for instance `cardiffnlp/tweet_eval`, `sentiment`.

    A `ClassLabel` column remains one: it holds the class names and their order, which `LabelSchema.infer` uses. A split
    without the label column, or with -1 (the Hub's "not given") for every label, is for prediction and has no column
    `label`. With `skip_incomplete`, rows without a text or label, such as SNLI's pairs without agreement, are skipped
    with a warning instead of being refused.

    Raises:
        UserError: If the data set cannot be loaded (name, configuration, network), if no split has the label column, or
            if a split violates a rule of `check_examples`.
    """
    source = name if config is None else f"{name}/{config}"
    try:
        splits = datasets.load_dataset(name, config)
    except Exception as error:  # the client's errors have no common base class
        raise UserError(
            f"the data set {source!r} cannot be loaded ({type(error).__name__}: {one_line(error)}); "
            "check name, configuration and network, or name local files"
        ) from error
    some_labelled = any(label_column in split.column_names for split in splits.values())
    wanted = RequestedColumns(tuple(text_columns), label_column, id_column, label_required=not some_labelled)
    examples = {}
    for split, content in splits.items():
        where = f"{source}[{split}]"
        columns = wanted.find(content.column_names, where)
        table = to_table(content.select_columns(list(columns.values())))
        dataset = _with_id_and_row(arrow_columns(table, columns, where), where, first_row=1)
        feature = content.features.get(columns.get("label"))
        dataset = _with_given_names(dataset, feature, where, required=False)
        if skip_incomplete:
            dataset = _complete_rows(dataset, where, text_columns)
        check_examples(dataset, text_columns=text_columns, where=where, max_text_bytes=max_text_bytes)
        examples[str(split)] = dataset
    return examples


def check_examples(
    dataset: Dataset, *, text_columns: Sequence[str], where: str, max_text_bytes: int = MAX_TEXT_BYTES
) -> None:
    """Check that there are examples, each with its texts and, if there is a column `label`, its label.

    All readers call it; call it on a `Dataset` from another source.

    Args:
        dataset: Data set with the columns described at the top of this module; `id` and `row` may be missing.
        text_columns: Columns of strings that must not be blank, contain NUL or be longer than `max_text_bytes`.
        where: Name of the file or split, for error messages.
        max_text_bytes: Maximum length of a text, in UTF-8 bytes.

    Raises:
        UserError: If an example violates a rule; the message names the rule and the row of the first one.
    """
    if len(dataset) == 0:
        raise UserError(f"{where}: holds no examples; give at least one")
    table = to_table(dataset)
    missing = [name for name in text_columns if name not in table.column_names]
    if missing:
        raise missing_columns(missing, table.column_names, where)

    def refuse(bad: pa.ChunkedArray, problem: str) -> None:
        index = pc.index(bad, True).as_py()
        if index >= 0:
            raise UserError(f"{where}: row {row_number(dataset, index)}: {problem}")

    for name in text_columns:
        texts = table[name]
        if not (pa.types.is_string(texts.type) or pa.types.is_large_string(texts.type)):
            raise UserError(
                f"{where}: column {name!r} holds {texts.type}, which is not text; name another column"
            )
        refuse(_is_blank(texts), f"the text in column {name!r} is empty; fill it in or delete the row")
        refuse(
            pc.match_substring(texts, "\0"), f"the text in column {name!r} holds a NUL character; delete it"
        )
        refuse(
            pc.greater(pc.binary_length(texts), max_text_bytes),
            f"the text in column {name!r} is longer than the limit of {max_text_bytes:,} bytes; "
            "shorten it, or look for a missing line break",
        )
    if "label" in table.column_names:
        refuse(_is_absent(_labels(dataset)), "the label is empty; fill it in or delete the row")


def _with_given_names(dataset: Dataset, feature: Any, where: str, required: bool) -> Dataset:
    """Return the dataset with the source's class names.

    The labels are removed if all of them are "not given" and none are required.
    """
    may_be_absent = isinstance(feature, ClassLabel) and not required
    if may_be_absent and set(pc.unique(to_table(dataset)["label"]).to_pylist()) <= {-1, None}:
        return dataset.remove_columns("label")
    return with_class_names(dataset, feature, where)


def _stripped(labels: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray | pa.Array:
    """Return stripped strings, also inside lists; other labels are unchanged."""
    if pa.types.is_string(labels.type):
        return pc.utf8_trim_whitespace(labels)
    if pa.types.is_list(labels.type) and pa.types.is_string(labels.type.value_type):
        rows = labels.to_pylist()
        stripped = [row and [value and value.strip() for value in row] for row in rows]
        return pa.array(stripped, labels.type)
    return labels


def _labels(dataset: Dataset) -> pa.ChunkedArray:
    """Return the column `label`, with null for the Hub's -1."""
    labels = to_table(dataset)["label"]
    is_class = isinstance(dataset.features["label"], ClassLabel)
    return pc.if_else(pc.equal(labels, -1), None, labels) if is_class else labels


def _is_blank(strings: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.equal(pc.fill_null(pc.utf8_trim_whitespace(strings), ""), "")


def _is_absent(labels: pa.ChunkedArray) -> pa.ChunkedArray:
    return _is_blank(labels) if pa.types.is_string(labels.type) else pc.is_null(labels)


def _read_tweets(path: Path, label: str, text_column: str, max_text_bytes: int) -> Dataset:
    RequestedColumns((text_column,))
    try:
        lines = split_lines(read_utf8(path))
    except OSError as error:
        raise unreadable_file(path, error) from error
    rows = [row for row, line in enumerate(lines, start=1) if line.strip()]
    if len(rows) < len(lines):
        logger.warning("%s: %d blank lines left out", path, len(lines) - len(rows))
    dataset = _with_id_and_row(
        {
            text_column: pa.array([lines[row - 1] for row in rows], pa.string()),
            "label": pa.array([label] * len(rows), pa.string()),
            "row": pa.array(rows, pa.int64()),
        },
        str(path),
        first_row=1,
    )
    check_examples(dataset, text_columns=(text_column,), where=str(path), max_text_bytes=max_text_bytes)
    return dataset


def _with_id_and_row(columns: Columns, where: str, first_row: int) -> Dataset:
    """Number the examples and their rows if they have no numbers yet, and check existing ids."""
    size = len(next(iter(columns.values())))
    if "label" in columns:
        columns = columns | {"label": _stripped(columns["label"])}
    if "id" in columns:
        missing = pc.index(_is_blank(columns["id"]), True).as_py()
        if missing >= 0:
            row = columns["row"][missing].as_py() if "row" in columns else first_row + missing
            raise UserError(f"{where}: row {row}: the id is empty; fill it in, or name no id column")
        repeated = size - pc.count_distinct(columns["id"]).as_py()
        if repeated:
            logger.warning("%s: %d ids occur more than once", where, repeated)
    numbered = {
        "id": pa.array(map(str, range(size)), pa.string()),
        "row": pa.array(range(first_row, first_row + size), pa.int64()),
    }
    return from_table(
        pa.table(columns | {name: numbers for name, numbers in numbered.items() if name not in columns})
    )
