"""Which checkpoint a run ends with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hf_layerfusion.errors import UserError
from hf_layerfusion.evaluation.metrics import compute_metrics_for
from hf_layerfusion.training.trainer import LayerFusionTrainer
from tests.training.small import small_trainer, weights_digest

CHOOSING: dict[str, Any] = {
    "eval_strategy": "steps",
    "eval_steps": 1,
    "save_strategy": "steps",
    "save_steps": 1,
    "load_best_model_at_end": True,
    "max_steps": 4,
}


def choosing(folder: Path, metric: str, values: list[float], **changes: Any) -> LayerFusionTrainer:
    """A run whose evaluations find these values, one after the other."""
    trainer = small_trainer(folder, **(CHOOSING | {"metric_for_best_model": metric} | changes))
    found = iter(values)
    trainer.compute_metrics = lambda _: {metric: next(found)}
    return trainer


@pytest.mark.parametrize(
    ("metric", "values", "best"),
    [
        ("accuracy", [0.5, 0.6, 0.55, 0.4], 2),
        ("pearsonr", [float("nan"), -0.5, 0.1, 0.0], 3),
        ("mae", [0.5, 0.6, 0.4, 0.45], 3),
        ("rmse", [0.5, 0.1, 0.4, 0.45], 2),
    ],
)
def test_the_best_is_the_best(tmp_path: Path, metric: str, values: list[float], best: int) -> None:
    trainer = choosing(tmp_path, metric, values)
    trainer.train()
    assert trainer.state.best_global_step == best
    assert trainer.state.best_metric == values[best - 1]


@pytest.mark.parametrize(("metric", "steps"), [("accuracy", 4), ("mae", 2)])
def test_patience_counts_evaluations_that_are_not_better(tmp_path: Path, metric: str, steps: int) -> None:
    trainer = choosing(tmp_path, metric, [0.1, 0.2, 0.3, 0.4], early_stopping_patience=1)
    trainer.train()
    assert trainer.state.global_step == steps


def test_the_best_is_one_that_was_saved(tmp_path: Path) -> None:
    """Of evaluations at each step, weights are kept at every second."""
    trainer = choosing(tmp_path, "accuracy", [0.9, 0.5, 0.8, 0.6], save_steps=2)
    trainer.train()
    assert (trainer.state.best_global_step, trainer.state.best_metric) == (4, 0.6)
    assert trainer.state.best_model_checkpoint == str(tmp_path / "checkpoint-4")
    alone = small_trainer(tmp_path / "alone", max_steps=4)
    alone.train()
    assert weights_digest(trainer.model) == weights_digest(alone.model)


def test_an_unsaved_better_one_is_no_reason_to_stop(tmp_path: Path) -> None:
    trainer = choosing(
        tmp_path, "accuracy", [0.1, 0.2, 0.3, 0.25, 0.5, 0.1, 0.1, 0.1],
        save_steps=2, max_steps=8, early_stopping_patience=2,
    )  # fmt: skip
    trainer.train()
    assert trainer.state.global_step == 7  # 6 and 7 do not better the 0.25 of step 4
    assert trainer.state.best_global_step == 4


def test_saving_the_best_alone_goes_by_every_evaluation(tmp_path: Path) -> None:
    trainer = choosing(tmp_path, "accuracy", [0.5, 0.9, 0.8, 0.6], save_strategy="best")
    trainer.train()
    assert (trainer.state.best_global_step, trainer.state.best_metric) == (2, 0.9)


def test_where_no_value_is_a_number_the_last_weights_are_kept_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = choosing(tmp_path, "pearsonr", [float("nan")] * 4)
    with caplog.at_level("WARNING"):
        trainer.train()
    assert trainer.state.best_model_checkpoint is None
    assert "no checkpoint had a pearsonr that is a number; the last weights are kept" in caplog.text


def test_a_metric_that_is_not_computed_is_refused_before_training(tmp_path: Path) -> None:
    def make(**changes: Any) -> LayerFusionTrainer:
        trainer = small_trainer(tmp_path, metric_for_best_model="f1_micro", eval_strategy="epoch")
        return LayerFusionTrainer(
            trainer.model,
            trainer.args,
            train_dataset=trainer.train_dataset,
            data_collator=trainer.data_collator,
            **{"eval_dataset": trainer.eval_dataset, **changes},
        )

    compute = compute_metrics_for("single_label_classification")
    names = "loss, accuracy, f1_macro, recall_macro"
    with pytest.raises(UserError, match=rf"metric_for_best_model must be .*{names}\), found 'f1_micro'"):
        make(compute_metrics=compute)
    rows = small_trainer(tmp_path).eval_dataset
    with pytest.raises(UserError, match="here_loss, here_accuracy"):
        make(compute_metrics=compute, eval_dataset={"here": rows})
    trainer = make(compute_metrics=lambda _: {"f1": 0.5})  # whose names nobody knows before
    with pytest.raises(UserError, match=r"metric_for_best_model must be .*loss, .*found 'f1_micro'"):
        trainer.train()
