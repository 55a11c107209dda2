"""Tables whose seeds draw their own training rows: rows are compared on the draws that both have."""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from hf_layerfusion.errors import UserError
from hf_layerfusion.storage import write_json
from reproduction.run_table import RunTable
from reproduction.table_rows import read_variant_rows

EXAMPLES = 200
EASY, HARD = 180, 120
"""Correct answers of every row on an easy draw of training rows, and on a hard one."""


def write_run(results: Path, variant: str, seed: int, correct: int) -> None:
    content = {
        "settings": {"seed": seed},
        "metrics": {"test": {"accuracy": correct / EXAMPLES}},
        "predictions": " ".join(["1"] * correct + ["0"] * (EXAMPLES - correct)),
        "labels": " ".join(["1"] * EXAMPLES),
        "parameters": 1,
    }
    file = results / "g" / variant / f"seed-{seed}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, content)


def table_of(draws: bool) -> RunTable:
    return RunTable(
        name="t", title="T", group="g", split="test", metric="accuracy", baseline="base", data={}, common={},
        seeds=[0, 1, 2], variants={"base": {}, "other": {}}, draws=draws,
    )  # fmt: skip


@pytest.mark.parametrize("draws", [True, False])
def test_a_row_that_misses_a_hard_draw_is_no_better(draws: bool, tmp_path: Path) -> None:
    for seed, correct in enumerate((EASY, EASY, HARD)):
        write_run(tmp_path, "base", seed, correct)
        if seed < 2:
            write_run(tmp_path, "other", seed, correct)
    (_, row) = read_variant_rows(table_of(draws), tmp_path)
    assert row.difference is not None
    assert row.difference.difference == pytest.approx(0 if draws else 0.1)


def test_rows_without_a_common_draw_are_not_compared(tmp_path: Path) -> None:
    write_run(tmp_path, "base", 0, EASY)
    write_run(tmp_path, "other", 1, HARD)
    (_, row) = read_variant_rows(table_of(True), tmp_path)
    assert row.difference is None and np.isfinite(row.values).all()


@pytest.mark.parametrize("gains", [(16, 20, 24), (2, 20, 38), (-3, -20, -30), (-16, -20, -24)])
def test_the_spread_is_that_of_the_gains_on_each_draw(gains: tuple[int, ...], tmp_path: Path) -> None:
    """Draws that move both rows together say nothing against a gain that all of them show."""
    for seed, (correct, gain) in enumerate(zip((150, 120, 90), gains, strict=True)):
        write_run(tmp_path, "base", seed, correct)
        write_run(tmp_path, "other", seed, correct + gain)
    (_, row) = read_variant_rows(table_of(True), tmp_path)
    is_clear = ttest_1samp(gains, 0).pvalue < 0.05
    assert row.verdict == ("" if is_clear else "within the draws' spread")


def test_runs_of_the_baseline_on_other_rows_are_refused(tmp_path: Path) -> None:
    for seed in range(2):
        write_run(tmp_path, "base", seed, EASY)
        write_run(tmp_path, "other", seed, EASY)
    file = tmp_path / "g" / "base" / "seed-1.json"
    file.write_text(file.read_text().replace('"labels": "1', '"labels": "0'))
    with pytest.raises(UserError, match="the baseline's seed-1 was scored on 200 examples"):
        read_variant_rows(table_of(False), tmp_path)
