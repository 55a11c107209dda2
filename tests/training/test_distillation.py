from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from scipy.special import expit, log_softmax, softmax
from torch import Tensor

from hf_layerfusion.data.soft_labels import TEACHER_LOGITS, unlabelled_target
from hf_layerfusion.errors import UserError
from hf_layerfusion.training.distillation import distillation_loss, soft_loss
from hf_layerfusion.training.trainer import LayerFusionTrainer
from tests.modeling.cases import build
from tests.tiny import tiny_tokenizer
from tests.training.small import rows, small_arguments, small_model, small_trainer, weights_digest
from tests.training.small_tasks import tasks_trainer
from tests.training.test_frozen_state_cache import frozen_trainer

KINDS = ("single_label_classification", "multi_label_classification", "regression")
SINGLE, MULTI, REGRESSION = KINDS


def example(kind: str) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of a student and a teacher of five rows in float64, and labels, which rows 1 and 4 lack."""
    width = 1 if kind == REGRESSION else 3
    student, teacher = torch.randn(2, 5, width, dtype=torch.float64) * 2
    if kind == SINGLE:
        return student, teacher, torch.tensor([2, -100, 0, 1, -100])
    labels = torch.rand(5) if kind == REGRESSION else (torch.rand(5, width) > 0.5).float()
    labels[[1, 4]] = torch.nan
    return student, teacher, labels.double()


def expected_rows(kind: str, student: Any, teacher: Any, labels: Any, temperature: float) -> Any:
    """The two terms of each row, from their definitions."""
    student, teacher, labels = student.numpy(), teacher.numpy(), labels.numpy()
    soft, hard = np.zeros(5), np.zeros(5)
    for row in range(5):
        s, t, y = student[row], teacher[row], labels[row]
        if kind == SINGLE:
            p, q = softmax(s / temperature), softmax(t / temperature)
            soft[row] = temperature**2 * sum(q * np.log(q / p))
            hard[row] = 0 if y < 0 else -log_softmax(s)[y]
        elif kind == MULTI:
            p, q = expit(s / temperature), expit(t / temperature)
            soft[row] = -(temperature**2) * np.mean(q * np.log(p) + (1 - q) * np.log(1 - p))
            p = expit(s)
            hard[row] = 0 if np.isnan(y[0]) else -np.mean(y * np.log(p) + (1 - y) * np.log(1 - p))
        else:
            soft[row] = (s[0] - t[0]) ** 2
            hard[row] = 0 if np.isnan(y) else (s[0] - y) ** 2
    return soft, hard


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("weight", "temperature"), [(0.5, 1.0), (0.9, 4.0), (1.0, 2.0)])
def test_the_loss_is_its_definition(kind: str, weight: float, temperature: float) -> None:
    student, teacher, labels = example(kind)
    soft, hard = expected_rows(kind, student, teacher, labels, temperature)
    found = distillation_loss(student, teacher, labels, kind, weight, temperature)
    assert found.item() == pytest.approx(np.mean(weight * soft + (1 - weight) * hard), rel=1e-12)
    np.testing.assert_allclose(soft_loss(student, teacher, kind, temperature), soft, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_that_of_the_definition_and_finite_without_labels(kind: str) -> None:
    student, teacher, labels = example(kind)
    student.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda logits: distillation_loss(logits, teacher, labels, kind, 0.7, 3.0), (student,)
    )
    nothing = torch.full_like(labels, -100 if kind == SINGLE else torch.nan)
    alone = distillation_loss(student, teacher, nothing, kind, 0.7, 3.0)
    (gradient,) = torch.autograd.grad(alone, student)
    (soft,) = torch.autograd.grad(soft_loss(student, teacher, kind, 3.0).mean(), student)
    torch.testing.assert_close(gradient, 0.7 * soft, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("kind", [SINGLE, MULTI])
def test_a_high_temperature_keeps_the_size_of_the_gradient(kind: str) -> None:
    """Of the logits' difference, 1/C of it for classes with mean 0 (Hinton et al. 2015, section 2.1)."""
    student, teacher, _ = example(kind)
    student, teacher = (each - each.mean(-1, keepdim=True) for each in (student, teacher))
    student.requires_grad_()
    (gradient,) = torch.autograd.grad(soft_loss(student, teacher, kind, 1e4).sum(), student)
    share = 1 / 3 if kind == SINGLE else 1 / 4 / 3
    torch.testing.assert_close(gradient, share * (student - teacher).detach(), rtol=1e-3, atol=1e-4)


def test_a_teacher_that_is_the_student_adds_nothing() -> None:
    student, _, labels = example(SINGLE)
    assert soft_loss(student, student.clone(), SINGLE, 3.0).abs().max() == 0
    hard = distillation_loss(student, student.clone(), labels, SINGLE, 0.25)
    _, expected = expected_rows(SINGLE, student, student, labels, 1.0)
    assert hard.item() == pytest.approx(0.75 * expected.mean(), rel=1e-12)


# In the Trainer


