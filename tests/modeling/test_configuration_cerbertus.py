from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig

from hf_layerfusion import CerbertusConfig, CerbertusForMultitask, TaskConfig
from tests.modeling.multitask_cases import TASKS
from tests.tiny import tiny_config

LABELS = {"labels": ["no", "yes"]}
SIAMESE = {"pair": True, "pair_encoding": "siamese"}
NUMBER = {"problem_type": "regression", "value_range": [0, 5]}


def make(**settings: Any) -> CerbertusConfig:
    return CerbertusConfig(encoder_config=tiny_config("bert", 4), **{"tasks": TASKS, **settings})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_task_layers": 5}, r"^`num_task_layers` must lie between 0 and 4, .*found 5; lower it\.$"),
        ({"num_task_layers": -1}, r"found -1"),
        ({"num_task_layers": 1, "encoders": ["own"]}, r"between 0 and 0"),
        ({"encoders": []}, r"^`encoders` must name one or more of .*found \[\]"),
        ({"encoders": ["shared", "shared"]}, r"`encoders` .* each once"),
        ({"encoders": ["static"]}, r"`encoders` .*found \['static'\]"),
        ({"task_name": "cola"}, r"^`task_name` must be one of \['sst5', 'quora', 'sts'\], found 'cola'"),
        ({"num_labels": 3}, r"^`num_labels` must be left to `tasks`, found 3 where task 'sst5' has 5"),
        *(
            ({"tasks": {name: LABELS}}, rf"`tasks` must have names .* found '{name}'")
            for name in ("", "a.b", "pop", "training")
        ),
    ],
)
def test_settings_that_are_not_sound(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        make(**settings)
    assert "\n" not in str(error.value)


BAD_TASKS = {
    "no labels": ({}, "`labels` must name different classes"),
    "one label": ({"labels": ["a"]}, "`labels` must name two or more classes"),
    "twice the same": ({"labels": ["a", "a"]}, "`labels` must name different"),
    "labels of a number": ({**NUMBER, "labels": ["a"]}, "`labels` must be empty for a regression"),
    "unknown field": ({**LABELS, "vector": "cls"}, r"fields must be of .* found \['vector'\]"),
    "wrong type": ({**LABELS, "dropout": "high"}, "dropout"),
    "wrong choice": ({"problem_type": "ranking"}, "problem_type"),
    "dropout": ({**LABELS, "dropout": 1.0}, r"`dropout` must lie in \[0, 1\)"),
    "dense_size": ({**LABELS, "dense_size": -1}, "`dense_size` must lie between"),
    "vector_layers": ({**LABELS, "vector_layers": -1}, "`vector_layers` must lie between"),
    "vector": ({**LABELS, "sentence_vector": "max"}, "`sentence_vector` must be one of .* found 'max'"),
    "loss": ({**LABELS, "loss": "hinge"}, "`loss` must be one of .* found 'hinge'"),
    "loss without inputs": ({**LABELS, "loss": "cosine_embedding"}, "`loss` 'cosine_embedding' needs"),
    "feature": (
        {**LABELS, **SIAMESE, "features": ["quotient"]},
        "`features` must be one of .* found 'quotient'",
    ),
    "feature of a joint pair": (
        {**LABELS, "pair": True, "features": ["cosine"]},
        "`features` must be left out unless",
    ),
    "cosine of a joint pair": ({**NUMBER, "pair": True, "head": "cosine"}, "`head` must be left out unless"),
    "siamese text": (
        {**LABELS, "pair_encoding": "siamese"},
        "`pair_encoding` must be 'joint' where `pair` is False",
    ),
    "no features": ({**LABELS, **SIAMESE}, "`features` must name one or more"),
    "features of a cosine": (
        {**NUMBER, **SIAMESE, "head": "cosine", "features": ["concat"]},
        "none for the cosine head",
    ),
    "dense layer of a cosine": (
        {**NUMBER, **SIAMESE, "head": "cosine", "dense_size": 3},
        "`dense_size` must be 0",
    ),
    "cosine without range": (
        {"problem_type": "regression", **SIAMESE, "head": "cosine"},
        "`value_range` must be given where `head` is 'cosine'",
    ),
    "clamp without range": (
        {"problem_type": "regression", "output": "clamp"},
        "`value_range` must be given where `output` is 'clamp'",
    ),
    "squashed classes": (
        {**LABELS, "output": "squash"},
        "`value_range` must be given where `output` is 'squash'",
    ),
    "range of classes": ({**LABELS, "value_range": [0, 1]}, "`value_range` must hold .* of a regression"),
    "range upside down": ({**NUMBER, "value_range": [5, 0]}, "`value_range` must hold"),
    "range of three": ({**NUMBER, "value_range": [0, 1, 2]}, "`value_range` must hold"),
    "endless range": ({**NUMBER, "value_range": [0, float("inf")]}, "`value_range` must hold"),
    "fusion": ({**LABELS, "fusion": {"fusion": "sum"}}, "`fusion` must be one of .* found 'sum'"),
    "pooling": ({**LABELS, "fusion": {"pooling": "sum"}}, "`pooling` must be one of .* found 'sum'"),
    "groups": ({**LABELS, "fusion": {"fusion": "share", "num_groups": 3}}, "found 3 groups for 4 layers"),
    "wrong type of a setting of a fuser": ({**LABELS, "fusion": {"num_groups": "2"}}, "num_groups"),
    "foreign setting": (
        {**LABELS, "fusion": {"pooling": "lstm", "dense_size": 3}},
        r"`fusion` must hold .*\['dense_size'\]",
    ),
    "two vectors": (
        {**LABELS, "fusion": {"pooling": "lstm"}, "sentence_vector": "mean"},
        "`sentence_vector` must be left out where `fusion` pools",
    ),
}


@pytest.mark.parametrize("case", BAD_TASKS)
def test_tasks_that_are_not_sound_are_named(case: str) -> None:
    fields, message = BAD_TASKS[case]
    with pytest.raises(ValueError, match=f"^task 'bad': .*{message}") as error:
        make(tasks={"sst5": TASKS["sst5"], "bad": fields})
    assert "\n" not in str(error.value)


def test_a_wrong_type_of_a_field() -> None:
    for settings in ({"num_task_layers": "2"}, {"tasks": ["sst5"]}, {"encoders": "shared"}):
        with pytest.raises((ValueError, StrictDataclassError)):
            make(**settings)


def test_nothing_is_built_for_a_task_that_is_not_sound() -> None:
    huge = tiny_config("bert", 4, hidden_size=2**16, intermediate_size=2**18)
    with pytest.raises(ValueError, match="task 'b'"):
        CerbertusConfig(encoder_config=huge, tasks={"a": LABELS, "b": {**LABELS, "loss": "hinge"}})


def test_making_a_configuration_draws_no_random_number() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    make()
    assert torch.equal(torch.rand(1), expected)


def test_labels_are_those_of_the_default_task() -> None:
    config = make()
    assert (config.default_task, config.num_labels, config.problem_type) == (
        "sst5",
        5,
        "single_label_classification",
    )
    assert config.id2label == dict(enumerate(TASKS["sst5"]["labels"]))
    assert config.label2id == {label: index for index, label in config.id2label.items()}
    config = make(task_name="sts")
    assert (config.id2label, config.problem_type) == ({0: "sts"}, "regression")


def test_kept_by_a_file(tmp_path: Path) -> None:
    config = make(num_task_layers=2, encoders=["shared", "frozen"], task_name="quora")
    config.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["tasks"] == TASKS
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert loaded.to_diff_dict() | {"_name_or_path": ""} == config.to_diff_dict() | {"_name_or_path": ""}
    assert loaded.task_configs == {name: TaskConfig(**fields) for name, fields in TASKS.items()}
    assert loaded.id2label == {0: "no", 1: "yes"}


def test_a_hostile_file_is_refused(tmp_path: Path) -> None:
    make().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    stored = json.loads(path.read_text())
    for change in ({"num_task_layers": 99}, {"tasks": {"x": {}}}, {"task_name": "x"}, {"encoders": ["evil"]}):
        path.write_text(json.dumps(stored | change))
        with pytest.raises(ValueError, match=next(iter(change))[:4]):
            AutoConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("settings", "problem_type", "labels"),
    [
        ({}, "single_label_classification", ["LABEL_0", "LABEL_1"]),
        ({"id2label": {0: "a", 1: "b", 2: "c"}}, "single_label_classification", ["a", "b", "c"]),
        ({"num_labels": 1}, "regression", []),
        (
            {"num_labels": 2, "problem_type": "multi_label_classification"},
            "multi_label_classification",
            ["LABEL_0", "LABEL_1"],
        ),
    ],
)
def test_without_tasks_there_is_one(settings: dict[str, Any], problem_type: str, labels: list[str]) -> None:
    config = make(tasks=None, **settings)
    assert config.task_configs == {"default": TaskConfig(problem_type=problem_type, labels=labels)}
    assert config.num_labels == max(1, len(labels))


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({}, "multi"),
        ({"num_task_layers": 2}, "cerbertus-2"),
        ({"encoders": ["own"]}, "triple"),
        ({"encoders": ["frozen", "shared"]}, "static-multi"),
        ({"encoders": ["shared", "own"]}, "multi-triple"),
    ],
)
def test_names_of_architectures(settings: dict[str, Any], name: str) -> None:
    assert make(**settings).paper_name == name


def test_fields_that_changed_since_are_checked_by_the_model() -> None:
    config = make()
    config.num_task_layers = 9
    with pytest.raises(ValueError, match="found 9"):
        CerbertusForMultitask(config)
