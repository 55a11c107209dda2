"""Insertion of reported tables into a document, so that no figure is typed by hand."""

import re
from pathlib import Path

from hf_layerfusion.errors import UserError
from hf_layerfusion.storage import writable, write_text

BLOCK = re.compile(r"(<!-- table: (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(text: str, results: Path) -> str:
    """Return `text` with the latest report between each `<!-- table: NAME -->` and `<!-- end -->`.

    Raises:
        UserError: A table that the text names has no report in `results`.
    """

    def block(match: re.Match[str]) -> str:
        report = results / f"{match['name']}.md"
        if not report.exists():
            raise UserError(
                f"table '{match['name']}': has no report {report}; run `python -m reproduction` for it."
            )
        return match[1] + report.read_text(encoding="utf-8") + match[3]

    return BLOCK.sub(block, text)


def fill_tables(document: Path, results: Path) -> None:
    """Update the tables in a document; raises what `filled` raises."""
    with writable(f"--update {document}"):
        write_text(document, filled(document.read_text(encoding="utf-8"), results))