def taught(count: int, num_labels: int = 2, unlabelled: int = 0, seed: int = 0) -> list[dict[str, Any]]:
    """Rows with a teacher's random logits; the last have no label."""
    generator = torch.Generator().manual_seed(seed + 100)
    found = rows(count, num_labels, seed)
    for place, row in enumerate(found):
        row[TEACHER_LOGITS] = torch.randn(num_labels, generator=generator).tolist()
        if place >= count - unlabelled:
            row["labels"] = unlabelled_target(SINGLE, num_labels)
    return found


def test_a_step_takes_the_loss_of_labelled_and_unlabelled_rows(tmp_path: Path) -> None:
    examples = taught(8, unlabelled=3)
    trainer = small_trainer(tmp_path, train=Dataset.from_list(examples), distillation_weight=0.8)
    logits = []
    with torch.no_grad():
        for row in examples:
            logits.append(small_model().eval()(input_ids=torch.tensor([row["input_ids"]])).logits[0])
    labels, teacher = (torch.tensor([row[name] for row in examples]) for name in ("labels", TEACHER_LOGITS))
    expected = distillation_loss(torch.stack(logits), teacher, labels, SINGLE, 0.8, 2.0)
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("regularizer", ["rdrop", "freelb"])
def test_regularizers_add_their_terms(tmp_path: Path, regularizer: str) -> None:
    logged = []
    for weight in (0.0, 1.0):
        trainer = small_trainer(
            tmp_path,
            small_model(dropout=0.3),
            taught(8, unlabelled=3),
            distillation_weight=0.8,
            regularizers={regularizer: {"weight": weight}},
        )
        torch.manual_seed(0)
        trainer.train()
        logged.append(trainer.state.log_history[0])
    assert logged[1]["loss"] - logged[0]["loss"] == pytest.approx(logged[1][regularizer], rel=1e-3)
    assert logged[1][regularizer] > 1e-5


@pytest.mark.parametrize("unlabelled", [0, 13])
def test_micro_batches_make_up_the_undivided_batch(tmp_path: Path, unlabelled: int) -> None:
    """Also those of rows without labels alone, and the small batch at the end."""
    found = []
    for size, steps in ((8, 1), (2, 4)):
        trainer = small_trainer(
            tmp_path,
            train=taught(29, unlabelled=unlabelled),
            distillation_weight=0.5,
            optim="sgd",
            train_sampling_strategy="sequential",
            per_device_train_batch_size=size,
            gradient_accumulation_steps=steps,
        )
        trainer.train()
        found.append(trainer.model.state_dict())
    for name, weights in found[0].items():
        torch.testing.assert_close(found[1][name], weights, rtol=1e-5, atol=1e-6)


def test_a_resumed_run_is_the_same_to_the_bit(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "distillation_weight": 0.5,
        "save_strategy": "steps",
        "save_steps": 3,
        "num_train_epochs": 2,
    }
    train = taught(32, unlabelled=8)
    whole, resumed = (small_trainer(tmp_path, small_model(0.1), train, **options) for _ in "ab")
    whole.train()
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert weights_digest(resumed.model) == weights_digest(whole.model)
    assert resumed.state.log_history[-1]["train_loss"] == whole.state.log_history[-1]["train_loss"]


def test_evaluation_is_of_the_labels(tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path, train=taught(32), distillation_weight=1.0)
    plain = small_trainer(tmp_path)
    assert trainer.evaluate()["eval_loss"] == plain.evaluate()["eval_loss"]
    trainer.eval_dataset = taught(8, seed=1)
    assert trainer.evaluate()["eval_loss"] == plain.evaluate()["eval_loss"]
    assert trainer.predict(taught(8, seed=1)).predictions.shape == (8, 2)


