"""Every run file below `docs/results`: made by a run whose figures are those of what its settings say."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import HfArgumentParser

from hf_layerfusion.metric_registry import METRICS, greater_is_better, known_direction
from reproduction.run_recipes import RUN_RECIPES, arguments_of
from reproduction.run_table import RunTable, table_names
from reproduction.table_rows import _labels_by_task

RESULTS = Path(__file__).parents[1] / "docs" / "results"
RUN_FILES = sorted(RESULTS.glob("*/*/*.json"))
# Run files that rest on a fault which is mended, until they are run again. Each is named in docs/paper-results.md.
AWAITING: dict[str, str] = {}


def recipes() -> dict[str, str]:
    """The recipe of each group of run files, by the tables that declare it."""
    return {table.group: table.recipe for table in map(RunTable.load, table_names())}


def not_finite(content: Any, place: str = "") -> Iterator[str]:
    """Where a run file holds a number that is none: as one, as null among the metrics or in a string of numbers."""
    if isinstance(content, dict):
        for name, value in content.items():
            yield from not_finite(value, f"{place}/{name}")
    elif isinstance(content, list):
        for number, value in enumerate(content):
            yield from not_finite(value, f"{place}/{number}")
    elif isinstance(content, float):
        if not math.isfinite(content):
            yield place
    elif (content is None and "metrics" in place.split("/")) or (
        isinstance(content, str) and {"nan", "inf", "-inf"} & {*content.split()}
    ):
        yield place


def faults(content: dict[str, Any], recipe: str) -> list[str]:
    """What is wrong with how a run file was made, in words."""
    settings, found = content["settings"], []
    # A run that was cut off says no time.
    if "training_seconds" not in content and settings.get("save_only_model"):
        found.append("cut off with checkpoints of the model alone")
    if content.get("hardware", "").startswith(tuple("23456789")):
        found.append("several processes")
    place = next(not_finite({name: content[name] for name in content if name != "settings"}), None)
    if place is not None:
        found.append(f"a number that is none at {place}")
    asked = {
        name: settings[name] for name in ("metric_for_best_model", "greater_is_better") if name in settings
    }
    if "greater_is_better" in asked:
        default = RUN_RECIPES[recipe].arguments[2].__dataclass_fields__["metric_for_best_model"].default
        metric = asked.get("metric_for_best_model", default)
        if known_direction(metric) not in (None, asked["greater_is_better"]):
            found.append(f"chosen by {metric} in the wrong direction")
    elif recipe_direction_was_fixed(recipe, asked):
        found.append(f"chosen by {asked['metric_for_best_model']} in its recipe's direction")
    if settings.get("load_best_model_at_end", True) and saves_fewer_than_it_evaluates(settings):
        found.append("chosen among evaluations that were not saved")
    for split, metrics in content["metrics"].items():
        for name, value in metrics.items():
            metric = METRICS[
                next(known for known in sorted(METRICS, key=len, reverse=True) if name.endswith(known))
            ]
            if value is not None and not metric.least <= value <= metric.most:
                found.append(f"{split} {name} {value} is out of its range")
    return found


def recipe_direction_was_fixed(recipe: str, asked: dict[str, Any]) -> bool:
    """Whether a run that names a metric alone may be of the time when the recipe fixed the direction, and was fixed the
    wrong way; newer ones have the fingerprints of their data."""
    metric = asked.get("metric_for_best_model")
    return metric is not None and greater_is_better(metric) == (recipe == "tweets")


def saves_fewer_than_it_evaluates(settings: dict[str, Any]) -> bool:
    steps = (settings.get("eval_steps"), settings.get("save_steps"))
    return settings.get("eval_strategy") == "steps" and steps[0] != steps[1]


def test_there_are_run_files_of_every_kind() -> None:
    assert len(RUN_FILES) > 250
    assert {path.parts[-3] for path in RUN_FILES} <= recipes().keys()


def test_no_run_file_rests_on_a_fault() -> None:
    kinds = recipes()
    found = {}
    for path in RUN_FILES:
        content = json.loads(path.read_text(encoding="utf-8"))
        wrong = faults(content, kinds[path.parts[-3]])
        if "data" in content:
            wrong = [fault for fault in wrong if not fault.endswith("its recipe's direction")]
        if wrong:
            found[path.relative_to(RESULTS).as_posix()] = "; ".join(wrong)
    assert found == AWAITING


def test_those_that_await_their_run_are_named_where_their_figures_stand() -> None:
    text = (RESULTS.parent / "paper-results.md").read_text(encoding="utf-8")
    for name in AWAITING:
        assert f"`{name.removesuffix('.json')}`" in text


def test_the_runs_of_a_table_were_scored_on_the_same_examples() -> None:
    labels: dict[tuple[str, str, str], tuple[Path, list[str]]] = {}
    for path in RUN_FILES:
        content = json.loads(path.read_text(encoding="utf-8"))
        settings = content["settings"]
        files = json.dumps(
            [settings.get("train_file"), settings.get("tasks"), settings.get("max_predict_samples")]
        )
        fold = path.stem.partition("-fold-")[2]
        for task, found in _labels_by_task(content).items():
            key = (path.parts[-3], files + fold, task)
            other, expected = labels.setdefault(key, (path, found))
            assert found == expected, (path, other, task)


def test_runs_of_the_same_settings_answer_the_same() -> None:
    """A run that went on from a checkpoint of the model alone, and says so nowhere, is told apart by its twin."""
    left_out = ("save_only_model", "save_total_limit")
    answers: dict[str, dict[str, Any]] = {}
    twins = 0
    for file in RUN_FILES:
        content = json.loads(file.read_text(encoding="utf-8"))
        settings = {name: value for name, value in content["settings"].items() if name not in left_out}
        fold = file.stem.partition("fold-")[2]
        first = answers.setdefault(json.dumps([settings, fold], sort_keys=True), content)
        twins += first is not content
        assert first["predictions"] == content["predictions"], file
    assert twins > 0


def test_the_settings_of_each_are_sound(tmp_path: Path) -> None:
    """By the arguments of today, which refuse a metric's wrong direction and what excludes each other."""
    kinds, seen = recipes(), set()
    for path in RUN_FILES:
        settings = json.loads(path.read_text(encoding="utf-8"))["settings"]
        recipe = kinds[path.parts[-3]]
        key = (recipe, json.dumps({name: value for name, value in settings.items() if name != "seed"}))
        if key in seen or settings.get("regularizers", {}).get("smart", {}).get("mode") == "mtdnn":
            continue
        seen.add(key)
        options = {**arguments_of(settings), "output_dir": str(tmp_path)}
        HfArgumentParser(RUN_RECIPES[recipe].arguments).parse_dict(options)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"training_seconds": None}, "cut off with checkpoints of the model alone"),
        ({"hardware": "2 x CPU, 1 thread"}, "several processes"),
        ({"predictions": "1 nan 0"}, "a number that is none at /predictions"),
        (
            {"metrics": {"test": {"accuracy": float("nan")}}},
            "a number that is none at /metrics/test/accuracy",
        ),
        ({"metrics": {"test": {"accuracy": None}}}, "a number that is none at /metrics/test/accuracy"),
        ({"metrics": {"test": {"accuracy": 1.5}}}, "test accuracy 1.5 is out of its range"),
        ({"metric_for_best_model": "accuracy"}, "chosen by accuracy in its recipe's direction"),
        ({"metric_for_best_model": "accuracy", "greater_is_better": False}, "in the wrong direction"),
        ({"greater_is_better": True}, "chosen by loss in the wrong direction"),
        ({"eval_strategy": "steps", "eval_steps": 3, "save_steps": 6}, "evaluations that were not saved"),
    ],
)
def test_each_fault_is_found(changes: dict[str, Any], fault: str) -> None:
    content: dict[str, Any] = {
        "settings": {"save_only_model": True}, "training_seconds": 1.0, "hardware": "CPU, 1 thread",
        "metrics": {"test": {"accuracy": 0.5}}, "predictions": "1 0",
    }  # fmt: skip
    assert not faults(content, "tweets")
    for name, value in changes.items():
        (content if name in content else content["settings"])[name] = value
    if content["training_seconds"] is None:
        del content["training_seconds"]
    assert any(fault in found for found in faults(content, "tweets"))
