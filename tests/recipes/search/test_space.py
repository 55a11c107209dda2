"""Tests of search spaces: reading, checking, sampling, and the forms of Ray and W&B."""

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import optuna
import pytest

from hf_layerfusion.errors import UserError
from hf_layerfusion.recipes.recipe_arguments import ModelArguments, TweetTrainingArguments
from hf_layerfusion.recipes.search.search_space import (
    Choice,
    Range,
    check_space,
    draw,
    ray_space,
    read_space,
    wandb_sweep,
)

SPACE = {
    "learning_rate": Range(1e-6, 1e-4, log=True),
    "per_device_train_batch_size": Choice([4, 8, 12]),
    "dense_size": Range(10, 20),
    "classifier_dropout": Range(0.0, 0.5),
}


def write(tmp_path, content):
    path = tmp_path / "space.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def test_the_shipped_space_is_the_papers():
    path = Path(__file__).parents[3] / "examples" / "search_extrabert.json"
    assert read_space(str(path)) == {
        "learning_rate": Range(1e-6, 1e-4, log=True),
        "per_device_train_batch_size": Choice([4, 8, 12]),
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not valid JSON"),
        ("[" * 100_000, "is not valid JSON"),
        ("[]", "must be an object by setting"),
        ("{}", "must be an object by setting"),
        ({"a": 1}, 'a: must be a list of values, or {"low"'),
        ({"a": {"low": 1}}, 'a: must be a list of values, or {"low"'),
        ({"a": {"low": 1, "high": 2, "step": 1}}, 'a: must be a list of values, or {"low"'),
        ({"a": {"low": 2, "high": 1}}, "a: low must be a number below high"),
        ({"a": {"low": 1, "high": 1}}, "a: low must be a number below high"),
        ({"a": {"low": 0, "high": 1, "log": True}}, "above 0 where log is true"),
        ({"a": {"low": 1, "high": 2, "log": "yes"}}, "a: low must be a number below high"),
        ({"a": {"low": "1", "high": 2}}, "a: low must be a number below high"),
        ('{"a": {"low": 0, "high": Infinity}}', "a: low must be a number below high"),
        ('{"a": {"low": NaN, "high": 1}}', "a: low must be a number below high"),
        ({"a": []}, "a: a list must hold different"),
        ({"a": [1, 1]}, "a: a list must hold different"),
        ({"a": [[1], [2]]}, "a: a list must hold different"),
    ],
)
def test_malformed_files(tmp_path, content, message):
    with pytest.raises(UserError, match=r"--hp_space .*space\.json: ") as error:
        read_space(write(tmp_path, content))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_no_file(tmp_path):
    with pytest.raises(UserError, match=r"--hp_space must name a \.json file"):
        read_space(None)
    with pytest.raises(UserError, match=r"none\.json: cannot be read \(No such file"):
        read_space(str(tmp_path / "none.json"))


@pytest.mark.parametrize(
    ("name", "entry", "message"),
    [
        ("learning_rates", Choice([1e-5]), "learning_rates: cannot be searched"),
        ("output_dir", Choice(["a"]), "output_dir: cannot be searched"),
        ("seed", Choice([1]), "seed: cannot be searched"),
        ("learning_rate", Choice(["high"]), "learning_rate: must be float"),
        ("learning_rate", Range(-1.0, 1.0), "learning_rate: must be float, numbers 0 or more, found -1.0"),
        ("per_device_train_batch_size", Range(4.0, 8.0), "must be int, numbers 1 or more, found 4.0"),
        ("per_device_train_batch_size", Choice([0]), "must be int, numbers 1 or more, found 0"),
        ("per_device_train_batch_size", Choice([True]), "must be int"),
        ("num_groups", Choice([1.5]), "num_groups: must be int | None"),
        ("layer_decay", Range(0.9, 1.1), "layer_decay: 1.1: layer_decay must be above 0 and at most 1"),
        ("epoch_decay", Choice([1.5]), "epoch_decay: 1.5: epoch_decay must be"),
        ("num_groups", Choice([2, 5]), "num_groups: 5: does not fit"),
    ],
)
def test_settings_that_cannot_be(tmp_path, name, entry, message):
    def load(arguments):
        if arguments.num_groups == 5:
            raise UserError("does not fit")

    training = TweetTrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    with pytest.raises(UserError, match=r"^--hp_space: ") as error:
        check_space({name: entry}, ModelArguments(), training, load)
    assert message in str(error.value)


def test_settings_that_can_be(tmp_path):
    training = TweetTrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    loaded = []
    space = {
        **SPACE,
        "fusion": Choice(["share", None]),
        "fusion_learning_rate": Choice([None, 1]),
        "lr_scheduler_type": Choice(["constant"]),
        "warmup_steps": Choice([0]),
    }
    before = training.to_dict()
    check_space(space, ModelArguments(), training, loaded.append)
    assert [arguments.dense_size for arguments in loaded[:2]] == [10, 20]
    assert training.to_dict() == before


def test_drawing():
    trial = optuna.trial.FixedTrial(
        {"learning_rate": 1e-5, "per_device_train_batch_size": 8, "dense_size": 11, "classifier_dropout": 0.2}
    )
    assert draw(SPACE, trial) == trial.params
    assert trial.distributions == {
        "learning_rate": optuna.distributions.FloatDistribution(1e-6, 1e-4, log=True),
        "per_device_train_batch_size": optuna.distributions.CategoricalDistribution([4, 8, 12]),
        "dense_size": optuna.distributions.IntDistribution(10, 20),
        "classifier_dropout": optuna.distributions.FloatDistribution(0.0, 0.5),
    }
    assert draw({"dense_size": Range(10, 20)}, {"dense_size": 12, "metric": "x"}) == {"dense_size": 12}


def test_ray(monkeypatch):
    tune = ModuleType("ray.tune")
    for name in ("choice", "randint", "uniform", "loguniform"):
        setattr(tune, name, lambda *values, name=name: (name, *values))
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(tune=tune))
    monkeypatch.setitem(sys.modules, "ray.tune", tune)
    assert ray_space(SPACE) == {
        "learning_rate": ("loguniform", 1e-6, 1e-4),
        "per_device_train_batch_size": ("choice", [4, 8, 12]),
        "dense_size": ("randint", 10, 21),
        "classifier_dropout": ("uniform", 0.0, 0.5),
    }


def test_wandb():
    assert wandb_sweep(SPACE, "tpe") == {
        "method": "bayes",
        "metric": {},
        "parameters": {
            "learning_rate": {"distribution": "log_uniform_values", "min": 1e-6, "max": 1e-4},
            "per_device_train_batch_size": {"values": [4, 8, 12]},
            "dense_size": {"distribution": "int_uniform", "min": 10, "max": 20},
            "classifier_dropout": {"distribution": "uniform", "min": 0.0, "max": 0.5},
        },
    }
    assert wandb_sweep(SPACE, "random")["method"] == "random"
