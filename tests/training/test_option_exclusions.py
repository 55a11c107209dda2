from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from hf_layerfusion.errors import UserError
from hf_layerfusion.training.option_exclusions import EXCLUSIONS
from hf_layerfusion.training.training_arguments import CHECKPOINTING, LayerFusionTrainingArguments
from tests.training.small import small_arguments

# Each option as it is used, with what it needs.
USED: dict[str, dict[str, Any]] = {
    "fusion_learning_rate": {"fusion_learning_rate": 1e-2},
    "head_learning_rate": {"head_learning_rate": 1e-2},
    "embedding_learning_rate": {"embedding_learning_rate": 1e-4},
    "layer_decay": {"layer_decay": 0.9},
    "frozen_layers": {"frozen_layers": 1},
    "unfreeze_per_epoch": {"unfreeze_per_epoch": 1},
    "epoch_decay": {"epoch_decay": 0.9},
    "early_stopping_patience": {
        "early_stopping_patience": 2,
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "load_best_model_at_end": True,
    },
    "regularizers": {"regularizers": "rdrop"},
    "low_memory": {"low_memory": True, "regularizers": "rdrop"},
    "gradient_surgery": {"gradient_surgery": "pcgrad", "task_mixing": "together"},
    "freeze_encoder": {"freeze_encoder": True},
    "cache_frozen_states": {"cache_frozen_states": "states"},
    "frozen_states_dtype": {"frozen_states_dtype": "float16", "cache_frozen_states": "states"},
    "init_from_probe": {"init_from_probe": True, "cache_frozen_states": "states"},
    "ema_decay": {"ema_decay": 0.99},
    "average_last": {"average_last": 0.5},
    "weight_interpolation": {"weight_interpolation": 0.5},
    "head_first_epochs": {"head_first_epochs": 1},
    "distillation_weight": {"distillation_weight": 0.5},
    "distillation_temperature": {"distillation_temperature": 3.0},
    "greater_is_better": {"greater_is_better": False},
    "decay_all": {"decay_all": True},
    "on_divergence": {"on_divergence": "skip"},
    "class_balance": {"class_balance": "sampling"},
    "class_balance weights": {"class_balance": "weights"},
    "balance_bins": {"balance_bins": 5, "class_balance": "sampling"},
    "task_mixing": {"task_mixing": "together"},
    "task_temperature": {"task_temperature": 3.0, "task_mixing": "temperature"},
    "task_loss": {"task_loss": "mean"},
    "task_weights": {"task_weights": {"sts": 0.5}},
    "task_metrics": {"task_metrics": {"sts": "pearsonr"}},
    "best_of_each_task": {"best_of_each_task": True},
    "logging_nan_inf_filter": {"logging_nan_inf_filter": True},
    "restore_callback_states_from_checkpoint": {"restore_callback_states_from_checkpoint": False},
    # Of transformers' own, those that ours touch.
    "lr_scheduler_type": {"lr_scheduler_type": "linear"},
    "warmup_steps": {"warmup_steps": 5},
    "label_smoothing_factor": {"label_smoothing_factor": 0.1},
    "train_sampling_strategy": {"train_sampling_strategy": "sequential"},
    "neftune_noise_alpha": {"neftune_noise_alpha": 5.0},
    "include_for_metrics": {"include_for_metrics": ["inputs"]},
    "include_num_input_tokens_seen": {"include_num_input_tokens_seen": "all"},
    CHECKPOINTING: {CHECKPOINTING: True},
    "max_grad_norm": {"max_grad_norm": 0.5},
}

WITHOUT_CACHED_STATES = (
    "regularizers",
    "low_memory",
    "unfreeze_per_epoch",
    "neftune_noise_alpha",
    "include_for_metrics",
    "include_num_input_tokens_seen",
)

