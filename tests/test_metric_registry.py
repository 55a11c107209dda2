"""Every metric in one table: what is measured, which way it is chosen by, in every script, table and card."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import numpy as np
import pytest
from transformers import EvalPrediction, HfArgumentParser

from hf_layerfusion.ensembling.batched_metrics import SCORES
from hf_layerfusion.errors import UserError
from hf_layerfusion.evaluation.metrics import compute_metrics_for
from hf_layerfusion.metric_registry import (
    MAIN_METRIC,
    METRICS,
    PROBLEM_METRICS,
    greater_is_better,
    known_direction,
    selection_metrics,
)
from hf_layerfusion.recipes.best_metric import with_metric
from hf_layerfusion.recipes.multitask.multitask_arguments import MultitaskTrainingArguments
from hf_layerfusion.recipes.pretraining.pretraining_arguments import PretrainingArguments
from hf_layerfusion.recipes.recipe_arguments import (
    AbsaTrainingArguments,
    NliTrainingArguments,
    TweetTrainingArguments,
)
from hf_layerfusion.training.objectives import OBJECTIVES, make_objective
from hf_layerfusion.training.training_arguments import LayerFusionTrainingArguments
from reproduction.run_table import RunTable, table_names

OF_ONE_TASK = (TweetTrainingArguments, AbsaTrainingArguments, NliTrainingArguments)
# Every script that trains, and the Trainer's own arguments.
SCRIPTS = (
    *OF_ONE_TASK,
    MultitaskTrainingArguments,
    PretrainingArguments,
    LayerFusionTrainingArguments,
)


def parsed(script: type, *options: str) -> Any:
    line = [
        "--output_dir",
        "o",
        "--use_cpu",
        "True",
        "--eval_strategy",
        "epoch",
        "--save_strategy",
        "epoch",
        *options,
    ]
    return HfArgumentParser(script).parse_args_into_dataclasses(line)[0]


def answers(problem_type: str, rng: np.random.Generator) -> tuple[Any, Any, Any]:
    """Labels of 40 rows, predictions that are right, and predictions at random."""
    if problem_type == "regression":
        labels = rng.normal(size=40)
        return labels, labels.copy(), rng.normal(size=40) * 3
    if problem_type == "multi_label_classification":
        labels = rng.integers(0, 2, (40, 3))
        return labels, labels * 2.0 - 1, rng.normal(size=(40, 3))
    labels = rng.integers(0, 3, 40)
    return labels, np.eye(3)[labels], rng.normal(size=(40, 3))


@pytest.mark.parametrize("problem_type", PROBLEM_METRICS)
def test_what_is_measured_is_in_the_table_and_in_its_range_and_right_answers_are_better(
    problem_type: str,
) -> None:
    labels, right, drawn = answers(problem_type, np.random.default_rng(0))
    compute = compute_metrics_for(problem_type)
    best, other = compute(EvalPrediction(right, labels)), compute(EvalPrediction(drawn, labels))
    assert tuple(best) == tuple(other) == compute.names == PROBLEM_METRICS[problem_type]
    for name in best:
        metric = METRICS[name]
        assert metric.least <= other[name] <= metric.most
        assert best[name] == pytest.approx(metric.most if metric.greater_is_better else metric.least)
        assert (best[name] > other[name]) == metric.greater_is_better


def test_other_places_that_name_metrics_name_those_of_the_table() -> None:
    for problem_type, scores in SCORES.items():  # of which an ensemble takes the highest
        assert {*scores} <= {*selection_metrics(problem_type)}
    for name in OBJECTIVES:
        assert make_objective(name).metrics(1.0).keys() <= METRICS.keys()
    for table in map(RunTable.load, table_names()):  # whose differences are gains
        for name in (table.metric, *table.also):
            assert known_direction(name.rpartition("/")[2]), table.name


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_every_script_knows_the_direction_of_every_metric(script: type) -> None:
    for name, metric in METRICS.items():
        for full in (name, f"eval_{name}"):
            arguments = parsed(script, "--metric_for_best_model", full)
            assert arguments.greater_is_better == metric.greater_is_better, full
            wrong = ("--greater_is_better", str(not metric.greater_is_better))
            with pytest.raises(
                UserError, match=f"contradicts metric_for_best_model={full}, of which"
            ) as caught:
                parsed(script, "--metric_for_best_model", full, *wrong)
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_a_recipe_s_own_metric_has_its_direction(script: type) -> None:
    arguments = parsed(script, "--load_best_model_at_end", "True")
    assert arguments.greater_is_better == greater_is_better(arguments.metric_for_best_model)


@pytest.mark.parametrize(
    ("name", "direction"),
    [
        ("eval_sts_mse", False), ("sst5_accuracy", True), ("eval_quora_loss", False), ("rmse", False),
        ("eval_test_error_rate", False), ("balanced_accuracy", True), ("bleu", None), ("absolute_error_mean", None),
        (MAIN_METRIC, True),
    ],
)  # fmt: skip
def test_names_with_something_before_them(name: str, direction: bool | None) -> None:
    assert known_direction(name) is direction
    assert LayerFusionTrainingArguments("o", metric_for_best_model=name).greater_is_better is (
        direction is not False
    )


def test_a_metric_that_nobody_knows_goes_the_way_that_is_said() -> None:
    arguments = LayerFusionTrainingArguments("o", metric_for_best_model="surprise", greater_is_better=False)
    assert arguments.greater_is_better is False


@pytest.mark.parametrize(("metric", "mode"), [("accuracy", "max"), ("loss", "min"), (None, "min")])
@pytest.mark.parametrize("schedule", ["reduce_lr_on_plateau", "greedy"])
def test_a_schedule_that_watches_the_metric_watches_it_the_right_way(
    metric: str | None, mode: str, schedule: str
) -> None:
    options: dict[str, Any] = {"lr_scheduler_type": schedule, "eval_strategy": "epoch"}
    arguments = LayerFusionTrainingArguments("o", metric_for_best_model=metric, **options)
    assert arguments.lr_scheduler_kwargs == {"mode": mode}
    own = LayerFusionTrainingArguments("o", lr_scheduler_kwargs={"mode": "max", "factor": 0.5}, **options)
    assert own.lr_scheduler_kwargs == {"mode": "max", "factor": 0.5}


@pytest.mark.parametrize("script", OF_ONE_TASK, ids=lambda script: script.__name__)
@pytest.mark.parametrize("problem_type", PROBLEM_METRICS)
def test_main_is_the_main_metric_of_what_the_labels_are(script: type, problem_type: str) -> None:
    arguments = with_metric(parsed(script, "--metric_for_best_model", MAIN_METRIC), problem_type)
    assert arguments.metric_for_best_model == selection_metrics(problem_type)[0]
    assert arguments.greater_is_better
    for name in PROBLEM_METRICS[problem_type]:
        assert (
            with_metric(parsed(script, "--metric_for_best_model", name), problem_type).metric_for_best_model
            == name
        )
    for name in {*METRICS} - {"loss", *PROBLEM_METRICS[problem_type]}:
        with pytest.raises(
            UserError, match=f"--metric_for_best_model of a .* must be one of .*found '{name}'"
        ):
            with_metric(parsed(script, "--metric_for_best_model", name), problem_type)


def test_no_script_has_a_direction_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["script.py"])
    for script in SCRIPTS:
        assert script.__dataclass_fields__["greater_is_better"].default is None  # type: ignore[attr-defined]


def test_a_schedule_that_a_search_sets_anew_watches_the_right_way() -> None:
    arguments = LayerFusionTrainingArguments("o", metric_for_best_model="accuracy", eval_strategy="epoch")
    arguments.lr_scheduler_type = "reduce_lr_on_plateau"
    arguments.check()
    assert arguments.lr_scheduler_kwargs == {"mode": "max"}
    again = dataclasses.replace(arguments, lr_scheduler_type="linear")
    assert not again.lr_scheduler_kwargs
