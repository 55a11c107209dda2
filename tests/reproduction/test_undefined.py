"""Tests of reports with undefined figures: the correlation of constant predictions."""

import numpy as np
import pytest

from hf_layerfusion.storage import write_json
from reproduction.ensemble_table import Combination, EnsembleTable
from reproduction.ensemble_table_report import report_of_ensembles
from reproduction.run_table import RunTable
from reproduction.table_report import report_of_runs
from reproduction.table_rows import read_variant_rows

LABELS = np.random.default_rng(0).normal(size=120).round(2)
TASKS = {"sts": {"problem_type": "regression"}}


def text_of(values):
    return " ".join(f"{value:.3f}" for value in values)


def write_run(results, variant, seed, predicted, folds=None):
    """Write a run file of one regression; the correlation of constant predictions is null in it."""
    constant = np.ptp(predicted) == 0
    figure = float("nan") if constant else float(np.corrcoef(predicted, LABELS)[0, 1])
    settings = {"tasks": TASKS, "seed": seed, **({"folds": folds[1]} if folds else {})}
    name = f"seed-{seed}" + (f"-fold-{folds[0]}" if folds else "")
    file = results / "g" / variant / f"{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "settings": settings,
        "metrics": {"test": {"sts_pearsonr": figure}},
        "predictions": {"sts": text_of(predicted)},
        "labels": {"sts": text_of(LABELS)},
        "validation_labels": {"sts": text_of(LABELS)},
        "logits": {split: {"sts": text_of(predicted)} for split in ("validation", "test")},
        "parameters": 1,
    }
    write_json(file, content)


def table_of(*variants, seeds=(0, 1), **common):
    return RunTable(
        name="t",
        title="T",
        group="g",
        split="test",
        metric="sts_pearsonr",
        baseline="base",
        data={"tasks": TASKS},
        common=common,
        seeds=list(seeds),
        variants={name: {} for name in ("base", *variants)},
    )


def predicted(noise, seed):
    return LABELS + noise * np.random.default_rng(seed).normal(size=len(LABELS))


def cells_of(table, results):
    report = report_of_runs(table, results)
    report.write(results, "t")  # with its figure
    return by_first_column(report)


def by_first_column(report):
    return {next(iter(row.values())): row for row in report.table.to_dict("records")}


@pytest.mark.parametrize("collapsed", [[0, 1], [1]], ids=["every seed", "one seed"])
def test_a_collapsed_model_is_not_significant(tmp_path, collapsed):
    for seed in (0, 1):
        write_run(tmp_path, "base", seed, predicted(1.0, seed))
        write_run(tmp_path, "good", seed, predicted(0.2, seed + 2))
        dead = np.full(len(LABELS), 2.5) if seed in collapsed else predicted(1.0, seed + 4)
        write_run(tmp_path, "dead", seed, dead)
    table = table_of("good", "dead")
    found = cells_of(table, tmp_path)
    dead, good = found["dead"], found["good"]
    assert dead["p (Holm)"] == "" and dead["difference [95 %]"] == "undefined"
    assert dead[""] == "undefined: a model's answers are all the same"
    assert dead["sts pearsonr, mean (sd)"] == f"undefined in {len(collapsed)} of 2"
    assert dead["each seed"].count("undefined") == len(collapsed)
    assert good["p (Holm)"] != "" and "undefined" not in good[""]
    # Holm's family is the one test that there is.
    (alone,) = [row for row in read_variant_rows(table_of("good"), tmp_path) if row.difference]
    (beside,) = [row for row in read_variant_rows(table, tmp_path) if row.variant == "good"]
    assert beside.difference.p_value == alone.difference.p_value


def test_a_collapsed_baseline_leaves_no_test(tmp_path):
    for seed in (0, 1):
        write_run(tmp_path, "base", seed, np.zeros(len(LABELS)))
        write_run(tmp_path, "good", seed, predicted(0.2, seed))
    good = cells_of(table_of("good"), tmp_path)["good"]
    assert good.get("p (Holm)", "") == "" and good["difference [95 %]"] == "undefined"
    assert good[""] == "undefined: a model's answers are all the same"


def test_a_collapsed_fold_leaves_no_test(tmp_path):
    for fold in (1, 2, 3):
        write_run(tmp_path, "base", 0, predicted(1.0, fold), (fold, 3))
        write_run(tmp_path, "dead", 0, predicted(1.0, 9) if fold > 1 else np.zeros(len(LABELS)), (fold, 3))
    found = cells_of(table_of("dead", seeds=[0], folds=3), tmp_path)["dead"]
    assert found.get("p (Holm)", "") == "" and found["difference [95 %]"] == "undefined"
    assert found["sts pearsonr, mean (sd)"] == "undefined in 1 of 3"


def test_collapsed_members_are_neither_best_nor_figures(tmp_path):
    write_run(tmp_path, "dead", 0, np.full(len(LABELS), 2.5))
    write_run(tmp_path, "good", 0, predicted(0.5, 1))
    rows = {
        "both": Combination("average_logits", ("dead/seed-0", "good/seed-0")),
        "only": Combination("average_logits", ("dead/seed-0",)),
        "chosen": Combination("average_logits", ("dead/seed-0", "good/seed-0"), best="of_each_task"),
    }
    report = report_of_ensembles(EnsembleTable("t", "T", "g", rows, {}), tmp_path)
    report.write(tmp_path, "t")
    found = by_first_column(report)
    assert any(name.endswith("good/seed-0") for name in found)
    only = found["only"]
    assert only["p (Holm)"] == "" and only["gain over the best member [95 %]"] == "undefined"
    assert only["test, sts"] == "undefined"
    assert only[""] == "undefined: a model's answers are all the same"
    assert found["chosen"]["test, sts"] == next(iter(found.values()))["test, sts"]