EXCLUDED = {
    ("freeze_encoder", "frozen_layers"),
    ("freeze_encoder", "unfreeze_per_epoch"),
    ("freeze_encoder", "layer_decay"),
    ("freeze_encoder", "embedding_learning_rate"),
    ("frozen_layers", "embedding_learning_rate"),
    ("epoch_decay", "lr_scheduler_type"),
    ("epoch_decay", "warmup_steps"),
    ("regularizers", "label_smoothing_factor"),
    ("low_memory", "label_smoothing_factor"),  # for the regularizers that it comes with
    ("cache_frozen_states", "regularizers"),
    # It comes with cached states.
    *(
        pair
        for other in WITHOUT_CACHED_STATES
        for name in ("init_from_probe", "frozen_states_dtype")
        for pair in [(name, other), (other, name)]
    ),
    ("cache_frozen_states", "low_memory"),
    ("cache_frozen_states", "unfreeze_per_epoch"),
    ("cache_frozen_states", "neftune_noise_alpha"),
    ("cache_frozen_states", "include_for_metrics"),
    ("cache_frozen_states", "include_num_input_tokens_seen"),
    ("ema_decay", "average_last"),
    ("weight_interpolation", "ema_decay"),
    ("weight_interpolation", "average_last"),
    ("head_first_epochs", "freeze_encoder"),
    ("head_first_epochs", "unfreeze_per_epoch"),
    ("head_first_epochs", "cache_frozen_states"),
    ("head_first_epochs", "init_from_probe"),  # for the cached states that it comes with
    ("head_first_epochs", "frozen_states_dtype"),
    ("class_balance", "train_sampling_strategy"),
    ("distillation_weight", "class_balance"),
    ("distillation_weight", "class_balance weights"),
    ("distillation_weight", "balance_bins"),  # for the balance that it comes with
    ("distillation_weight", "label_smoothing_factor"),
    ("class_balance weights", "label_smoothing_factor"),
    ("balance_bins", "train_sampling_strategy"),  # for the balance that it comes with
}


def test_every_option_of_ours_is_used() -> None:
    ours = {field.name for field in fields(LayerFusionTrainingArguments)} & set(
        LayerFusionTrainingArguments.__annotations__
    )
    assert ours <= set(USED)
    assert {name for rule in EXCLUSIONS for name in (rule.option, rule.other)} <= set(USED)


@pytest.mark.parametrize("option", USED)
def test_each_option_is_accepted_alone(tmp_path: Path, option: str) -> None:
    args = small_arguments(tmp_path, **USED[option])
    assert not (tmp_path / "states").exists()
    assert getattr(args, option.split()[0]) is not None


@pytest.mark.parametrize("option", USED)
def test_of_two_options_those_that_exclude_each_other_are_refused(tmp_path: Path, option: str) -> None:
    for other in list(USED)[list(USED).index(option) + 1 :]:
        both = {**USED[option], **USED[other]}
        if any(both[name] != USED[option][name] for name in USED[option]):
            continue  # of one option, two values
        pair = {(option, other), (other, option)}
        try:
            small_arguments(tmp_path, **both)
            message = None
        except UserError as error:
            message = str(error)
        assert (message is not None) == bool(pair & EXCLUDED), (option, other, message)
        if message is not None:
            assert "\n" not in message
            assert " excludes " in message
            assert message.split("; ")[1]


def test_rows_of_the_table_and_of_the_test_are_the_same() -> None:
    def known(pair: tuple[str, str]) -> frozenset[str]:
        comes_with = {
            "low_memory": "regularizers",
            "init_from_probe": "cache_frozen_states",
            "frozen_states_dtype": "cache_frozen_states",
            "balance_bins": "class_balance",
        }
        return frozenset(comes_with.get(name, name).split()[0] for name in pair)

    tested = {known(pair) for pair in EXCLUDED} | {frozenset(("task_mixing", "task_temperature"))}
    assert {frozenset((rule.option, rule.other)) for rule in EXCLUSIONS} == tested


def test_a_temperature_without_its_mixing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="task_mixing=together knows no temperature and excludes task_temp"):
        small_arguments(tmp_path, task_mixing="together", task_temperature=3.0)


def test_what_does_not_contradict_is_accepted(tmp_path: Path) -> None:
    small_arguments(tmp_path, freeze_encoder=True, embedding_learning_rate=0.0)
    small_arguments(tmp_path, frozen_layers=2, embedding_learning_rate=0.0, layer_decay=0.9)
    small_arguments(tmp_path, class_balance="sampling", train_sampling_strategy="group_by_length")
    small_arguments(tmp_path, cache_frozen_states="states", include_for_metrics=["loss"])
