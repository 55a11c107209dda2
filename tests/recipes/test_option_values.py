"""Tests that values which no run can have are refused in one line, before any data are read."""

import re
from pathlib import Path
from typing import Any

import pytest

from hf_layerfusion.errors import UserError
from hf_layerfusion.recipes.ensembles.ensemble_arguments import EnsembleArguments
from hf_layerfusion.recipes.fold_runs import cross_validate
from hf_layerfusion.recipes.multitask.multitask_arguments import MultitaskDataArguments
from hf_layerfusion.recipes.pretraining.pretraining_arguments import PretrainingDataArguments
from hf_layerfusion.recipes.recipe_arguments import (
    AbsaDataArguments,
    AbsaTrainingArguments,
    DataArguments,
    ModelArguments,
    PoolingModelArguments,
    TweetTrainingArguments,
)
from hf_layerfusion.recipes.training_run import classify
from hf_layerfusion.training.training_arguments import LayerFusionTrainingArguments

TRAINING: list[tuple[str, Any]] = [
    *(("learning_rate", value) for value in (-1.0, float("nan"), float("inf"))),
    *(("weight_decay", -0.1), ("max_grad_norm", -1.0), ("adam_epsilon", -1e-8)),
    *(
        ("per_device_train_batch_size", 0),
        ("per_device_eval_batch_size", 0),
        ("gradient_accumulation_steps", 0),
    ),
    *(("seed", -1), ("data_seed", -1), ("seed", 2**32)),
    *(("num_train_epochs", 0.0), ("num_train_epochs", -1.0), ("num_train_epochs", float("nan"))),
]


@pytest.mark.parametrize(("name", "value"), TRAINING)
def test_numbers_of_training(name: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"^{name} must .*, found {re.escape(str(value))}"):
        LayerFusionTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **{name: value})


def test_epochs_do_not_count_beside_steps(tmp_path: Path) -> None:
    LayerFusionTrainingArguments(output_dir=str(tmp_path), use_cpu=True, num_train_epochs=0, max_steps=3)


@pytest.mark.parametrize("seeds", [[1, 1], [-1], [2**32]])
def test_seeds(seeds: list[int], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^--seeds must "):
        TweetTrainingArguments(output_dir=str(tmp_path), use_cpu=True, seeds=seeds)


DATA: list[tuple[Any, str, Any]] = [
    *(
        (DataArguments, f"max_{split}_samples", number)
        for split in ("train", "eval", "predict")
        for number in (0, -1)
    ),
    *((each, "max_seq_length", 0) for each in (DataArguments, MultitaskDataArguments, EnsembleArguments)),
    *((each, "split_seed", -1) for each in (DataArguments, MultitaskDataArguments, PretrainingDataArguments)),
    *((MultitaskDataArguments, name, 0) for name in ("max_train_samples", "max_predict_samples")),
    *((EnsembleArguments, name, 0) for name in ("batch_size", "max_loaded_members")),
    *((DataArguments, "validation_fraction", value) for value in (0.0, 1.0, 1.5, float("nan"))),
    *((AbsaDataArguments, "folds", number) for number in (-2, 0, 1)),
    *((each, "language", "english") for each in (DataArguments, MultitaskDataArguments)),
    (DataArguments, "class_names", ["bad", " bad", "good"]),
]


@pytest.mark.parametrize(("arguments", "name", "value"), DATA)
def test_numbers_of_data(arguments: Any, name: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"^(--)?{name} must "):
        arguments(**{name: value})


@pytest.mark.parametrize("code", ["en", "deu", "multilingual"])
def test_languages(code: str) -> None:
    DataArguments(language=code)


CHECKED: dict[str, tuple[dict[str, Any], str]] = {
    "no room for a token": ({"max_seq_length": 2}, "--max_seq_length must be above 2"),
    "more tokens than positions": ({"max_seq_length": 65}, "--max_seq_length must be at most 64, the tokens that"),
    "checkpoint": ({"resume_from_checkpoint": "nowhere"}, "nowhere"),
    "duplicates": ({"duplicates_in": "al"}, "--duplicates_in must be one of"),
    "group": ({"group_column": "author"}, "--group_column must be a text column"),
    "metric": (
        {"problem_type": "regression", "metric_for_best_model": "accuracy"},
        "--metric_for_best_model of a regression must be one of",
    ),
    "a misspelt metric": ({"metric_for_best_model": "acuracy"}, "did you mean 'accuracy'"),
    "epoch": ({"plot_layers": [0]}, "--plot_layers must name epochs from 1"),
    "run beside": ({"plot_layers": [1], "plot_layers_beside": "nowhere"}, "--plot_layers_beside nowhere: must hold"),
    "rank": ({"use_lora": True, "lora_r": 0}, "--lora_r must be 1 or more"),
    "adapter's file": ({"peft_config": "nowhere.json"}, "--peft_config nowhere.json: must be"),
    "a name in a configuration": ({"token_reduction": "summ"}, "`token_reduction` must be one of ('sum'"),
}  # fmt: skip


@pytest.mark.parametrize("case", CHECKED)
@pytest.mark.parametrize("folds", [False, True])
def test_before_data_are_read(
    case: str, folds: bool, tiny_encoder_dir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The training file does not exist, and is not what the message is about."""
    monkeypatch.chdir(tmp_path)
    changes, message = CHECKED[case]
    model = {"num_groups": 2} | {name: changes[name] for name in changes if hasattr(ModelArguments, name)}
    train = {name: changes[name] for name in changes if hasattr(TweetTrainingArguments, name)}
    data = {name: value for name, value in changes.items() if name not in model and name not in train}
    data |= {"train_file": "missing.csv"}
    train |= {"output_dir": "run", "use_cpu": True, "num_train_epochs": 1}
    path = tiny_encoder_dir
    training = (AbsaTrainingArguments if folds else TweetTrainingArguments)(**train)
    if folds:
        model |= {"architecture": "gru_fusion"}
        data = {"text_pair_column": None, "group_column": "sentence", "folds": 2, **data}
        pairs = AbsaDataArguments(**data)
        with pytest.raises(UserError) as raised:
            cross_validate(PoolingModelArguments(model_name_or_path=path, **model), pairs, training)
    else:
        texts = DataArguments(**data)
        with pytest.raises(UserError) as raised:
            classify(ModelArguments(model_name_or_path=path, **model), texts, training)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_search_space_before_data_are_read(
    tiny_encoder_dir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("optuna")
    monkeypatch.chdir(tmp_path)
    model = ModelArguments(model_name_or_path=tiny_encoder_dir, num_groups=2)
    data = DataArguments(train_file="missing.csv")
    for space, message in (
        (None, "--hp_space must name"),
        ("nowhere.json", "--hp_space nowhere.json: cannot be read"),
    ):
        training = TweetTrainingArguments(output_dir="run", use_cpu=True, hp_search="optuna", hp_space=space)
        with pytest.raises(UserError, match=message):
            classify(model, data, training)
