from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
from transformers import Seq2SeqTrainingArguments, TrainingArguments

from hf_layerfusion.errors import UserError
from hf_layerfusion.training.stock_arguments import own_arguments
from hf_layerfusion.training.training_arguments import LayerFusionTrainingArguments
from tests.training.small import small_arguments


def test_own_arguments_are_the_same_object(tmp_path: Path) -> None:
    args = small_arguments(tmp_path)
    assert own_arguments(args) is args


def test_every_option_of_stock_arguments_is_kept(tmp_path: Path) -> None:
    stock = TrainingArguments(
        str(tmp_path),
        use_cpu=True,
        learning_rate=3e-4,
        warmup_steps=0.1,
        eval_strategy="steps",
        save_strategy="steps",
        eval_steps=7,
        save_steps=14,
        load_best_model_at_end=True,
        lr_scheduler_type="cosine",
        optim="sgd",
        report_to=["none"],
        seed=5,
    )
    own = own_arguments(stock)
    assert isinstance(own, LayerFusionTrainingArguments)
    differing = {
        each.name
        for each in fields(TrainingArguments)
        if each.init and str(getattr(own, each.name)) != str(getattr(stock, each.name))
    }
    assert differing == {"logging_nan_inf_filter", "restore_callback_states_from_checkpoint"}


@pytest.mark.parametrize(("metric", "best"), [("mse", False), ("accuracy", True), ("eval_loss", False)])
def test_the_direction_is_that_of_the_metric(tmp_path: Path, metric: str, best: bool) -> None:
    # transformers takes more of anything but a loss for better.
    stock = TrainingArguments(str(tmp_path), use_cpu=True, metric_for_best_model=metric)
    assert own_arguments(stock).greater_is_better is best


def test_a_direction_that_contradicts_the_metric_is_refused(tmp_path: Path) -> None:
    stock = TrainingArguments(
        str(tmp_path), use_cpu=True, metric_for_best_model="accuracy", greater_is_better=False
    )
    with pytest.raises(UserError, match="greater_is_better=False contradicts"):
        own_arguments(stock)


def test_no_arguments_are_the_stock_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Path(str(own_arguments(None).output_dir)).name == "tmp_trainer"


def test_options_of_other_trainers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="found Seq2SeqTrainingArguments"):
        own_arguments(Seq2SeqTrainingArguments(str(tmp_path), use_cpu=True))
