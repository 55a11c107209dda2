"""Tests of tables of runs: their declarations, and reports of run files."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom
from transformers import HfArgumentParser

from hf_layerfusion import CerbertusConfig
from hf_layerfusion.errors import UserError
from hf_layerfusion.evaluation.task_significance import bootstrap_tasks
from hf_layerfusion.recipes.model_setup import model_settings
from hf_layerfusion.recipes.multitask.task_preparation import make_tasks
from hf_layerfusion.recipes.multitask.task_training import check_multitask_model
from reproduction import run_table as tables
from reproduction.further_pretraining import SETTING as FURTHER_PRETRAINING
from reproduction.imported_embeddings import SETTING as EMBEDDINGS
from reproduction.results_document import filled
from reproduction.run_recipes import MULTITASK_CLASSES, RUN_RECIPES, arguments_of, task_entries
from reproduction.run_table import TEACHER_MEMBERS, RunTable, table_names
from reproduction.runner import pending_runs
from reproduction.table_formats import to_markdown
from reproduction.table_report import frame_of_runs, plot_predictions, report_of_runs
from reproduction.table_rows import correctness, read_variant_rows, task_predictions
from tests.tiny import tiny_config


@pytest.mark.parametrize(
    "name", [name for name in table_names() if RunTable.load(name).recipe != "multitask"]
)
def test_every_run_of_a_table_is_made_of_settings_that_exist(name, tmp_path):
    runs = RunTable.load(name).runs()
    assert len({run.file(tmp_path) for run in runs}) == len(runs)
    for run in runs:
        parser = HfArgumentParser(RUN_RECIPES[run.recipe].arguments)
        settings = {
            name: value
            for name, value in run.settings.items()
            if name not in (EMBEDDINGS, FURTHER_PRETRAINING, TEACHER_MEMBERS)
        }
        model_arguments, _, _ = parser.parse_dict({**settings, "output_dir": str(tmp_path)})
        model_settings(model_arguments)


@pytest.mark.parametrize(
    "name", [name for name in table_names() if RunTable.load(name).recipe == "multitask"]
)
def test_every_run_over_several_tasks_is_a_model_that_can_be_built(name, tmp_path):
    encoder = tiny_config("bert", num_hidden_layers=6)
    encoder.save_pretrained(tmp_path)
    labels = {"sst5": list("abcde"), "quora": ["0", "1"], "cfimdb": ["0", "1"]}
    for run in RunTable.load(name).runs():
        given = arguments_of(run.settings) | {
            "output_dir": str(tmp_path),
            "model_name_or_path": str(tmp_path),
        }
        model_arguments, data_arguments, _ = HfArgumentParser(MULTITASK_CLASSES).parse_dict(given)
        tasks = make_tasks(task_entries(run.settings), tmp_path, data_arguments)
        if run.seed == 0:
            check_multitask_model(model_arguments, tasks)  # before the labels are read
        CerbertusConfig(
            encoder_config=encoder.to_dict(),
            encoders=model_arguments.encoders,
            num_task_layers=model_arguments.num_task_layers,
            tasks={
                task.name: task.settings | ({"labels": labels[task.name]} if task.name in labels else {})
                for task in tasks.values()
            },
        )


def test_tables_of_one_group_agree_on_the_rows_they_share():
    seen: dict[tuple[str, str], dict] = {}
    for name in table_names():
        table = RunTable.load(name)
        for variant, row in table.variants.items():
            # What a row is tested against may differ from table to table.
            run = {name: value for name, value in row.items() if name != "baseline"}
            assert seen.setdefault((table.group, variant), run) == run


def test_the_first_seed_of_every_row_comes_before_the_second():
    seeds = [run.seed for run in RunTable.load("grubert-2").runs()]
    assert seeds == sorted(seeds)


def test_unknown_table_is_refused():
    with pytest.raises(UserError, match=r"--table must be one of .*grubert-2.*found 'nope'"):
        RunTable.load("nope")


def small_table() -> RunTable:
    return RunTable(
        name="t",
        title="T",
        group="g",
        split="test",
        metric="accuracy",
        baseline="base",
        data={},
        common={"learning_rate": 1e-3},
        seeds=[0, 1],
        variants={"base": {"figure": "80.00"}, "same": {}, "better": {}, "missing": {}},
    )


def write_runs(results: Path) -> RunTable:
    table = small_table()
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 400)
    for run in table.runs():
        if run.variant == "missing":
            continue
        wrong = np.zeros(400, dtype=bool)
        share = {"base": 0.4, "same": 0.4, "better": 0.1}[run.variant]
        wrong[rng.choice(400, int(400 * share), replace=False)] = True
        predictions = np.where(wrong, 1 - labels, labels)
        content = {
            "settings": run.settings,
            "metrics": {"test": {"accuracy": float((predictions == labels).mean())}},
            "parameters": 10,
            "training_seconds": 2.0 + run.seed,
            **({"peak_memory_mib": 1200} if run.seed else {}),  # older files lack it
            "predictions": " ".join(map(str, predictions)),
            "labels": " ".join(map(str, labels)),
        }
        run.file(results).parent.mkdir(parents=True, exist_ok=True)
        run.file(results).write_text(json.dumps(content))
    return table


def test_report_tests_each_row_against_the_baseline_and_marks_noise(tmp_path):
    table = write_runs(tmp_path)
    rows = {row.variant: row for row in read_variant_rows(table, tmp_path)}
    assert list(rows) == ["base", "same", "better"]
    assert rows["base"].values == [0.6, 0.6]
    assert rows["base"].difference is None
    assert rows["better"].difference.difference == pytest.approx(0.3)
    assert rows["better"].difference.p_value < 0.01 < rows["same"].difference.p_value
    assert (rows["base"].seconds, rows["base"].memory) == (2.5, 1200)
    frame = frame_of_runs(table, list(rows.values()))
    text = to_markdown(frame)
    by_row = {line.split("|")[1].strip(): line for line in text.splitlines()}
    assert "within noise" in by_row["same"]
    assert "within noise" not in by_row["better"]
    assert "60.00 (0.00)" in by_row["base"]
    assert "| 1,200 |" in by_row["base"]
    assert "80.00" in by_row["base"]
    assert "other data, other encoder" in text.splitlines()[0]
    assert "60.00, 60.00" in by_row["base"], "fewer than five seeds are listed"
    assert len(frame) == 3


def test_one_seed_gives_no_verdict(tmp_path):
    table = write_runs(tmp_path)
    for variant in ("same", "better"):
        (tmp_path / "g" / variant / "seed-1.json").unlink()
    text = to_markdown(frame_of_runs(table, read_variant_rows(table, tmp_path)))
    assert text.count("one seed: no verdict") == 2
    assert "within noise" not in text


def test_two_single_models_are_tested_by_mcnemar(tmp_path):
    table = write_runs(tmp_path)
    right = {}
    for variant in ("base", "better"):
        (tmp_path / "g" / variant / "seed-1.json").unlink()
        content = json.loads((tmp_path / "g" / variant / "seed-0.json").read_text())
        right[variant] = np.equal(content["predictions"].split(), content["labels"].split())
    won = int((right["better"] & ~right["base"]).sum())
    lost = int((right["base"] & ~right["better"]).sum())
    rows = {row.variant: row for row in read_variant_rows(table, tmp_path)}
    expected = min(1.0, 2 * binom.sf(won - 1, won + lost, 0.5))  # the more frequent side, both ways
    assert rows["better"].difference.p_value == pytest.approx(
        2 * expected, rel=1e-9
    )  # the smaller of two, by Holm
    assert 0 < rows["better"].difference.low < rows["better"].difference.high
    # With a second seed of one of them it is the bootstrap, whose smallest p-value is 2 of 10,001.
    (tmp_path / "g" / "base" / "seed-1.json").write_text(
        (tmp_path / "g" / "base" / "seed-0.json").read_text()
    )
    rows = {row.variant: row for row in read_variant_rows(table, tmp_path)}
    assert rows["better"].difference.p_value == pytest.approx(2 * 2 / 10_001)


def test_one_task_of_classes_is_tested_as_a_single_task(tmp_path):
    """What a run over several tasks stores of the one task that it has; of several tasks, or of values, the mean's
    bootstrap stays."""
    runs = [
        {
            "settings": {"tasks": {"a": {}, "b": {"problem_type": "regression"}}},
            "labels": {"a": "0 1 1"},
            "predictions": {"a": "0 1 0"},
        }
    ]
    np.testing.assert_array_equal(correctness(runs), [[1, 1, 0]])
    values = {"labels": {"b": "0.5 1"}, "predictions": {"b": "0.5 2"}}
    assert correctness([runs[0] | values]) is None
    both = {name: runs[0][name] | values[name] for name in values}
    assert correctness([runs[0] | both]) is None


def test_five_seeds_are_not_listed(tmp_path):
    table = write_runs(tmp_path)
    content = (tmp_path / "g" / "base" / "seed-0.json").read_text()
    for seed in range(5):
        (tmp_path / "g" / "base" / f"seed-{seed}.json").write_text(content)
    rows = {row.variant: row for row in read_variant_rows(replace(table, seeds=list(range(5))), tmp_path)}
    assert (len(rows["base"].values), rows["base"].listed) == (5, [])
    assert len(rows["same"].listed) == 2


def test_a_report_is_written_in_three_formats_and_drawn(tmp_path):
    table = write_runs(tmp_path)
    report = report_of_runs(table, tmp_path)
    report.write(tmp_path, "t")
    for file, text in report.texts("t").items():
        assert (tmp_path / file).read_text(encoding="utf-8") == text
    assert sorted(path.suffix for path in tmp_path.glob("t.*")) == [".csv", ".md", ".png", ".tex"]
    assert report.bars[0][:2] == ("base", 0.6)
    assert report_of_runs(replace(table, group="nothing"), tmp_path) is None


def test_rows_of_other_examples_are_not_compared(tmp_path):
    table = write_runs(tmp_path)
    path = tmp_path / "g" / "better" / "seed-1.json"
    content = json.loads(path.read_text())
    content["labels"] = " ".join(reversed(content["labels"].split()))
    path.write_text(json.dumps(content))
    with pytest.raises(
        UserError, match=r"'better', seed-1, was scored on 400 examples .* are different ones"
    ):
        read_variant_rows(table, tmp_path)


def test_a_regression_is_compared_by_its_correlation():
    """A run of one task stores its values and no names of tasks."""
    values = np.random.default_rng(0).normal(size=50)
    runs = [
        {
            "settings": {"problem_type": "regression"},
            "labels": " ".join(map(str, values)),
            "predictions": " ".join(map(str, values + np.random.default_rng(seed).normal(size=50))),
        }
        for seed in (1, 2)
    ]
    assert correctness(runs) is None
    ((task, found),) = task_predictions(runs).items()
    assert task == "" and found.is_correlation and found.predictions.shape == (2, 50)
    assert bootstrap_tasks({task: found}, {task: found}).difference == 0


def test_a_difference_that_seeds_may_have_made_is_marked(tmp_path):
    """Accuracies 0.5 and 0.7 against 0.9 and 0.9: 0.3 is beyond examples' noise, and 3 standard errors of 0.1; with 0.4
    and 0.8 it is 1.5 of 0.2."""
    table = write_runs(tmp_path)
    for accuracies, verdict in (((0.5, 0.7), ""), ((0.4, 0.8), "within the seeds' spread")):
        for seed, accuracy in enumerate(accuracies):
            path = tmp_path / "g" / "base" / f"seed-{seed}.json"
            content = json.loads(path.read_text())
            content["metrics"]["test"]["accuracy"] = accuracy
            labels = content["labels"].split()
            content["predictions"] = " ".join(
                label if n < 400 * accuracy else "-1" for n, label in enumerate(labels)
            )
            path.write_text(json.dumps(content))
        rows = {row.variant: row for row in read_variant_rows(table, tmp_path)}
        assert rows["better"].difference.p_value < 0.01
        assert rows["better"].verdict == verdict


def test_pending_runs_are_those_without_a_file_and_foreign_files_are_refused(tmp_path):
    table = write_runs(tmp_path)
    assert [run.variant for run in pending_runs(table, tmp_path, {})] == ["missing", "missing"]
    with pytest.raises(UserError, match=r"other settings \(learning_rate\)"):
        pending_runs(table, tmp_path, {"learning_rate": 0.5})


def test_documents_are_filled_from_reports(tmp_path):
    (tmp_path / "t.md").write_text("| new |\n")
    text = "a\n<!-- table: t -->\n| old |\n<!-- end -->\nb"
    assert filled(text, tmp_path) == "a\n<!-- table: t -->\n| new |\n<!-- end -->\nb"
    with pytest.raises(UserError, match="table 'u'"):
        filled(text.replace("table: t", "table: u"), tmp_path)


def test_folds_are_runs_of_their_own_and_tested_by_their_differences(tmp_path):
    """Four folds with differences 0.1, 0.2, 0.3 and 0.2: t = 0.2 / sqrt(1/150 · 7/12), as in the test of the test."""
    table = replace(small_table(), common={"folds": 4}, seeds=[0], also=("f1_macro",))
    accuracy = {"base": [0.5, 0.4, 0.6, 0.5], "better": [0.6, 0.6, 0.9, 0.7], "same": [0.5, 0.4, 0.6]}
    for run in table.runs():
        if run.fold is not None and run.fold <= len(accuracy.get(run.variant, ())):
            value = accuracy[run.variant][run.fold - 1]
            content = {
                "settings": run.settings,
                "metrics": {"test": {"accuracy": value, "f1_macro": value / 2}},
                "parameters": 10,
                "training_seconds": 1.0,
            }
            run.file(tmp_path).parent.mkdir(parents=True, exist_ok=True)
            run.file(tmp_path).write_text(json.dumps(content))
    assert (tmp_path / "g" / "base" / "seed-0-fold-4.json").exists()
    rows = {row.variant: row for row in read_variant_rows(table, tmp_path)}
    assert rows["same"].difference is None, "a cross-validation that is not whole is not tested"
    found = rows["better"].difference
    reach = 3.182446 * (7 / 12 / 150) ** 0.5
    assert (found.difference, found.low, found.high) == pytest.approx(
        (0.2, 0.2 - reach, 0.2 + reach), abs=1e-6
    )
    text = to_markdown(frame_of_runs(table, list(rows.values())))
    line = next(line for line in text.splitlines() if "better" in line)
    assert "70.00 (14.14) | 35.00 (7.07) | 4 |" in line
    assert "each seed" not in text, "folds are not seeds"


def test_each_data_set_has_its_own_baseline(monkeypatch):
    content = {
        "title": "T", "group": "g", "split": "test", "metric": "accuracy", "baseline": "plain", "data": {},
        "common": {}, "seeds": [0], "data_sets": {"a": {"train_file": "a.csv"}, "b": {"train_file": "b.csv"}},
        "variants": {"plain": {}, "lstm": {"settings": {"pooling": "lstm"}, "figures": {"b": "80"}}},
    }  # fmt: skip
    monkeypatch.setattr(tables, "_read", lambda file: json.loads(json.dumps(content)))
    monkeypatch.setattr(tables, "table_names", lambda: ["t"])
    table = RunTable.load("t")
    assert list(table.variants) == ["a-plain", "a-lstm", "b-plain", "b-lstm"]
    assert table.variants["b-lstm"]["baseline"] == "b-plain"
    assert [row["figure"] for row in table.variants.values()] == ["", "", "", "80"]
    assert table.runs()[3].settings == {"train_file": "b.csv", "pooling": "lstm", "seed": 0}


def test_answers_of_a_row_are_drawn_task_by_task(tmp_path):
    table = RunTable(
        "t", "T", "g", "test", "mean", None, {}, {}, [3, 4], {"a": {}, "b": {}}, plotted_variant="b"
    )
    plot_predictions(table, tmp_path)
    assert list(tmp_path.iterdir()) == []  # nothing has run
    content = {
        "metrics": {"test": {"mean": 0.5, "x_accuracy": 0.5, "y_pearsonr": 0.5}},
        "labels": {"x": "0 2 1 0", "y": "0.5 1 2.25"},
        "predictions": {"x": "0 1 1 0", "y": "0 1.5 2"},
    }
    (tmp_path / "g" / "b").mkdir(parents=True)
    (tmp_path / "g" / "b" / "seed-4.json").write_text(json.dumps(content), encoding="utf-8")
    plot_predictions(table, tmp_path)
    files = ["t-x.png", "t-x_distributions.png", "t-y.png", "t-y_distributions.png"]
    assert sorted(path.name for path in tmp_path.glob("*.png")) == files
    plot_predictions(replace(table, plotted_variant="a"), tmp_path / "g")
    assert not list((tmp_path / "g").glob("*.png"))
