"""Tests of the runner: each run is performed once and leaves one file."""

import json

import numpy as np
import pytest

from reproduction import runner
from reproduction.run_table import RunTable, table_names
from reproduction.runner import execute, pending_runs, run_table
from reproduction.table_report import frame_of_runs
from reproduction.table_rows import read_variant_rows


def test_a_run_leaves_one_file_and_is_not_run_again(tiny_encoder_dir, tiny_tweets, tmp_path, monkeypatch):
    settings = {
        "model_name_or_path": tiny_encoder_dir, "num_train_epochs": 1, "use_cpu": True, "num_groups": 2,
        "preprocessing": "none", "learning_rate": 1e-3,
    }  # fmt: skip
    files = {f"{split}_file": str(tiny_tweets[split]) for split in ("train", "validation")}
    files["test_file"] = files["validation_file"]
    table = RunTable("t", "T", "g", "test", "accuracy", None, files, settings, [3], {"share": {}})
    (run,) = table.runs()
    file = execute(run, tmp_path, tmp_path / "results", tmp_path / "work")
    content = json.loads(file.read_text(encoding="utf-8"))
    assert file == tmp_path / "results" / "g" / "share" / "seed-3.json"
    assert content["settings"] == run.settings and not (tmp_path / "work" / "g" / "share" / "seed-3").exists()
    right = np.equal(content["predictions"].split(), content["labels"].split()).mean()
    assert read_variant_rows(table, tmp_path / "results")[0].values == [
        content["metrics"]["test"]["accuracy"]
    ]
    assert abs(content["metrics"]["test"]["accuracy"] - right) < 1e-9
    assert pending_runs(table, tmp_path / "results", {}) == []
    monkeypatch.setattr(runner, "execute", None)
    run_table(table, data_dir=tmp_path, results=tmp_path / "results", work=tmp_path / "work")


@pytest.mark.parametrize("name", table_names())
def test_no_declared_table_saves_what_cannot_be_resumed(name):
    """A run of a table that is cut off goes on at its last checkpoint, which must hold all that it needs for that."""
    assert not [run.variant for run in RunTable.load(name).runs() if run.settings.get("save_only_model")]


def test_a_run_file_of_checkpoints_without_optimizer_is_one_of_the_same_run(tmp_path):
    table = RunTable("t", "T", "g", "test", "accuracy", None, {}, {"learning_rate": 1.0}, [3], {"share": {}})
    (run,) = table.runs()
    run.file(tmp_path).parent.mkdir(parents=True)
    run.file(tmp_path).write_text(json.dumps({"settings": {**run.settings, "save_only_model": True}}))
    assert pending_runs(table, tmp_path, {}) == []


def test_a_run_that_was_cut_off_says_no_time(tiny_encoder_dir, tiny_tweets, tmp_path, monkeypatch):
    settings = {
        "model_name_or_path": tiny_encoder_dir,
        "num_train_epochs": 1,
        "use_cpu": True,
        "num_groups": 2,
    }
    files = {f"{split}_file": str(tiny_tweets[split]) for split in ("train", "validation")}
    files["test_file"] = files["validation_file"]
    table = RunTable("t", "T", "g", "test", "accuracy", None, files, settings, [3], {"share": {}})
    (run,) = table.runs()
    monkeypatch.setattr(runner, "remove_own", lambda folder: None)  # the checkpoints stay
    for is_resumed in (False, True):
        run.file(tmp_path / "results").unlink(missing_ok=True)  # what has a result file is not run again
        file = execute(run, tmp_path, tmp_path / "results", tmp_path / "work")
        assert ("training_seconds" not in json.loads(file.read_text(encoding="utf-8"))) == is_resumed
        (row,) = read_variant_rows(table, tmp_path / "results")
        assert (row.seconds is None) == is_resumed
    assert len(frame_of_runs(table, [row])) == 1