def test_a_frozen_encoder_s_states_serve_and_the_probe_reads_labelled_rows(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = build("concat-mean")
    train = taught(48, 3, unlabelled=12)
    settings = {"distillation_weight": 0.5, "init_from_probe": True, "learning_rate": 0.0, "max_steps": 1}
    trainer = frozen_trainer(tmp_path / "run", model, tmp_path / "states", train, **settings)
    trainer.train()
    torch.manual_seed(1)
    labelled = frozen_trainer(
        tmp_path / "other", build("concat-mean"), tmp_path / "states", train[:36], **settings
    )
    # The same standardization, which all rows enter.
    labelled.model.model.fuser.standardize = lambda mean, deviation: None
    labelled.model.model.fuser.load_state_dict(model.model.fuser.state_dict())
    labelled.train()
    torch.testing.assert_close(labelled.model.classifier.out_proj.weight, model.classifier.out_proj.weight)


def test_the_head_is_trained_first_by_the_teacher_too(tmp_path: Path) -> None:
    heads = []
    for weight in (None, 1.0):
        torch.manual_seed(1)
        trainer = LayerFusionTrainer(
            build("mean-cls"),
            small_arguments(tmp_path, head_first_epochs=1, learning_rate=0.01, distillation_weight=weight),
            train_dataset=taught(32, 3),
            processing_class=tiny_tokenizer(),
        )
        trainer.train()
        heads.append(trainer.model.classifier.out_proj.weight)
    assert not torch.equal(*heads)


@pytest.mark.parametrize(
    ("train", "named"),
    [
        (rows(8), "found no column teacher_logits among input_ids, attention_mask, labels; add it"),
        (Dataset.from_list(rows(8)), "found no column teacher_logits"),
        (taught(8, 3), r"must hold 2 numbers a row, the model's outputs, found 3"),
        (
            [*taught(8), *({**row, TEACHER_LOGITS: [0.0, float("nan")]} for row in rows(1))],
            "must be finite, found NaN or infinity in row 8",
        ),
    ],
)
def test_rows_that_no_teacher_has_seen_are_refused_at_once(tmp_path: Path, train: Any, named: str) -> None:
    with pytest.raises(UserError, match=named) as error:
        small_trainer(tmp_path, train=train, distillation_weight=0.5)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"distillation_temperature": 2.0, "distillation_weight": None}, "found no distillation_weight"),
        ({"distillation_weight": 0.0}, "distillation_weight must be above 0 and at most 1, found 0.0"),
        ({"distillation_weight": 1.5}, "at most 1, found 1.5"),
        ({"distillation_weight": float("nan")}, "found nan"),
        ({"distillation_temperature": 0.0}, "distillation_temperature must be above 0 and at most 100"),
        ({"distillation_temperature": float("inf")}, "found inf"),
    ],
)
def test_values_out_of_range_are_refused(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        small_trainer(tmp_path, train=taught(8), **({"distillation_weight": 0.5} | changes))


def test_other_losses_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="distillation_weight is for one task, found several"):
        tasks_trainer(tmp_path, distillation_weight=0.5)
    args = small_trainer(tmp_path, train=taught(8), distillation_weight=0.5).args
    with pytest.raises(UserError, match=r"distillation_weight .* excludes compute_loss_func"):
        LayerFusionTrainer(small_model(), args, train_dataset=taught(8), compute_loss_func=lambda *_: None)


def test_rows_without_a_column_of_labels_have_the_teacher_s_loss_alone(tmp_path: Path) -> None:
    examples = taught(8, unlabelled=8)
    bare = [{name: value for name, value in row.items() if name != "labels"} for row in examples]
    losses = []
    for name, train in (("none", examples), ("bare", bare)):
        trainer = small_trainer(
            tmp_path / name, train=Dataset.from_list(train), distillation_weight=0.4, max_steps=2
        )
        trainer.train()
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    assert losses[0] == losses[1] and losses[0][0] > 0


@pytest.mark.parametrize("as_list", [True, False])
@pytest.mark.parametrize(("label", "shown"), [(None, "None"), (1.0, "1.0"), (float("nan"), "nan")])
def test_classes_that_are_no_integers_are_refused_at_once(
    tmp_path: Path, label: Any, shown: str, as_list: bool
) -> None:
    train = taught(8)
    for row in train if isinstance(label, float) else train[3:4]:
        row["labels"] = label
    where = 0 if isinstance(label, float) else 3
    given = train if as_list else Dataset.from_list(train)
    with pytest.raises(
        UserError, match=rf"must be integers, -100 for a row without one, found {shown} in row {where}"
    ):
        small_trainer(tmp_path, train=given, distillation_weight=0.5)


@pytest.mark.parametrize("problem_type", [None, REGRESSION])
def test_a_regression_with_a_temperature_is_refused_before_training(
    tmp_path: Path, problem_type: str | None
) -> None:
    model = small_model(num_labels=1)
    model.config.problem_type = problem_type
    with pytest.raises(UserError, match=r"distillation_temperature=2 is of classes, found a regression"):
        small_trainer(
            tmp_path, model=model, train=taught(8, 1), distillation_weight=0.5, distillation_temperature=2.0
        )


@pytest.mark.parametrize(
    ("kind", "labels", "expected"),
    [
        (SINGLE, [1, 0, -100, 1], [1, 0, -100, 1]),
        (REGRESSION, [1.5, -100.0, float("nan"), 0.5], [1.5, -100.0, float("nan"), 0.5]),
        (MULTI, [[1.0, 0.0], [0.0, 1.0], [float("nan")] * 2, [1.0, 1.0]], None),
    ],
)
def test_raw_texts_without_a_label_are_written_as_documented(
    tmp_path: Path, kind: str, labels: Any, expected: Any
) -> None:
    width = 1 if kind == REGRESSION else 2
    texts = ["a good day", "a bad day", "an open day", "good"]
    logits = [[0.5] * width] * 4
    torch.manual_seed(0)
    model = build("mean-cls", num_labels=width, problem_type=kind)
    trainer = LayerFusionTrainer(
        model,
        small_arguments(tmp_path, distillation_weight=0.5),
        train_dataset=Dataset.from_dict({"text": texts, "labels": labels, TEACHER_LOGITS: logits}),
        processing_class=tiny_tokenizer(),
    )
    found = trainer.train_dataset["labels"][:]
    np.testing.assert_array_equal(np.array(found, float), np.array(expected or labels, float))
    trainer.train()
