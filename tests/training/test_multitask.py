from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from scipy.stats import pearsonr
from torch import Tensor
from transformers import EvalPrediction, TrainerCallback

from hf_layerfusion.errors import UserError
from hf_layerfusion.training.collators import PaddingCollator
from hf_layerfusion.training.trainer import LayerFusionTrainer
from tests.tiny import tiny_tokenizer
from tests.training.small import rows, small_arguments, small_trainer, weights_digest
from tests.training.small_tasks import (
    CLASSES,
    METRICS,
    SmallTasks,
    accuracy,
    small_tasks_model,
    task_rows,
    tasks_trainer,
    train_sets,
)
from tests.training.test_trainer import Gradients, KillAt, Killed, logged


class Seen(TrainerCallback):
    """What the collator was given, batch by batch, and how often evaluations were told of."""

    def __init__(self) -> None:
        self.evaluations: list[dict[str, float]] = []

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, float], **kwargs: Any
    ) -> None:
        self.evaluations.append(metrics)


def batch_of(task: str, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    return PaddingCollator(tiny_tokenizer())(rows)


def reference_gradient(weights: dict[str, float], train: dict[str, Any]) -> dict[str, Tensor]:
    """In float64: of the weighted sum of the tasks' mean losses over all their rows."""
    model = small_tasks_model().double()
    losses = []
    for task, weight in weights.items():
        batch = batch_of(task, train[task])
        if task == "sim":
            batch["labels"] = batch["labels"].double()
        losses.append(weight * model(task=task, **batch).loss)
    sum(losses).backward()
    return {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for name, parameter in model.named_parameters()
    }


class StepGradients(Gradients):
    """As `Gradients`, where heads of other tasks have none."""

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.steps.append(
            {
                name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
                for name, p in kwargs["model"].named_parameters()
            }
        )


# Steps and their gradients


@pytest.mark.parametrize("mixing", ["shuffled", "together_longest"])
def test_accumulated_gradients_are_those_of_the_undivided_batch(tmp_path: Path, mixing: str) -> None:
    found = []
    for size, accumulation in ((8, 1), (2, 4)):
        gradients = StepGradients()
        trainer = tasks_trainer(
            tmp_path,
            callbacks=[gradients],
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulation,
            task_mixing=mixing,
            max_grad_norm=0.0,
            optim="sgd",
        )
        trainer.train()
        losses = {task: logged(trainer, f"loss_{task}") for task in CLASSES}
        found.append((gradients.steps, logged(trainer, "loss"), losses))
    (whole, *whole_losses), (divided, *divided_losses) = found
    # 26, 13 and 7 rows by 8: four, two and one batch; the last of each has 2, 5 and 7 rows
    assert len(whole) == len(divided) == (7 if mixing == "shuffled" else 4)
    for expected, got in zip(whole, divided, strict=True):
        for name in expected:
            torch.testing.assert_close(got[name], expected[name], rtol=0, atol=1e-5)
    assert divided_losses[0] == pytest.approx(whole_losses[0], abs=1e-5)
    for task in CLASSES:
        assert divided_losses[1][task] == pytest.approx(whole_losses[1][task], abs=1e-5)


@pytest.mark.parametrize(
    ("changes", "weights"),
    [
        ({}, {"five": 1.0, "para": 1.0, "sim": 1.0}),
        ({"task_loss": "mean"}, {"five": 1 / 3, "para": 1 / 3, "sim": 1 / 3}),
        ({"task_weights": {"sim": 0.25, "para": 2.0}}, {"five": 1.0, "para": 2.0, "sim": 0.25}),
    ],
)
def test_the_gradient_is_that_of_the_weighted_sum(
    tmp_path: Path, changes: dict[str, Any], weights: dict[str, float]
) -> None:
    gradients = StepGradients()
    train = train_sets(five=8, para=6, sim=5)
    for of_task in train.values():
        for row in of_task:  # in one order only, so that the reference knows it
            row.pop("swapped_input_ids", None), row.pop("swapped_attention_mask", None)
    trainer = tasks_trainer(
        tmp_path, None, train, [gradients], task_mixing="together", max_grad_norm=0.0, optim="sgd", **changes
    )
    trainer.train()
    for name, expected in reference_gradient(weights, train).items():
        torch.testing.assert_close(gradients.steps[0][name].double(), expected, rtol=1e-5, atol=1e-6)
    plain = {
        task: small_tasks_model()(task=task, **batch_of(task, train[task])).loss.item() for task in train
    }
    for task, loss in plain.items():
        assert logged(trainer, f"loss_{task}") == pytest.approx([loss], abs=1e-6)
    assert logged(trainer, "loss") == pytest.approx([sum(weights[t] * plain[t] for t in plain)], abs=1e-5)


def test_losses_are_logged_as_means_over_the_steps_of_each_task(tmp_path: Path) -> None:
    runs = []
    for every in (1, 7):
        trainer = tasks_trainer(tmp_path, logging_steps=every)
        trainer.train()
        runs.append(trainer)
    single, whole = runs
    for task, steps in (("five", 4), ("para", 2), ("sim", 1)):
        losses = logged(single, f"loss_{task}")
        assert len(losses) == steps
        assert logged(whole, f"loss_{task}") == pytest.approx([sum(losses) / steps])


@pytest.mark.parametrize(
    ("mixing", "steps", "examples"),
    [
        ("shuffled", 7, 46),
        ("round_robin", 3, 8 + 8 + 7),
        ("round_robin_longest", 12, 26 + 2 * 13 + 4 * 7),
        ("together", 1, 8 + 8 + 7),
        ("together_longest", 4, 26 + 2 * 13 + 4 * 7),
        ("annealed", 7, None),
    ],
)
def test_steps_of_an_epoch(tmp_path: Path, mixing: str, steps: int, examples: int | None) -> None:
    trainer = tasks_trainer(tmp_path, task_mixing=mixing, num_train_epochs=2, gradient_accumulation_steps=2)
    trainer.args.per_device_train_batch_size = trainer._train_batch_size = 4
    loader = trainer.get_train_dataloader()
    assert len(loader) == 2 * steps
    if examples is not None:
        assert trainer.num_examples(loader) == examples
    values = trainer.set_initial_training_values(trainer.args, loader)
    assert (values[1], values[6]) == (steps, 2 * steps)
    tasks = [list(batch.get("tasks", {batch.get("task"): 0})) for batch in loader]
    assert tasks[::2] == tasks[1::2]


def test_max_steps(tmp_path: Path) -> None:
    trainer = tasks_trainer(tmp_path, max_steps=9, task_mixing="annealed")
    assert trainer.get_train_dataloader().batch_sampler.mixing.num_epochs == 2
    trainer.train()
    assert trainer.state.global_step == 9
    assert trainer.state.epoch == pytest.approx(9 / 7)


def test_bf16(tmp_path: Path) -> None:
    trainer = tasks_trainer(
        tmp_path,
        train=train_sets(five=6, para=6, sim=6),
        task_mixing="together",
        bf16=True,
        num_train_epochs=40,
        learning_rate=3e-3,
        class_balance="weights",
    )
    trainer.train()
    for task in CLASSES:
        losses = logged(trainer, f"loss_{task}")
        assert losses[-1] < 0.5 * losses[0]


def test_pairs_come_in_either_order_in_training_only(tmp_path: Path) -> None:
    trainer = tasks_trainer(tmp_path, train={"para": task_rows("para", 40), "five": task_rows("five", 2)})
    plain = {tuple(row["input_ids"]) for row in task_rows("para", 40)}
    orders = []
    for epoch in (0, 1):
        trainer.state.epoch = float(epoch)
        seen = []
        for batch in trainer.get_train_dataloader():
            if batch["task"] == "para":
                seen += [tuple(ids[ids != 0].tolist()) for ids in batch["input_ids"]]
        assert {ids if ids in plain else ids[::-1] for ids in seen} == plain
        orders.append({ids for ids in seen if ids in plain})
        assert 5 < len(orders[-1]) < 35
    assert orders[0] != orders[1]
    rows = task_rows("para", 9, seed=50)
    evaluated = [ids for batch in trainer.get_eval_dataloader("para") for ids in batch["input_ids"].tolist()]
    assert [[i for i in ids if i] for ids in evaluated] == [row["input_ids"] for row in rows]


def test_a_loss_that_is_not_finite_names_its_task(tmp_path: Path) -> None:
    train = train_sets()
    train["sim"][3]["labels"] = float("nan")
    with pytest.raises(UserError, match="training loss of sim is not finite"):
        tasks_trainer(tmp_path, train=train).train()


# Resuming

RESUMABLE: dict[str, Any] = {
    "num_train_epochs": 3,
    "save_strategy": "steps",
    "save_steps": 2,
    "eval_strategy": "epoch",
    "train_sampling_strategy": "group_by_length",
}


@pytest.mark.parametrize(
    ("killed_at", "changes"),
    [
        (5, {"task_mixing": "annealed"}),  # of 7 steps an epoch: resumes in the middle of the first
        (11, {"class_balance": "sampling"}),  # and of the second
        (
            7,
            {
                "task_mixing": "together_longest",
                "gradient_accumulation_steps": 2,
                "per_device_train_batch_size": 4,
                "train_sampling_strategy": "random",
            },
        ),
    ],
)
def test_a_resumed_run_ends_in_the_same_weights(
    tmp_path: Path, killed_at: int, changes: dict[str, Any]
) -> None:
    settings = RESUMABLE | changes
    straight = tasks_trainer(tmp_path / "straight", small_tasks_model(0.1), **settings)
    straight.train()
    with pytest.raises(Killed):
        tasks_trainer(
            tmp_path / "killed", small_tasks_model(0.1), callbacks=[KillAt(killed_at)], **settings
        ).train()
    torch.manual_seed(99)
    resumed = tasks_trainer(tmp_path / "killed", small_tasks_model(0.1), **settings)
    resumed.train(resume_from_checkpoint=True)
    assert resumed._initial_global_step == killed_at - 1
    assert resumed.state.global_step == straight.state.global_step
    assert weights_digest(resumed.model) == weights_digest(straight.model)
    assert weights_digest(resumed.model) != weights_digest(small_tasks_model(0.1))


# Evaluation


def test_metrics_are_those_of_each_task(tmp_path: Path) -> None:
    def similarity(prediction: EvalPrediction) -> dict[str, float]:
        value = pearsonr(prediction.predictions[:, 0], prediction.label_ids).statistic
        return {"mae": 0.0, "pearsonr": float(value), "other": 7.0}

    seen = Seen()
    trainer = tasks_trainer(
        tmp_path,
        callbacks=[seen],
        compute_metrics=METRICS | {"sim": similarity},
        per_device_eval_batch_size=4,
        task_weights={"sim": 0.5},
        task_loss="mean",
        train_sampling_strategy="group_by_length",
    )
    metrics = trainer.evaluate()
    model, expected, losses = small_tasks_model().eval(), {}, {}
    for task in CLASSES:
        rows = task_rows(task, 9, seed=50)
        batch = batch_of(task, rows)
        with torch.no_grad():
            output = model(task=task, **batch)
        losses[task] = output.loss.item()
        hits = (output.logits.argmax(1) == batch["labels"]).double().mean().item()
        expected[task] = pearsonr(output.logits[:, 0], batch["labels"]).statistic if task == "sim" else hits
    for task, name in (("five", "accuracy"), ("para", "accuracy"), ("sim", "pearsonr")):
        assert metrics[f"eval_{task}_{name}"] == pytest.approx(expected[task], abs=1e-6)
        assert metrics[f"eval_{task}_loss"] == pytest.approx(losses[task], abs=1e-5)
    assert metrics["eval_mean"] == pytest.approx(np.mean(list(expected.values())), abs=1e-6)
    assert metrics["eval_loss"] == pytest.approx(
        (losses["five"] + losses["para"] + 0.5 * losses["sim"]) / 3, abs=1e-5
    )
    assert len(seen.evaluations) == len(trainer.state.log_history) == 1
    trainer.args.task_metrics = {"sim": "other"}
    mean = (expected["five"] + expected["para"] + 7) / 3
    assert trainer.evaluate()["eval_mean"] == pytest.approx(mean, abs=1e-6)
    # another choice of data, and a name for it
    some = trainer.evaluate({"para": task_rows("para", 5)}, metric_key_prefix="dev")
    assert some["dev_mean"] == some["dev_para_accuracy"]
    assert "dev_five_loss" not in some


def test_tasks_without_labels_are_predicted_only(tmp_path: Path) -> None:
    unlabelled = [{k: v for k, v in row.items() if k != "labels"} for row in task_rows("sim", 5)]
    labelled = task_rows("five", 11, seed=5)
    trainer = tasks_trainer(
        tmp_path,
        eval_dataset={"five": labelled, "sim": unlabelled},
        train=train_sets(five=2, para=2, sim=2),
        train_sampling_strategy="group_by_length",
        per_device_eval_batch_size=3,
    )
    metrics = trainer.evaluate()
    assert metrics["eval_mean"] == metrics["eval_five_accuracy"]
    assert not [name for name in metrics if "sim" in name]
    outputs = trainer.predict({"sim": unlabelled, "five": Dataset.from_list(labelled)})
    model = small_tasks_model().eval()
    for task, of_task in (("sim", unlabelled), ("five", labelled)):
        with torch.no_grad():
            alone = [model(task=task, **batch_of(task, [row])).logits[0] for row in of_task]
        np.testing.assert_allclose(outputs[task].predictions, torch.stack(alone), atol=1e-5)
    assert outputs["sim"].label_ids is None
    assert outputs["five"].label_ids.tolist() == [row["labels"] for row in labelled]
    hits = outputs["five"].predictions.argmax(1) == outputs["five"].label_ids
    assert outputs["five"].metrics["test_five_accuracy"] == pytest.approx(hits.mean())
    with pytest.raises(UserError, match="labels for one task at least"):
        trainer.evaluate({"sim": unlabelled})


def scripted(values: dict[str, list[float]]) -> dict[str, Any]:
    """Metrics that take these values, one an evaluation."""
    left = {task: iter(of_task) for task, of_task in values.items()}
    return {task: lambda prediction, task=task: {"score": next(left[task])} for task in values}


SCORES = {
    "five": [0.1, 0.5, 0.4, 0.4, 0.3],
    "para": [0.9, 0.2, 0.9, 0.1, 0.3],
    "sim": [float("nan"), 0.4, 0.3, 0.2, 0.1],
}
BEST: dict[str, Any] = {
    "num_train_epochs": 5,
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "load_best_model_at_end": True,
    "metric_for_best_model": "eval_mean",
    "best_of_each_task": True,
    "early_stopping_patience": 2,
    "task_mixing": "together",
}


class Weights(TrainerCallback):
    def __init__(self) -> None:
        self.at: dict[int, str] = {}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.at[state.global_step] = weights_digest(kwargs["model"])


def test_the_best_by_the_mean_and_the_best_of_each_task(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    weights = Weights()
    trainer = tasks_trainer(tmp_path, callbacks=[weights], compute_metrics=scripted(SCORES), **BEST)
    with caplog.at_level(logging.WARNING):
        trainer.train()
    # means: nan, 0.367, 0.533, then worse twice
    assert trainer.state.best_global_step == 3
    assert trainer.state.best_metric == pytest.approx((0.4 + 0.9 + 0.3) / 3)
    assert trainer.state.global_step == 5
    assert weights_digest(trainer.model) == weights.at[3]
    for task, step in (("five", 2), ("para", 1), ("sim", 2)):  # a tie is not better
        folder = tmp_path / f"best-{task}"
        kept = small_tasks_model()
        kept.load_state_dict(load_file(folder / "model.safetensors"))
        assert weights_digest(kept) == weights.at[step]
        facts = json.loads((folder / "best.json").read_text())
        assert (facts["metric"], facts["step"]) == (f"eval_{task}_score", step)
        assert (folder / "tokenizer.json").exists()
    assert not list(tmp_path.glob("*.partial"))
    assert not [record for record in caplog.records if "early stopping" in record.message]
    again = SmallTasks.from_pretrained(tmp_path / "best-para")
    assert weights_digest(again) == weights.at[1]


@pytest.mark.parametrize("weights", [{"weight_interpolation": 0.5}, {"ema_decay": 0.8}])
def test_the_best_of_a_task_is_the_model_that_was_evaluated(
    weights: dict[str, float], tmp_path: Path
) -> None:
    tasks_trainer(tmp_path, compute_metrics=scripted(SCORES), **BEST, **weights).train()
    for task, step in (("five", 2), ("para", 1), ("sim", 2)):
        best = load_file(tmp_path / f"best-{task}" / "model.safetensors")
        checkpoint = load_file(tmp_path / f"checkpoint-{step}" / "model.safetensors")
        assert all(torch.equal(best[name], checkpoint[name]) for name in checkpoint)


def test_the_best_of_a_task_replaces_nothing_of_others(tmp_path: Path) -> None:
    (tmp_path / "best-sim").mkdir()
    (tmp_path / "best-sim" / "mine.txt").touch()
    with pytest.raises(UserError, match=r"best_of_each_task: .*best-sim must be new"):
        tasks_trainer(tmp_path, compute_metrics=scripted(SCORES), **BEST)
    assert (tmp_path / "best-sim" / "mine.txt").exists()


def test_a_resumed_run_remembers_the_best_of_each_task(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        tasks_trainer(tmp_path, callbacks=[KillAt(3)], compute_metrics=scripted(SCORES), **BEST).train()
    later = {task: values[2:] for task, values in SCORES.items()}
    resumed = tasks_trainer(tmp_path, compute_metrics=scripted(later), **BEST)
    resumed.train(resume_from_checkpoint=True)
    found = {task: json.loads((tmp_path / f"best-{task}" / "best.json").read_text()) for task in CLASSES}
    assert {task: facts["step"] for task, facts in found.items()} == {"five": 2, "para": 1, "sim": 2}
    assert resumed.state.best_global_step == 3


def test_a_model_of_tasks_needs_no_training_data(tmp_path: Path) -> None:
    trainer = LayerFusionTrainer(
        small_tasks_model(),
        small_arguments(tmp_path),
        processing_class=tiny_tokenizer(),
        compute_metrics=METRICS,
    )
    data = {"five": task_rows("five", 9)}
    assert trainer.evaluate(data)["eval_mean"] == trainer.predict(data)["five"].metrics["test_five_accuracy"]
    with pytest.raises(UserError, match="evaluation data must be given by task"):
        trainer.evaluate()


# Classes and the encoder


def test_class_weights_weigh_the_gradient(tmp_path: Path) -> None:
    train = train_sets(five=4, para=8, sim=2)
    for index, row in enumerate(train["para"]):
        row["labels"] = int(index == 0)
        del row["swapped_input_ids"], row["swapped_attention_mask"]
    found = []
    for size, accumulation in ((8, 1), (2, 4)):
        gradients = StepGradients()
        tasks_trainer(
            tmp_path,
            small_tasks_model(declared=False),
            {"para": train["para"]},
            [gradients],
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulation,
            class_balance="weights",
            max_grad_norm=0.0,
        ).train()
        found.append(gradients.steps[0])
    model = small_tasks_model().double()
    batch = batch_of("para", train["para"])
    logs = torch.log_softmax(model(task="para", **batch).logits, dim=1)
    # 8 / (2 · 7) and 8 / (2 · 1)
    weights = torch.tensor([4.0 if index == 0 else 4 / 7 for index in range(8)], dtype=torch.float64)
    (-(weights * logs[torch.arange(8), batch["labels"]]).sum() / 8).backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            for gradients in found:
                torch.testing.assert_close(gradients[name].double(), parameter.grad, rtol=0, atol=1e-6)


def test_one_task_is_balanced_too(tmp_path: Path) -> None:
    train = [row | {"labels": int(index < 3)} for index, row in enumerate(rows(21))]
    rare = {tuple(row["input_ids"]) for row in train[:3]}
    for strategy in ("random", "group_by_length"):
        trainer = small_trainer(
            tmp_path, train=train, class_balance="sampling", train_sampling_strategy=strategy
        )
        seen = [
            tuple(ids[ids != 0].tolist())
            for batch in trainer.get_train_dataloader()
            for ids in batch["input_ids"]
        ]
        assert len(seen) == 21
        assert sum(ids in rare for ids in seen) in (10, 11)
    plain = small_trainer(tmp_path, train=train[:8])
    weighed = small_trainer(tmp_path, train=train[:8], class_balance="weights")
    plain.train(), weighed.train()
    assert logged(weighed, "loss") != pytest.approx(logged(plain, "loss"), abs=1e-4)
    floats = [row | {"labels": 0.5} for row in train]
    with pytest.raises(UserError, match="class_balance=weights needs a task"):
        small_trainer(tmp_path, train=floats, class_balance="weights")
    with pytest.raises(UserError, match="balance_bins=3 needs a task whose labels are single numbers"):
        small_trainer(tmp_path, train=train, class_balance="weights", balance_bins=3)


def test_a_regression_among_tasks_is_balanced_by_bins(tmp_path: Path) -> None:
    """20 of 24 values are 0, the others lie between 2 and 3: both bins give half of the rows."""
    train = train_sets(five=24, sim=24)
    for index, row in enumerate(train["sim"]):
        row["labels"] = 2 + index / 4 if index < 4 else 0.0
    settings = {"task_mixing": "together", "per_device_train_batch_size": 24, "balance_bins": 2}
    trainer = tasks_trainer(tmp_path, small_tasks_model(), train, class_balance="sampling", **settings)
    (batch,) = trainer.get_train_dataloader()
    assert (batch["tasks"]["sim"]["labels"] > 1).sum() == 12
    plain = tasks_trainer(tmp_path, small_tasks_model(), train, **(settings | {"balance_bins": None}))
    weighed = tasks_trainer(tmp_path, small_tasks_model(), train, class_balance="weights", **settings)
    losses = []
    for trainer in (plain, weighed):
        trainer.train()
        losses.append(logged(trainer, "loss"))
    assert losses[0] != pytest.approx(losses[1], abs=1e-4)


def test_a_frozen_encoder_stays(tmp_path: Path) -> None:
    model = small_tasks_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer = tasks_trainer(tmp_path, model, freeze_encoder=True, task_mixing="together")
    trainer.train()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {f"heads.{task}.{kind}" for task in CLASSES for kind in ("weight", "bias")}
    assert {group["name"] for group in trainer.optimizer.param_groups} == {"fusion", "fusion_no_decay"}


# What does not fit


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (
            {"train": train_sets(five=2, para=2) | {"sts": task_rows("sim", 2)}},
            "training data: .* found 'sts'",
        ),
        (
            {"train": train_sets(five=2), "eval_dataset": {"five": task_rows("five", 2)}},
            "tasks para, sim must have",
        ),
        ({"eval_dataset": {"sts": task_rows("sim", 2)}}, "evaluation data: .* found 'sts'"),
        ({"eval_dataset": task_rows("sim", 2)}, "evaluation data must be given by task"),
        ({"eval_dataset": {"five": []}}, "evaluation data of task 'five': must have rows"),
        ({"train": train_sets() | {"five": []}}, "training data of task 'five': must have rows"),
        ({"compute_metrics": {"five": accuracy}}, "none for para, sim"),
        (
            {"metric_for_best_model": "eval_sts_accuracy", "eval_strategy": "epoch"},
            "found 'eval_sts_accuracy'",
        ),
        (
            {"metric_for_best_model": "mean", "eval_strategy": "epoch", "compute_metrics": None},
            "eval_mean \\(with compute_metrics\\)",
        ),
        ({"task_weights": {"sts": 1.0}}, "task_weights must name tasks of the data"),
        ({"task_metrics": {"sts": "f1"}}, "task_metrics must name tasks of the data"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor=0.1"),
        ({"train_sampling_strategy": "batch_rebalance"}, "batch_rebalance"),
        (
            {"train": task_rows("five", 4), "task_weights": {"five": 2.0}},
            "task_weights must come with several",
        ),
        (
            {"train": task_rows("five", 4), "task_mixing": "together", "task_loss": "mean"},
            "task_mixing, task_loss must come with several",
        ),
    ],
)
def test_what_does_not_fit_is_refused_on_one_line(
    tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(UserError, match=named) as caught:
        tasks_trainer(tmp_path, **changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (
            {"metric_for_best_model": "eval_five_f1"},
            "metric_for_best_model must be .*five_accuracy, .* mean\\), found 'eval_five_f1'",
        ),
        ({"task_metrics": {"sim": "mse"}}, "task_metrics: .* 'sim' .* closeness; found 'mse'"),
        ({"dataloader_drop_last": True}, "dataloader_drop_last .* found 7 of task 'sim'"),
    ],
)
def test_what_only_the_run_shows(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    trainer = tasks_trainer(tmp_path, eval_strategy="epoch", **changes)
    with pytest.raises(UserError, match=named) as caught:
        trainer.train()
    assert "\n" not in str(caught.value)


def test_a_set_without_its_task_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="prediction data must be given by task"):
        tasks_trainer(tmp_path).predict(task_rows("five", 2))
