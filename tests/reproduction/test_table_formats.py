"""Tests of the report's text formats: each shows the content of every cell."""

import csv
import io
import re

from reproduction.table_formats import results_frame, to_csv, to_latex

SIGNS = r"100 % of A&B, $5 #1 a_b {c} ~d ^e \f <g> [h] é"
# What LaTeX prints for the commands that the table writes.
PRINTED = {r"\textbackslash{}": "\\", r"\textasciitilde{}": "~", r"\textasciicircum{}": "^"}
PRINTED |= {r"\textless{}": "<", r"\textgreater{}": ">", "{[}": "[", "{]}": "]"}
PRINTED |= {rf"\{sign}": sign for sign in "&%$#_{}"}


def printed(latex: str) -> str:
    pattern = "|".join(re.escape(command) for command in sorted(PRINTED, key=len, reverse=True))
    return re.sub(pattern, lambda match: PRINTED[match[0]], latex)


def test_signs_survive_in_latex():
    table = results_frame(["name", SIGNS], [["[first]", "1"], [SIGNS, ""]])
    lines = to_latex(table, SIGNS, "tab:a").splitlines()
    # No sign that LaTeX would act on is left once the known commands are taken out.
    body = "\n".join(lines[lines.index(r"\toprule") + 1 : lines.index(r"\bottomrule")])
    for command in (*PRINTED, r"\midrule", r" \\", " & "):
        body = body.replace(command, "")
    assert not set(body) & set("&%$#_{}~^\\<>[]")
    rows = [line for line in lines if line.endswith(r" \\")]
    cells = [[printed(cell) for cell in row.removesuffix(r" \\").split(" & ")] for row in rows]
    assert cells == [["name", SIGNS], ["[first]", "1"], [SIGNS, ""]]
    assert rf"\caption{{{SIGNS}}}" in map(printed, lines)


def test_latex_is_a_booktabs_table_with_a_column_for_each():
    lines = to_latex(results_frame(["a", "b", "c"], [["1", "2", "3"]]), "T", "tab:t").splitlines()
    assert lines[0] == r"\begin{table}" and lines[-1] == r"\end{table}"
    assert r"\begin{tabular}{lll}" in lines and r"\end{tabular}" in lines
    rules = [line for line in lines if line.endswith("rule")]
    assert rules == [r"\toprule", r"\midrule", r"\bottomrule"]


def test_csv_gives_back_its_cells():
    cells = [["a", 'say "x", or\ny'], [SIGNS, ""]]
    assert list(csv.reader(io.StringIO(to_csv(results_frame(["n", "m"], cells))))) == [["n", "m"], *cells]


def test_columns_that_no_row_fills_are_left_out():
    table = results_frame(["a", "", "c"], [["1", "", ""], ["2", "", "x"]])
    assert [*table.columns] == ["a", "c"] and table.to_numpy().tolist() == [["1", ""], ["2", "x"]]
