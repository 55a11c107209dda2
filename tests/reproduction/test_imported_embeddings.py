"""Runs of a table around word embeddings."""

import inspect
import json

import pytest

from hf_layerfusion import import_embeddings
from hf_layerfusion.embeddings.registry import SOURCES
from reproduction import imported_embeddings
from reproduction.imported_embeddings import SETTING, missing_files, source_files, start_from_embeddings
from reproduction.run_table import RunTable, table_names
from reproduction.runner import run_table
from tests.tiny import tiny_texts, write_csv
from tests.tiny_words import write_glove


@pytest.mark.parametrize("name", table_names())
def test_embeddings_of_a_table_are_made_of_options_that_exist(name, tmp_path):
    known = {*inspect.signature(import_embeddings).parameters, *SOURCES} - {"output_dir", "sources"}
    for run in RunTable.load(name).runs():
        options = run.settings.get(SETTING, {})
        assert set(options) <= known
        files = source_files(options, tmp_path)
        assert bool(files) == (SETTING in run.settings)
        assert len(missing_files(run.settings, tmp_path)) == sum(
            len(of_format) for kind, of_format in files.items() if SOURCES[kind].reads_files
        )


def test_rows_share_an_import_and_those_without_files_are_named(tmp_path, monkeypatch, capsys):
    data, results = tmp_path / "data", tmp_path / "results"
    data.mkdir()
    write_csv(data / "train.csv", tiny_texts(24))
    write_csv(data / "dev.csv", tiny_texts(8, seed=1))
    write_glove(data / "glove.txt")
    common = {
        "train_file": "train.csv", "validation_file": "dev.csv", "test_file": "dev.csv", "use_cpu": True,
        "model_name_or_path": None, "fusion": "share", "num_groups": 1, "num_train_epochs": 1,
        "fusion_hidden_size": 4, "downstream_hidden_size": 4, "dense_size": 0, "report_to": "none",
    }  # fmt: skip
    table = RunTable(
        name="t", title="T", group="g", split="test", metric="accuracy", baseline=None, data={}, common=common,
        seeds=[0],
        variants={
            "glove": {"settings": {SETTING: {"glove": "glove.txt"}}, "seeds": [0, 1]},
            "syngcn": {"settings": {SETTING: {"glove": ["glove.txt", "syngcn.txt"]}}},
        },
    )  # fmt: skip
    imports = []
    monkeypatch.setattr(
        imported_embeddings,
        "import_embeddings",
        lambda *args, **options: imports.append(options) or import_embeddings(*args, **options),
    )
    monkeypatch.setattr("reproduction.runner.worker_pool", in_this_process)
    run_table(table, data_dir=data, results=results, work=tmp_path / "work")
    assert len(imports) == 1
    assert sorted(path.name for path in (results / "g" / "glove").iterdir()) == ["seed-0.json", "seed-1.json"]
    stored = json.loads((results / "g" / "glove" / "seed-0.json").read_text())
    assert stored["settings"][SETTING] == {"glove": "glove.txt"}
    assert "t: syngcn, seed-0: not run, as it needs " in capsys.readouterr().out
    assert not (results / "g" / "syngcn").exists()


class in_this_process:  # noqa: N801  stands in for a function
    """A pool of no processes."""

    def __init__(self, *args):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *args):
        pass

    def submit(self, function, *args):
        from concurrent.futures import Future

        future = Future()
        future.set_result(function(*args))
        return future


def test_a_file_that_has_changed_is_imported_again(tmp_path):
    write_glove(tmp_path / "glove.txt")
    settings = {SETTING: {"glove": "glove.txt"}}
    first = start_from_embeddings(settings, tmp_path, tmp_path / "work")["model_name_or_path"]
    assert start_from_embeddings(settings, tmp_path, tmp_path / "work")["model_name_or_path"] == first
    (tmp_path / "glove.txt").write_text("other 1 2\n")
    assert start_from_embeddings(settings, tmp_path, tmp_path / "work")["model_name_or_path"] != first
