"""Tests of `python -m reproduction` from the command line."""

import json
import runpy
import sys
from pathlib import Path

import pytest

from reproduction.ensemble_table import EnsembleTable

SCRIPT = Path(__file__).parents[2] / "reproduction" / "__main__.py"


@pytest.fixture
def call(monkeypatch, capsys):
    def reproduce(*arguments):
        monkeypatch.setattr(sys, "argv", ["reproduction", *map(str, arguments)])
        runpy.run_path(str(SCRIPT), run_name="__main__")
        return capsys.readouterr().out

    return reproduce


def write_votes(results: Path) -> None:
    """Write a few of the members of `grubert-vote`, with classes for four tweets."""
    table = EnsembleTable.load("grubert-vote")
    for run in table.runs()[:3]:
        file = table.file(results, run)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"settings": {}, "predictions": "0 1 1 0", "labels": "0 1 0 0"}))


def test_all_tables_are_listed(call):
    lines = call("--list", True).splitlines()
    names = [line.split()[0] for line in lines]
    assert {"grubert-2", "serbertus-7", "iterative-ensembles"} <= {*names}
    assert all(len(line) > 23 for line in lines), "each has a title"


def test_a_dry_run_says_what_would_run_and_which_tables_run_members(call, tmp_path):
    out = call("--table", "serbertus-7", "grubert-vote", "--dry_run", True, "--results", tmp_path / "none")
    assert "serbertus-7: cerbertus-2, seed-0" in out
    (line,) = [each for each in out.splitlines() if each.startswith("grubert-vote: share-3/seed-2: ")]
    assert {"grubert-2,", "grubert-3,", "grubert-components"} <= {*line.split()}
    assert not (tmp_path / "none").exists()


def test_a_table_of_ensembles_needs_run_files_alone(call, tmp_path):
    write_votes(tmp_path)
    (tmp_path / "page.md").write_text("<!-- table: grubert-vote -->\n<!-- end -->\n")
    out = call("--table", "grubert-vote", "--results", tmp_path, "--update", tmp_path / "page.md")
    report = (tmp_path / "grubert-vote.md").read_text(encoding="utf-8")
    assert report in out and report in (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "| three seeds of share-3 | majority vote | 3 |" in report
    assert "75.00" in report and "Missing members: share-3-frozen/seed-0" in report
    assert (tmp_path / "grubert-vote.tex").exists() and (tmp_path / "grubert-vote.png").exists()


def test_without_run_files_there_is_no_report(call, tmp_path):
    out = call("--table", "grubert-2", "grubert-vote", "--report_only", True, "--results", tmp_path)
    assert out.count("no run has finished yet") == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--table must name a table"),
        (["--table", "grubert-9"], "--table must name tables of"),
        (["--table", "grubert-2"], "--data must name the folder"),
        (["--table", "grubert-2", "--data", ".", "--jobs", "0"], "--jobs must be 1 or more, found 0"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(call, capsys, arguments, message):
    with pytest.raises(SystemExit) as caught:
        call(*arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]


def test_on_gpus_the_processor_is_not_asked_for(call, tmp_path):
    out = call("--table", "serbertus-7", "--dry_run", True, "--results", tmp_path, "--gpu", True)
    assert out.count("'use_cpu': False") == 3
