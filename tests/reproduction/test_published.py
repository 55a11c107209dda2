"""Tests that every published figure follows from a run file."""

from pathlib import Path

import pytest

from reproduction.ensemble_table import EnsembleTable, ensemble_table_names
from reproduction.ensemble_table_report import report_of_ensembles
from reproduction.results_document import filled
from reproduction.run_table import RunTable, table_names
from reproduction.table_report import report_of_runs

DOCS = Path(__file__).parents[2] / "docs"
RESULTS = DOCS / "results"
REPORTS = sorted(path.stem for path in RESULTS.glob("*.md"))
# Of each kind of table (one task, several tasks, several data sets, ensembles), `make test` makes smaller ones.
SLOW = {"extrabert-1", "grubert-2", "iterative-3", "layers-fusers", "serbertus-6"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in REPORTS]
)
def test_a_report_is_what_its_run_files_give(name):
    if name in ensemble_table_names():
        report = report_of_ensembles(EnsembleTable.load(name), RESULTS)
    else:
        report = report_of_runs(RunTable.load(name), RESULTS)
    assert report is not None
    for file, text in report.texts(name).items():
        assert (RESULTS / file).read_text(encoding="utf-8") == text
    assert (RESULTS / f"{name}.png").exists()


@pytest.mark.parametrize("name", ["results.md", "paper-results.md"])
def test_the_documents_hold_the_reports(name: str):
    document = (DOCS / name).read_text(encoding="utf-8")
    assert filled(document, RESULTS) == document


def test_no_report_lies_beside_the_tables():
    drawn = [table for table in map(RunTable.load, table_names()) if table.plotted_variant]
    predicted = {f"{table.name}-{task}{end}" for table in drawn for task in table.data["tasks"]
               for end in ("", "_distributions")}  # fmt: skip
    known = {*table_names(), *ensemble_table_names(), *predicted}
    assert {path.stem for path in RESULTS.glob("*.*")} <= known
