from __future__ import annotations

import copy
import pickle
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from transformers import HfArgumentParser

from hf_layerfusion.cli.script import PROBE_RECIPES
from hf_layerfusion.errors import UserError
from hf_layerfusion.training.probe_recipes import ALL_LAYERS, FROZEN_TRAINING, STATES_FOLDER, TUNED_TRAINING
from hf_layerfusion.training.training_arguments import LayerFusionTrainingArguments
from tests.training.small import small_arguments


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"fusion_learning_rate": -1.0}, "fusion_learning_rate"),
        ({"fusion_learning_rate": float("nan")}, "fusion_learning_rate"),
        ({"epoch_decay": 0.0}, "epoch_decay"),
        ({"epoch_decay": 1.1}, "epoch_decay"),
        ({"epoch_decay": float("nan")}, "epoch_decay"),
        ({"epoch_decay": 0.9, "lr_scheduler_type": "linear"}, "lr_scheduler_type=linear"),
        ({"epoch_decay": 0.9, "warmup_steps": 5}, "warmup_steps=5"),
        ({"early_stopping_patience": 0, "eval_strategy": "epoch"}, "early_stopping_patience"),
        ({"early_stopping_patience": 2, "eval_strategy": "epoch"}, "load_best_model_at_end"),
        ({"class_balance": "some"}, "class_balance"),
        ({"class_balance": "sampling", "train_sampling_strategy": "sequential"}, "train_sampling_strategy"),
        ({"class_balance": "weights", "label_smoothing_factor": 0.1}, "label_smoothing_factor=0.1"),
        ({"class_balance": "sampling", "balance_bins": 1}, "balance_bins must be 2 or more, found 1"),
        ({"balance_bins": 6}, "balance_bins=6 has no effect without class_balance"),
        ({"task_mixing": "roundrobin"}, "shuffled, round_robin"),
        ({"task_temperature": 0.0}, "task_temperature"),
        ({"task_temperature": float("inf")}, "task_temperature"),
        ({"task_loss": "max"}, "task_loss"),
        ({"task_weights": "sts=1"}, "task_weights"),
        ({"task_weights": {"sts": -1.0}}, "task_weights"),
        ({"task_weights": {"sts": float("nan")}}, "task_weights"),
        ({"task_metrics": {"sts": 1}}, "task_metrics"),
    ],
)
def test_bad_values_are_refused_on_one_line(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named) as caught:
        small_arguments(tmp_path, **changes)
    assert "\n" not in str(caught.value)


def test_defaults_leave_the_stock_schedule_alone(tmp_path: Path) -> None:
    args = small_arguments(tmp_path, lr_scheduler_type="cosine", warmup_steps=3)
    assert (args.epoch_decay, args.fusion_learning_rate, args.early_stopping_patience) == (1.0, None, None)


def test_command_line(tmp_path: Path) -> None:
    line = (
        f"--output_dir {tmp_path} --fusion_learning_rate 1e-3 --epoch_decay 0.9 --early_stopping_patience 2"
    )
    line += (
        " --lr_scheduler_type constant --eval_strategy epoch --save_strategy epoch --load_best_model_at_end"
    )
    line += " --use_cpu --task_mixing annealed --class_balance weights --freeze_encoder"
    line += ' --task_weights {"sts":0.5} --task_metrics {"sts":"spearmanr"}'
    (args,) = HfArgumentParser(LayerFusionTrainingArguments).parse_args_into_dataclasses(line.split())
    assert (args.fusion_learning_rate, args.epoch_decay, args.early_stopping_patience) == (1e-3, 0.9, 2)
    assert (args.task_mixing, args.class_balance, args.freeze_encoder) == ("annealed", "weights", True)
    assert (args.task_weights, args.task_metrics) == ({"sts": 0.5}, {"sts": "spearmanr"})


def test_every_field_of_ours_has_a_help_text() -> None:
    ours = [field for field in fields(LayerFusionTrainingArguments) if field.name in _own_names()]
    assert len(ours) == 34
    assert all(field.metadata["help"] for field in ours)


def _own_names() -> set[str]:
    return set(LayerFusionTrainingArguments.__annotations__)


def test_the_token_is_not_pickled(tmp_path: Path) -> None:
    args = small_arguments(tmp_path, hub_token="hf_SECRET")
    pickled = pickle.dumps(args)
    assert b"hf_SECRET" not in pickled
    assert args.hub_token == "hf_SECRET"
    again = pickle.loads(pickled)
    assert again.hub_token is None
    assert again.learning_rate == args.learning_rate


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_copy_keeps_the_token(tmp_path: Path, copied: Any) -> None:
    args = small_arguments(tmp_path, hub_token="hf_SECRET", regularizers={"smart": {"weight": 2.0}})
    again = copied(args)
    assert again.hub_token == "hf_SECRET" and again is not args
    assert again.to_dict() == args.to_dict()
    assert (again.regularizers is args.regularizers) == (copied is copy.copy)
    assert b"hf_SECRET" not in pickle.dumps(again)


def test_the_recipe_for_a_tuned_encoder_is_that_of_the_scripts(tmp_path: Path) -> None:
    args = LayerFusionTrainingArguments.for_tuned_encoder(str(tmp_path), learning_rate=2e-5, use_cpu=True)
    assert (args.freeze_encoder, args.init_from_probe, args.head_first_epochs) == (False, True, 1)
    assert args.cache_frozen_states is None
    assert args.learning_rate == 2e-5 and args.weight_interpolation == 0.5
    assert PROBE_RECIPES["tuned"].items() >= (ALL_LAYERS | TUNED_TRAINING).items()


def test_the_recipe_for_a_frozen_encoder_is_that_of_the_scripts(tmp_path: Path) -> None:
    args = LayerFusionTrainingArguments.for_frozen_encoder(str(tmp_path), num_train_epochs=5, use_cpu=True)
    assert (args.freeze_encoder, args.init_from_probe, args.frozen_states_dtype) == (True, True, "float16")
    assert args.cache_frozen_states == STATES_FOLDER
    assert args.num_train_epochs == 5
    assert PROBE_RECIPES["frozen"].items() >= (ALL_LAYERS | FROZEN_TRAINING).items()
    with pytest.raises(UserError, match="frozen_states_dtype=float16 is of cached states, found neither"):
        LayerFusionTrainingArguments(str(tmp_path), frozen_states_dtype="float16", use_cpu=True)
    with pytest.raises(UserError, match="must be one of float32, float16, bfloat16, found 'fp16'"):
        small_arguments(tmp_path, frozen_states_dtype="fp16")
