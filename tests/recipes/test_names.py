"""Tests that names and numbers are checked before data are read, and that the nearest valid name is offered."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModel

from hf_layerfusion.errors import UserError, nearest
from hf_layerfusion.recipes.ensembles.ensemble_arguments import EnsembleArguments, EnsembleDataArguments
from hf_layerfusion.recipes.ensembles.ensemble_run import make_ensemble
from hf_layerfusion.recipes.fold_runs import cross_validate
from hf_layerfusion.recipes.multitask.multitask_run import train_tasks
from hf_layerfusion.recipes.training_run import classify
from reproduction.run_recipes import RUN_RECIPES
from tests.tiny import tiny_config, tiny_tokenizer

NO_FILE = "no-such-file.csv"  # whoever reads it says so


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("encoder")
    AutoModel.from_config(tiny_config("bert", 6)).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


def made(script: str, options: dict[str, Any]) -> list[Any]:
    """Return the dataclasses of a script's arguments, each with its own options."""
    return [
        each(**{name: value for name, value in options.items() if name in each.__dataclass_fields__})
        for each in RUN_RECIPES[script].arguments
    ]


ONE_TASK = [
    ({"fusion": "catt"}, "did you mean 'cat'"),
    ({"fusion": "Share"}, "did you mean 'share'"),
    ({"fusion_cell": "grru"}, "fusion_cell"),
    ({"num_groups": 7}, "num_groups"),
    ({"token_reduction": "summ"}, "token_reduction"),
    ({"architecture": "layer_pooling", "pooling": "atention"}, "did you mean 'attention'"),
    ({"architecture": "grufusion"}, "did you mean 'gru_fusion'"),
    ({"classifier_dropout": 1.5}, "classifier_dropout"),
    ({"hidden_dropout": 1.5}, "hidden_dropout"),
    ({"preprocessing": "papr"}, "did you mean 'paper'"),
    ({"preprocessing_steps": ["userss"]}, "did you mean 'users'"),
    ({"truncation": "only_frist"}, "did you mean 'only_first'"),
    ({"problem_type": "regresion"}, "did you mean 'regression'"),
    ({"spelling_language": "xx"}, "language must be one of"),
    ({"regularizers": "smrat"}, "did you mean 'smart'"),
    ({"prediction_format": "kagle"}, "did you mean 'kaggle'"),
    ({"hp_search": "optun"}, "did you mean 'optuna'"),
]


@pytest.mark.parametrize(("given", "hint"), ONE_TASK, ids=lambda value: str(value))
def test_one_task(given: dict, hint: str, encoder: str, tmp_path: Path) -> None:
    options = {"model_name_or_path": encoder, "train_file": NO_FILE, "output_dir": str(tmp_path / "run")}
    with pytest.raises(UserError, match=hint) as found:
        classify(*made("tweets", options | given))
    assert NO_FILE not in str(found.value)


@pytest.mark.parametrize(
    ("given", "hint"), [({"fold_split": "stratifed"}, "did you mean 'stratified'"), ({}, "no-such-file")]
)
def test_folds(given: dict, hint: str, encoder: str, tmp_path: Path) -> None:
    options = {"model_name_or_path": encoder, "train_file": NO_FILE, "output_dir": str(tmp_path / "run")}
    with pytest.raises(UserError, match=hint) as found:
        cross_validate(*made("absa", options | {"folds": 3} | given))
    assert (NO_FILE in str(found.value)) == (not given)


@pytest.mark.parametrize(
    ("of_task", "given", "hint"),
    [
        ({"loss": "cross_entropie"}, {}, "did you mean 'cross_entropy'"),
        ({"fusion": {"fusion": "catt"}}, {}, "did you mean 'cat'"),
        ({"sentence_vector": "clss"}, {}, "did you mean 'cls'"),
        ({"metric": "acuracy"}, {}, "did you mean 'accuracy'"),
        ({}, {"encoders": ["shaerd"]}, "encoders"),
        ({}, {"num_task_layers": 99}, "num_task_layers"),
        ({}, {"train_tasks": ["hut"]}, "did you mean 'hat'"),
        ({}, {"pair_order": "radom"}, "did you mean 'random'"),
        ({}, {"cut": "hed"}, "did you mean 'head'"),
        ({}, {"task_mixing": "roundrobin"}, "did you mean 'round_robin'"),
        ({}, {"gradient_surgery": "pcgrd"}, "did you mean 'pcgrad'"),
        (
            {},
            {"plot_layers": [1]},
            "--plot_layers and --plot_layers_beside are for the scripts that train one task",
        ),
        ({"dataset_warning": "old"}, {}, "has no key 'dataset_warning'"),
        ({"class_scores": True}, {}, "has no key 'class_scores'"),
    ],
    ids=str,
)
def test_several_tasks(of_task: dict, given: dict, hint: str, encoder: str, tmp_path: Path) -> None:
    tasks = {"hat": {"train_file": NO_FILE, **of_task}}
    (tmp_path / "tasks.json").write_text(json.dumps(tasks))
    options = {
        "model_name_or_path": encoder,
        "tasks_file": str(tmp_path / "tasks.json"),
        "output_dir": str(tmp_path / "run"),
        "num_task_layers": 1,
    }
    with pytest.raises(UserError, match=hint) as found:
        train_tasks(*made("multitask", options | given))
    assert "cannot be read" not in str(found.value)


def test_combiners(tmp_path: Path) -> None:
    arguments = EnsembleArguments(
        members=["no-such-model"], output_dir=str(tmp_path / "run"), combiners=["majority"]
    )
    with pytest.raises(UserError, match=r"a combiner must be one of .*did you mean"):
        make_ensemble(arguments, EnsembleDataArguments(test_file=NO_FILE))


def test_a_name_that_is_near_to_none() -> None:
    assert nearest("xyz", ["share", "cat"]) == "name one of them"
