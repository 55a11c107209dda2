"""Readers of the published aspect sentiment formats: SemEval-2014's XML and the three-line `.raw` files of ACL-14.

Both give the columns `sentence`, `aspect` and `label`, where the label is `negative`, `neutral` or `positive`.
SemEval's also gives `id`, the id of the sentence, which is the same for each of its aspects. The row of an aspect is
its line in the file.
"""

from pathlib import Path
from typing import Any
from xml.parsers import expat

import pyarrow as pa
from datasets import Dataset

from hf_layerfusion.data.arrow_tables import column_values
from hf_layerfusion.data.columns import Columns, RequestedColumns, excerpt
from hf_layerfusion.data.utf8 import empty_file, read_utf8, split_lines
from hf_layerfusion.errors import UserError

POLARITIES = {"-1": "negative", "0": "neutral", "1": "positive"}
CONFLICT = "conflict"
TARGET = "$T$"


def read_semeval(path: Path, wanted: RequestedColumns, max_text_bytes: int) -> Columns:
    """Read the aspect terms of SemEval-2014, task 4 (Pontiki et al. 2014).

    `<sentence id>` contains `<text>` and `<aspectTerms>`, which contains `<aspectTerm term polarity>`. Sentences
    without aspect terms give no examples. A file without polarities is for prediction only.

    Raises:
        UserError: If the XML is not well-formed or has a document type declaration, which could define entities; if an
            aspect has no sentence, text or term; or if a polarity is unknown.
    """
    raw = path.read_bytes()
    if not raw.strip():
        raise empty_file(path)
    rows = _SemEvalParser(path).parse(raw)
    if not rows:
        raise UserError(
            f"{path}: holds no <aspectTerm> to learn from; give SemEval-2014's file of aspect terms"
        )
    labelled = any(row["label"] is not None for row in rows)
    for row in rows if labelled else ():
        if row["label"] not in (*POLARITIES.values(), CONFLICT):
            found = "none" if row["label"] is None else excerpt(row["label"])
            raise UserError(
                f"{path}: row {row['row']}: polarity must be one of {', '.join(POLARITIES.values())} or {CONFLICT}, "
                f"found {found}; correct it"
            )
    return _columns(rows, wanted, str(path), ("sentence", "aspect", *(("label",) if labelled else ()), "id"))


class _SemEvalParser:
    """Parser that collects the aspects of one file; expat calls its methods for each tag."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []
        self.sentence: dict[str, str] | None = None
        self.aspects: list[dict[str, Any]] = []
        self.text: list[str] | None = None
        self.in_text = False
        self.parser = expat.ParserCreate()
        self.parser.buffer_text = True
        self.parser.StartDoctypeDeclHandler = self.refuse_doctype
        self.parser.StartElementHandler = self.start
        self.parser.CharacterDataHandler = self.characters
        self.parser.EndElementHandler = self.end

    def parse(self, raw: bytes) -> list[dict[str, Any]]:
        try:
            self.parser.Parse(raw, True)
        except expat.ExpatError as error:
            raise UserError(
                f"{self.path}: line {error.lineno}: not well-formed XML ({expat.ErrorString(error.code)}); fix it, or "
                "download it again"
            ) from error
        except (LookupError, ValueError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(
                f"{self.path}: is in an encoding that cannot be read ({error}); save it as UTF-8"
            ) from error
        return self.rows

    def refuse_doctype(self, *_: Any) -> None:
        raise self.fault("has a document type declaration, which may define entities without end; delete it")

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        if tag == "sentence":
            self.sentence, self.aspects, self.text = attributes, [], None
        elif tag == "text":
            self.text, self.in_text = [], True
        elif tag == "aspectTerm":
            if self.sentence is None:
                raise self.fault("<aspectTerm> stands outside of a <sentence>; move it into its sentence")
            if "term" not in attributes:
                raise self.fault("<aspectTerm> has no attribute 'term'; add it")
            self.aspects.append(
                {
                    "aspect": attributes["term"],
                    "label": attributes.get("polarity"),
                    "row": self.parser.CurrentLineNumber,
                }
            )

    def characters(self, content: str) -> None:
        if self.in_text and self.text is not None:
            self.text.append(content)

    def end(self, tag: str) -> None:
        if tag == "text":
            self.in_text = False
        elif tag == "sentence" and self.sentence is not None:
            if self.aspects and self.text is None:
                raise self.fault("<sentence> has aspect terms and no <text>; add it")
            common = {"sentence": "".join(self.text or ()), "id": self.sentence.get("id")}
            self.rows += [{**common, **aspect} for aspect in self.aspects]
            self.sentence = None

    def fault(self, problem: str) -> UserError:
        return UserError(f"{self.path}: row {self.parser.CurrentLineNumber}: {problem}")


def read_acl14(path: Path, wanted: RequestedColumns, max_text_bytes: int) -> Columns:
    """Read the tweets of Dong et al. (ACL 2014).

    Each example has three lines: the sentence with `$T$` in place of the target, the target, and its polarity, -1, 0 or
    1. The sentence is returned with the target inserted.

    Raises:
        UserError: If the number of lines is no multiple of three, a sentence has no `$T$`, or a polarity is unknown.
    """
    lines = split_lines(read_utf8(path))
    rows = []
    for start in range(0, len(lines), 3):
        example = [line.strip() for line in lines[start : start + 3]]
        if len(example) < 3:
            raise UserError(
                f"{path}: row {start + 1}: the last example has {len(example)} of its three lines (sentence, target, "
                "polarity); complete it"
            )
        sentence, aspect, polarity = example
        if TARGET not in sentence:
            raise UserError(
                f"{path}: row {start + 1}: the sentence has no {TARGET} for its target; look for a missing line above"
            )
        if polarity not in POLARITIES:
            raise UserError(
                f"{path}: row {start + 3}: polarity must be one of {', '.join(POLARITIES)}, found {excerpt(polarity)}; "
                "correct it"
            )
        rows.append(
            {
                "sentence": sentence.replace(TARGET, aspect),
                "aspect": aspect,
                "label": POLARITIES[polarity],
                "row": start + 1,
            }
        )
    return _columns(rows, wanted, str(path), ("sentence", "aspect", "label"))


def count_absent_aspects(dataset: Dataset, sentence_column: str, aspect_column: str) -> int:
    """Return the number of rows whose aspect does not occur in their sentence, ignoring letter case."""
    pairs = zip(column_values(dataset, sentence_column), column_values(dataset, aspect_column), strict=True)
    return sum(aspect.casefold() not in sentence.casefold() for sentence, aspect in pairs)


def _columns(
    rows: list[dict[str, Any]], wanted: RequestedColumns, where: str, found: tuple[str, ...]
) -> Columns:
    columns: Columns = {
        name: pa.array([row[source] for row in rows], pa.string())
        for name, source in wanted.find(found, where).items()
    }
    return columns | {"row": pa.array([row["row"] for row in rows], pa.int64())}
