"""Tests of the tasks file against the data side's own measurements."""

import logging

import numpy as np
import pytest
from transformers import EvalPrediction

from hf_layerfusion import CerbertusConfig
from hf_layerfusion.errors import UserError
from hf_layerfusion.evaluation.metrics import compute_metrics_for
from hf_layerfusion.metric_registry import METRICS, selection_metrics
from hf_layerfusion.recipes.data_preparation import as_read
from hf_layerfusion.recipes.multitask.multitask_arguments import (
    MultitaskDataArguments,
    MultitaskModelArguments,
    MultitaskTrainingArguments,
)
from hf_layerfusion.recipes.multitask.task_preparation import check_task_options, make_tasks, prepare_task
from hf_layerfusion.recipes.multitask.task_training import check_multitask_model
from tests.tiny import tiny_config, write_csv

ROWS = {
    "single_label_classification": (np.eye(2), np.array([0, 1])),
    "multi_label_classification": (np.eye(2), np.eye(2)),
    "regression": (np.array([0.0, 1.0]), np.array([0.0, 1.0])),
}


@pytest.mark.parametrize("problem_type", ROWS)
def test_a_task_may_be_chosen_by_all_that_is_measured_of_which_more_is_better(problem_type):
    measured = compute_metrics_for(problem_type)(EvalPrediction(*ROWS[problem_type]))
    assert [*selection_metrics(problem_type)] == [
        name for name in measured if METRICS[name].greater_is_better
    ]


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("task_weights", {"stz": 1.0}, "--task_weights must be of the tasks sst, sts, found 'stz'; did you mean 'sts'"),
        ("task_metrics", {"sts": "mse"}, "--task_metrics must be left out"),
        ("metric_for_best_model", "stz_mse", "did you mean 'sts_mse'?"),
        ("metric_for_best_model", "sst_acuracy", "did you mean 'sst_accuracy'?"),
    ],
)  # fmt: skip
def test_options_that_name_unknown_tasks_are_refused(tmp_path, option, value, message):
    tasks = {"sst": {}, "sts": {}}
    settings = {"output_dir": str(tmp_path), "use_cpu": True, "eval_strategy": "epoch"}
    for right in ("mean", "loss", "eval_sts_pearsonr"):
        check_task_options(tasks, MultitaskTrainingArguments(**settings, metric_for_best_model=right))
    with pytest.raises(UserError) as refused:
        check_task_options(tasks, MultitaskTrainingArguments(**settings | {option: value}))
    assert message in str(refused.value)


def test_tasks_that_a_trained_model_has_and_the_file_lacks_are_named(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("hf_layerfusion"), "propagate", True)
    tasks = {name: {"labels": ["a", "b"]} for name in ("kept", "dropped")}
    CerbertusConfig(encoder_config=tiny_config("bert", 2), tasks=tasks).save_pretrained(tmp_path)
    arguments = MultitaskModelArguments(model_name_or_path=str(tmp_path))
    specs = make_tasks({"kept": {"train_file": "a.csv"}}, tmp_path, MultitaskDataArguments())
    check_multitask_model(arguments, specs)
    assert "its tasks dropped are not in the tasks file" in caplog.text


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"loss": "cross_entropy"},
        {"loss": "binary_cross_entropy"},
        {"loss": "mse"},
        {"loss": "mse", "head": "cosine", "pair_encoding": "siamese"},
        {"loss": "cosine_embedding", "head": "cosine", "pair_encoding": "siamese"},
        {"head": "cosine", "pair_encoding": "siamese"},
        {"loss": "binary_cross_entropy", "problem_type": "multi_label_classification"},
    ],
    ids=str,
)
def test_classes_need_not_be_named_before_the_data_are_read(tmp_path, settings):
    """The check of the model uses as many as the loss takes."""
    tiny_config("bert", 2).save_pretrained(tmp_path)
    entry = {"train_file": "a.csv", "text_column": "one", "text_pair_column": "two", **settings}
    specs = make_tasks({"same": entry}, tmp_path, MultitaskDataArguments())
    check_multitask_model(MultitaskModelArguments(model_name_or_path=str(tmp_path)), specs)


def test_texts_to_predict_are_cleaned_like_the_others(tmp_path):
    rows = [("@bob good day http://x.co", "up"), ("@eve bad day", "down")] * 10
    write_csv(tmp_path / "train.csv", rows)
    (tmp_path / "asked.csv").write_text("text\n@bob good day http://x.co\n")
    entry = {"train_file": "train.csv", "predict_file": "asked.csv", "preprocessing": "light"}
    tasks = make_tasks({"mood": entry | {"remove_duplicates": False}}, tmp_path, MultitaskDataArguments())
    ((_, data),) = prepare_task(tasks["mood"])
    assert data.splits["predict"]["text"][:] == ["@USER good day HTTPURL"]
    assert as_read(data.splits["predict"], "text") == ["@bob good day http://x.co"]
    assert "@USER good day HTTPURL" in data.splits["train"]["text"][:]
