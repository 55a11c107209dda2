"""Tests that a run, of any script, is never resumed on other data."""

import csv
import json

import pytest

from hf_layerfusion.errors import UserError
from hf_layerfusion.recipes.fold_runs import cross_validate
from hf_layerfusion.recipes.multitask.multitask_run import train_tasks
from hf_layerfusion.recipes.pretraining.pretraining_arguments import (
    PretrainingArguments,
    PretrainingDataArguments,
)
from hf_layerfusion.recipes.pretraining.pretraining_run import pretrain
from hf_layerfusion.recipes.recipe_arguments import EncoderArguments
from hf_layerfusion.recipes.training_run import classify
from hf_layerfusion.training.trainer import LayerFusionTrainer
from reproduction import run_recipes, runner
from reproduction.run_table import TableRun
from tests.examples.command_line import QUICK_TRAINING, parse
from tests.tiny import tiny_texts, write_csv


class CutOff(Exception):
    """Exception that stands in for a kill."""


@pytest.fixture
def files(tmp_path):
    """CSV files of the test's own."""
    return {
        f"{split}_file": write_csv(tmp_path / f"{split}.csv", tiny_texts(24, seed))
        for seed, split in enumerate(("train", "validation", "test"))
    }


def invert(path):
    """Swap the labels of a file."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = [(row["text"], row["label"]) for row in csv.DictReader(file)]
    other = {"positive": "negative", "negative": "positive"}
    write_csv(path, [(text, other[label]) for text, label in rows])


def cut_off(call, monkeypatch, **options):
    with monkeypatch.context() as patch:

        def fail(*_, **__):
            raise CutOff

        patch.setattr(LayerFusionTrainer, "train", fail)
        with pytest.raises(CutOff):
            call(**options)


def assert_refused(call, match, **options):
    with pytest.raises(UserError, match=match) as caught:
        call(resume_from_checkpoint="True", **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("changed", ["train", "validation", "test"])
def test_one_task(tiny_encoder_dir, files, tmp_path, monkeypatch, changed):
    options = {
        "model_name_or_path": tiny_encoder_dir,
        "output_dir": tmp_path / "run",
        **files,
        **QUICK_TRAINING,
    }
    options |= {"text_column": "text", "architecture": "plain"}
    classes = run_recipes.RUN_RECIPES["absa"].arguments

    def call(**options):
        return classify(*parse(classes, options, "--sentence_only", "True", "--group_column", "text"))

    cut_off(call, monkeypatch, **options)
    files[f"{changed}_file"].open("a").write("one more day,positive\n")
    assert_refused(
        call, rf"run: .*other data: {changed} \(\S+{changed}\.csv: 24 rows then, 25 now\)", **options
    )


def test_a_run_that_has_finished_says_nothing_of_other_data(tiny_encoder_dir, files, tmp_path):
    options = {
        "model_name_or_path": tiny_encoder_dir,
        "output_dir": tmp_path / "run",
        **files,
        **QUICK_TRAINING,
    }
    options |= {"text_column": "text", "architecture": "plain", "num_train_epochs": 1}
    classes = run_recipes.RUN_RECIPES["absa"].arguments

    def call(**options):
        return classify(*parse(classes, options, "--sentence_only", "True", "--group_column", "text"))

    results = call(**options)
    assert call(resume_from_checkpoint="True", **options) == results
    invert(files["test_file"])
    assert_refused(call, r"other data: test \(\S+test\.csv: other content\)", **options)
    record = json.loads((tmp_path / "run" / "run" / "run.json").read_text())
    del record["data"]  # as an earlier version left it
    (tmp_path / "run" / "run" / "run.json").write_text(json.dumps(record))
    assert call(resume_from_checkpoint="True", **options) == results


def test_a_checkpoint_of_another_folder(tiny_encoder_dir, files, tmp_path):
    options = {"model_name_or_path": tiny_encoder_dir, **files, **QUICK_TRAINING}
    options |= {"text_column": "text", "architecture": "plain", "num_train_epochs": 1}
    classes = run_recipes.RUN_RECIPES["absa"].arguments
    more = ("--sentence_only", "True", "--group_column", "text")

    def call(**changes):
        return classify(*parse(classes, options | changes, *more))

    call(output_dir=tmp_path / "run")
    (checkpoint,) = (tmp_path / "run").glob("checkpoint-*")
    further = {"output_dir": tmp_path / "further", "resume_from_checkpoint": str(checkpoint)}
    for name in ("seeds", "folds"):
        several = cross_validate if name == "folds" else classify
        with pytest.raises(
            UserError, match=f"^--resume_from_checkpoint must be True with --{name}, .*checkpoint-"
        ):
            several(
                *parse(classes, options | further, *more, f"--{name}", *("2", "3")[: 1 + (name == "seeds")])
            )
    invert(files["train_file"])
    with pytest.raises(
        UserError, match=r"^--resume_from_checkpoint \S+: .*other data: train \(\S+train\.csv: other"
    ):
        call(**further)
    assert not (tmp_path / "further").exists()
    invert(files["train_file"])
    call(**further)
    with pytest.raises(UserError, match="must be empty"):
        call(output_dir=tmp_path / "run", resume_from_checkpoint="False")


def test_folds(tiny_encoder_dir, files, tmp_path, monkeypatch):
    options = {
        "model_name_or_path": tiny_encoder_dir,
        "output_dir": tmp_path / "run",
        "train_file": files["train_file"],
        "text_column": "text",
        "group_column": "text",
        "folds": 2,
        "validation_fraction": 0.3,
        **QUICK_TRAINING,
    }
    classes = run_recipes.RUN_RECIPES["absa"].arguments

    def call(**options):
        return cross_validate(*parse(classes, options, "--sentence_only", "True"))

    cut_off(call, monkeypatch, **options)
    invert(files["train_file"])
    assert_refused(call, r"other data: .*test \(", **options)


def test_several_tasks(tiny_encoder_dir, files, tmp_path, monkeypatch):
    names = {name: path.name for name, path in files.items()}
    (tmp_path / "asked.csv").write_text("text\nthe day\n")
    tasks = {"mood": names, "tone": {**names, "predict_file": "asked.csv"}}
    (tmp_path / "tasks.json").write_text(json.dumps(tasks))
    options = {
        "model_name_or_path": tiny_encoder_dir,
        "output_dir": tmp_path / "run",
        "tasks_file": tmp_path / "tasks.json",
        **QUICK_TRAINING,
    }

    def call(**options):
        classes = run_recipes.RUN_RECIPES["multitask"].arguments
        return train_tasks(*parse(classes, options))

    cut_off(call, monkeypatch, **options)
    (tmp_path / "asked.csv").write_text("text\nthe night\n")
    assert_refused(call, r"other data: tone predict \(\S*asked\.csv: other content\);", **options)
    (tmp_path / "asked.csv").write_text("text\nthe day\n")
    invert(files["validation_file"])
    assert_refused(call, r"other data: mood validation .* tone validation ", **options)


def test_further_pretraining(tiny_encoder_dir, files, tmp_path, monkeypatch):
    options = {
        "model_name_or_path": tiny_encoder_dir,
        "output_dir": tmp_path / "run",
        "train_file": files["train_file"],
        "use_cpu": True,
        "max_seq_length": 32,
        "head_steps": 0,
    }

    def call(**options):
        return pretrain(*parse((EncoderArguments, PretrainingDataArguments, PretrainingArguments), options))

    cut_off(call, monkeypatch, **options)
    files["train_file"].open("a").write("one more day,positive\n")
    assert_refused(call, r"other data: train \(\S+train\.csv: 24 rows then, 25 now\)", **options)


def test_a_run_of_a_table(tiny_encoder_dir, files, tmp_path, monkeypatch):
    settings = {
        "model_name_or_path": tiny_encoder_dir,
        **{name: str(path) for name, path in files.items()},
        "preprocessing": "none",
        "architecture": "plain",
        "seed": 0,
        "use_cpu": True,
    }
    run = TableRun("g", "v", 0, settings)

    def call(run=run):
        return runner.execute(run, tmp_path, tmp_path / "results", tmp_path / "work")

    cut_off(call, monkeypatch)
    other = TableRun("g", "v", 0, {**settings, "learning_rate": 0.5})
    with pytest.raises(UserError, match=r"other settings \(learning_rate\); delete the folder"):
        call(other)
    invert(files["train_file"])
    run_recipes._prepared.cache_clear()  # as another process begins
    with pytest.raises(UserError, match=r"other data: train \(\S+train\.csv: other content\)"):
        call()
