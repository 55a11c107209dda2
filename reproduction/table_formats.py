"""The results table of a report as Markdown, CSV and LaTeX."""

from collections.abc import Sequence

import pandas as pd

from hf_layerfusion.hub.markdown import markdown_table

_LATEX_SIGNS = str.maketrans(
    {sign: f"\\{sign}" for sign in "&%$#_{}"}
    # A bracket at the start of a row would be read as an optional argument; pandas' own escaping leaves it.
    | {sign: f"{{{sign}}}" for sign in "[]"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}"}
)


def results_frame(header: Sequence[str], cells: Sequence[Sequence[str]]) -> pd.DataFrame:
    """Return a frame of text without the columns that are empty in every row.

    Args:
        header: The names of the columns.
        cells: One list of texts for each row.
    """
    frame = pd.DataFrame(cells, columns=header, dtype=object)
    return frame.loc[:, (frame != "").any().to_numpy()]


def to_markdown(frame: pd.DataFrame) -> str:
    """Return the frame as a Markdown table."""
    return f"{markdown_table(list(frame.columns), frame.to_numpy().tolist())}\n"


def to_csv(frame: pd.DataFrame) -> str:
    """Return the frame as CSV."""
    return str(frame.to_csv(index=False, lineterminator="\n"))


def to_latex(frame: pd.DataFrame, caption: str, label: str) -> str:
    """Return the frame as a floating LaTeX table with the rules of the `booktabs` package."""
    escaped = frame.map(_escape_latex).rename(columns=_escape_latex)
    return str(
        escaped.style.hide(axis="index").to_latex(
            caption=_escape_latex(caption),
            label=label,
            column_format="l" * frame.shape[1],
            hrules=True,
            position_float="centering",
        )
    )


def _escape_latex(text: str) -> str:
    return text.translate(_LATEX_SIGNS)
