"""A report's columns and cells, as markdown, csv and LaTeX."""

import csv
import io
from dataclasses import dataclass

from hf_layerfusion.hub.markdown import markdown_table

_LATEX_SIGNS = str.maketrans(
    {sign: f"\\{sign}" for sign in "&%$#_{}"}
    # A bracket after a line's end would be read as its optional argument.
    | {sign: f"{{{sign}}}" for sign in "[]"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}"}
)


@dataclass(frozen=True)
class Sheet:
    """What a report shows, as text.

    Attributes:
        header: the columns' names.
        cells: a list a row.
    """

    header: list[str]
    cells: list[list[str]]

    def filled(self) -> "Sheet":
        """The sheet without the columns that no row fills."""
        kept = [place for place in range(len(self.header)) if any(row[place] for row in self.cells)]
        header, *cells = ([row[place] for place in kept] for row in (self.header, *self.cells))
        return Sheet(header, cells)

    def markdown(self) -> str:
        """As a markdown table."""
        return f"{markdown_table(self.header, self.cells)}\n"

    def csv(self) -> str:
        """As csv (RFC 4180)."""
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator="\n").writerows([self.header, *self.cells])
        return buffer.getvalue()

    def latex(self, caption: str, label: str) -> str:
        """As a floating table with the rules of the package `booktabs`."""
        header, *body = (
            " & ".join(cell.translate(_LATEX_SIGNS) for cell in row) + r" \\"
            for row in (self.header, *self.cells)
        )
        lines = [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{caption.translate(_LATEX_SIGNS)}}}",
            rf"\label{{{label}}}",
            rf"\begin{{tabular}}{{{'l' * len(self.header)}}}",
            r"\toprule",
            header,
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
        return "\n".join(lines) + "\n"
