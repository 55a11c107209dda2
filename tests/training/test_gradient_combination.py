"""The Trainer's gradient is the rule's, whatever divides the step; conflicts are logged."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from hf_layerfusion.errors import UserError
from hf_layerfusion.training.samplers import seeded_generator
from tests.training.small import small_arguments, small_trainer
from tests.training.small_tasks import CLASSES, small_tasks_model, task_rows, tasks_trainer, train_sets

ONE_STEP: dict[str, Any] = {"task_mixing": "together", "max_steps": 1, "per_device_train_batch_size": 8}


ROWS_SEED = 57  # rows on which the gradients of the tasks point against each other


class Gradient(TrainerCallback):
    """The gradient `[P]` of the last step."""

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        parameters = kwargs["model"].parameters()
        self.value = torch.cat(
            [torch.zeros_like(p).view(-1) if p.grad is None else p.grad.view(-1) for p in parameters]
        )


def given_order(task: str) -> list[dict[str, Any]]:
    """Eight rows of a task whose pairs come in one order only."""
    made = task_rows(task, 8, ROWS_SEED)
    return [{name: value for name, value in row.items() if not name.startswith("swapped_")} for row in made]


def gradient_of(folder: Path, **changes: Any) -> torch.Tensor:
    found = Gradient()
    train = {task: given_order(task) for task in CLASSES}
    tasks_trainer(folder, train=train, callbacks=[found], max_grad_norm=0, **(ONE_STEP | changes)).train()
    return found.value


def by_definition(seed: int) -> torch.Tensor:
    """PCGrad (Yu et al. 2020, Algorithm 1) on flattened gradients in float64, over the shared encoder; each head keeps
    its own task's gradient. The order of the projections is drawn as the Trainer draws it."""
    model = small_tasks_model().double()
    collate = tasks_trainer(Path("."), train=train_sets(five=8, para=8, sim=8), **ONE_STEP).data_collator
    flat = []
    for task in CLASSES:
        batch = collate([{"task": task, **row} for row in given_order(task)])
        model.zero_grad()
        if batch["labels"].is_floating_point():
            batch["labels"] = batch["labels"].double()
        model(**batch).loss.backward()
        flat.append(
            torch.cat(
                [
                    torch.zeros_like(p).view(-1) if p.grad is None else p.grad.view(-1).clone()
                    for p in model.parameters()
                ]
            )
        )
    shared = torch.cat(
        [torch.full_like(p, not name.startswith("heads.")).view(-1) for name, p in model.named_parameters()]
    )
    own = [gradient * (1 - shared) for gradient in flat]
    flat = [gradient * shared for gradient in flat]
    generator = seeded_generator(seed, 0)
    projected = []
    for index, gradient in enumerate(flat):
        gradient = gradient.clone()
        for other in torch.randperm(len(flat), generator=generator).tolist():
            product = gradient @ flat[other]
            if other != index and product < 0:
                gradient -= product / flat[other].square().sum() * flat[other]
        projected.append(gradient)
    return torch.stack(projected).sum(dim=0) + torch.stack(own).sum(dim=0)


def test_sum_is_the_gradient_without_surgery(tmp_path: Path) -> None:
    plain = gradient_of(tmp_path / "plain")
    torch.testing.assert_close(
        gradient_of(tmp_path / "sum", gradient_surgery="sum"), plain, atol=1e-6, rtol=1e-4
    )
    mean = gradient_of(tmp_path / "mean", gradient_surgery="sum", task_loss="mean")
    torch.testing.assert_close(mean, plain / 3, atol=1e-6, rtol=1e-4)
    weighted = {"task_weights": {"five": 0.5, "sim": 2.0}}
    torch.testing.assert_close(
        gradient_of(tmp_path / "weighted", gradient_surgery="sum", **weighted),
        gradient_of(tmp_path / "plain-weighted", **weighted),
        atol=1e-6,
        rtol=1e-4,
    )


def test_pcgrad_is_that_of_the_definition_and_accumulation_changes_nothing(tmp_path: Path) -> None:
    whole = gradient_of(tmp_path / "whole", gradient_surgery="pcgrad", seed=42)
    plain = gradient_of(tmp_path / "plain", seed=42)
    assert not torch.allclose(whole, plain, atol=1e-3), (
        "the tasks must be in conflict for this test to say anything"
    )
    expected = by_definition(42)
    assert sorted_close(whole.double(), expected)
    parts = gradient_of(
        tmp_path / "parts",
        gradient_surgery="pcgrad",
        seed=42,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
    )
    torch.testing.assert_close(parts, whole, atol=1e-6, rtol=1e-4)


def sorted_close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return bool((found - expected).norm() <= 1e-4 * expected.norm())


def test_layers_that_are_unfrozen_later_take_part(tmp_path: Path) -> None:
    """In epoch 0 the heads alone are trained, which no two tasks share."""
    trainer = tasks_trainer(
        tmp_path,
        gradient_surgery="pcgrad",
        unfreeze_per_epoch=1,
        **(ONE_STEP | {"max_steps": 2, "train": train_sets(five=8, para=8, sim=8)}),
    )
    trainer.train()
    first, second = (
        entry["cosine_five_para"] for entry in trainer.state.log_history if "cosine_five_para" in entry
    )
    assert first == 0 != second


def test_conflicts_are_logged(tmp_path: Path) -> None:
    trainer = tasks_trainer(
        tmp_path, gradient_surgery="pcgrad", **(ONE_STEP | {"max_steps": 3, "logging_steps": 3})
    )
    trainer.train()
    (entry,) = [entry for entry in trainer.state.log_history if "learning_rate" in entry]
    pairs = ("five_para", "five_sim", "para_sim")
    assert all(-1 <= entry[f"cosine_{pair}"] <= 1 for pair in pairs)
    assert entry["conflict"] >= max(entry[f"conflict_{pair}"] for pair in pairs)


def test_what_excludes_surgery_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        UserError, match="needs a batch of each task in every step, found task_mixing=shuffled"
    ):
        small_arguments(tmp_path, gradient_surgery="pcgrad")
    with pytest.raises(UserError, match=r"gradient_surgery must be one of sum, pcgrad.*found 'nope'"):
        small_arguments(tmp_path, gradient_surgery="nope", task_mixing="together")
    monkeypatch.setitem(sys.modules, "torchjd.aggregation", None)
    with pytest.raises(
        UserError, match=r"needs MGDAWeighting of the package torchjd.*hf_layerfusion\[surgery\]"
    ):
        small_arguments(tmp_path, gradient_surgery="mgda", task_mixing="together")
    with pytest.raises(UserError, match="gradient_surgery, task_mixing must come with several tasks"):
        small_trainer(tmp_path, gradient_surgery="pcgrad", task_mixing="together")


def test_a_run_that_added_gradients_up_is_resumed_with_a_rule(tmp_path: Path) -> None:
    options = {"task_mixing": "together_longest", "save_strategy": "steps", "save_steps": 2}
    whole = tasks_trainer(tmp_path, **options)
    whole.train()
    resumed = tasks_trainer(tmp_path, gradient_surgery="pcgrad", **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert resumed.state.global_step == whole.state.global_step
