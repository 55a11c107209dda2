"""Several tasks on the states of one frozen encoder, and heads that start from probes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import set_seed

from hf_layerfusion import CerbertusConfig, CerbertusForMultitask
from hf_layerfusion.errors import UserError
from hf_layerfusion.evaluation import linear_probe
from hf_layerfusion.evaluation.linear_probe import fit_linear_probe
from hf_layerfusion.training.probe_start import check_probe_start
from hf_layerfusion.training.task_data import SWAPPED, TaskDataset
from hf_layerfusion.training.trainer import LayerFusionTrainer
from tests.tiny import tiny_config, tiny_tokenizer
from tests.training.small import small_arguments
from tests.training.test_multitask_model import TASKS, data

ALL_LAYERS = {"pooling": "concat", "token_pooling": "mean"}
FEATURES = {"head": "linear", "features": ["abs_difference", "product"], "sentence_vector": "cls"}
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def tasks_of(**changes: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The mood of a text, and pairs read in one sequence and apart, with a fuser for each."""
    near = {**TASKS["near"], **FEATURES}
    tasks = {name: {**task, "fusion": ALL_LAYERS} for name, task in {**TASKS, "near": near}.items()}
    return {name: {**task, **changes.get(name, {})} for name, task in tasks.items()}


def model_of(tasks: dict[str, dict[str, Any]] | None = None, **settings: Any) -> CerbertusForMultitask:
    set_seed(1)
    encoder = tiny_config("bert", 2, initializer_range=0.1)
    return CerbertusForMultitask(
        CerbertusConfig(encoder_config=encoder.to_dict(), tasks=tasks or tasks_of(), **settings)
    )


def trainer_of(folder: Path, model: Any, cache: Path | None = None, **changes: Any) -> LayerFusionTrainer:
    settings: dict[str, Any] = {
        "cache_frozen_states": None if cache is None else str(cache),
        "freeze_encoder": "head_first_epochs" not in changes,
        "optim": "sgd",
        "learning_rate": 0.05,
        "task_mixing": "together",
    }
    return LayerFusionTrainer(
        model,
        small_arguments(folder, **(settings | changes)),
        train_dataset=data(24, 0),
        eval_dataset=data(8, 1),
        processing_class=tiny_tokenizer(),
    )


class TextCount:
    """Counts the texts that the encoder reads."""

    def __init__(self, model: Any) -> None:
        self.texts = 0
        encoder = model.model.encoders["shared"]
        encoder.register_forward_pre_hook(self.count, with_kwargs=True)

    def count(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self.texts += len(kwargs["input_ids"])


@pytest.mark.parametrize("mixing", ["together", "shuffled"])
def test_cached_states_end_in_the_weights_of_a_run_without_them(tmp_path: Path, mixing: str) -> None:
    tasks = tasks_of(mood={"fusion": {**ALL_LAYERS, "pooling": "mean"}})
    for name in ("same", "near"):
        tasks[name]["fusion"] = tasks["mood"]["fusion"]  # which needs no standardization
    settings = {"num_train_epochs": 2, "eval_strategy": "epoch", "task_mixing": mixing}
    plain = trainer_of(tmp_path / "plain", model_of(tasks), **settings)
    plain.train()
    cached = trainer_of(tmp_path / "cached", model_of(tasks), tmp_path / "states", **settings)
    read = TextCount(cached.model)
    cached.train()
    texts = {
        tuple(ids)
        for rows in (*data(24, 0).values(), *data(8, 1).values())
        for name in ("input_ids", SWAPPED + "input_ids")
        if name in rows.column_names and not (name.startswith(SWAPPED) and len(rows) == 8)
        for row in rows[name]
        for ids in (row if isinstance(row[0], list) else [row])
    }
    assert read.texts == len(texts)
    for name, expected in plain.model.state_dict().items():
        torch.testing.assert_close(cached.model.state_dict()[name], expected, rtol=0, atol=2e-5, msg=name)
    for first, second in zip(plain.state.log_history, cached.state.log_history, strict=True):
        for name in first.keys() & {"loss", "eval_loss", "eval_mood_loss", "eval_near_loss", "loss_same"}:
            assert second[name] == pytest.approx(first[name], abs=1e-4), name
    assert cached.state.total_flos > 0
    assert cached.evaluate()["eval_loss"] == pytest.approx(plain.evaluate()["eval_loss"], abs=1e-5)
    assert read.texts == len(texts)


def test_every_head_starts_from_a_probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_probe, "STRENGTHS", (10.0,))
    model = model_of()
    options = {"init_from_probe": True, "learning_rate": 0.0, "max_steps": 1}
    trainer_of(tmp_path / "run", model, tmp_path / "states", **options).train()
    model.eval()
    kinds = {
        "mood": "single_label_classification",
        "same": "single_label_classification",
        "near": "regression",
    }
    for task, rows in data(24, 0).items():
        vectors: list[torch.Tensor] = []
        last = model.heads[task].head.classifier.out_proj
        handle = last.register_forward_pre_hook(lambda module, args, kept=vectors: kept.append(args[0]))
        with torch.no_grad():
            logits = torch.cat(
                [
                    model(task=task, **{name: _padded(row[name]) for name in INPUTS if name in row}).logits
                    for row in rows
                ]
            )
        handle.remove()
        features = torch.cat(vectors).numpy()
        probe = fit_linear_probe(features, rows["labels"], kinds[task])  # type: ignore[arg-type]
        found, expected = logits.numpy(), probe.outputs(features)
        if task != "near":  # a constant added to the logits of all classes changes nothing
            found = found - found.mean(axis=1, keepdims=True)
            expected = expected - expected.mean(axis=1, keepdims=True)
        np.testing.assert_allclose(found, expected, atol=2e-2)


def _padded(values: list[Any]) -> torch.Tensor:
    if not isinstance(values[0], list):
        return torch.tensor([values])
    length = max(map(len, values))
    return torch.tensor([[each + [0] * (length - len(each)) for each in values]])


@pytest.mark.parametrize("task", TASKS)
def test_the_layers_of_every_task_are_standardized(tmp_path: Path, task: str) -> None:
    model = model_of()
    trainer_of(tmp_path / "run", model, tmp_path / "states", learning_rate=0.0, max_steps=1).train()
    fuser = model.heads[task].readers["shared"].fuser
    seen: list[torch.Tensor] = []
    fuser.register_forward_pre_hook(lambda module, args: seen.append(module.vectors(*args)))
    rows = data(24, 0)[task]
    with torch.no_grad():
        model.eval()
        for row in rows:
            model(task=task, **{name: _padded(row[name]) for name in INPUTS if name in row})
    vectors = torch.cat(seen)
    torch.testing.assert_close(fuser.mean, vectors.mean(0), rtol=0, atol=1e-5)


def test_heads_are_trained_first(tmp_path: Path) -> None:
    model = model_of()
    options = {"init_from_probe": True, "num_train_epochs": 1, "learning_rate": 1e-3}
    trainer = trainer_of(tmp_path / "run", model, head_first_epochs=1, weight_interpolation=0.5, **options)
    before = model.model.encoders["shared"].encoder.layer[0].output.dense.weight.detach().clone()
    trainer.train()
    after = model.model.encoders["shared"].encoder.layer[0].output.dense.weight
    assert not torch.equal(before, after)
    assert not torch.equal(model.heads["near"].readers["shared"].fuser.scale, torch.ones(2, 32))
    assert not (tmp_path / "run" / "head-first-states").exists()
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_heads_are_trained_first_where_a_task_is_only_evaluated(tmp_path: Path) -> None:
    model = model_of()
    trainer = LayerFusionTrainer(
        model,
        small_arguments(tmp_path / "run", head_first_epochs=1, max_steps=1, eval_strategy="no"),
        train_dataset={"mood": data(24, 0)["mood"]},
        eval_dataset=data(8, 1),
        processing_class=tiny_tokenizer(),
    )
    trainer.train()


def test_pairs_in_both_orders() -> None:
    rows = data(6, 0)["same"]
    for given in (rows, list(rows)):
        one, other = TaskDataset("same", given, "training").in_both_orders()
        for place in range(6):
            assert list(one[place]["input_ids"]) == rows[place]["input_ids"]
            assert list(other[place]["input_ids"]) == rows[place][SWAPPED + "input_ids"]
    assert TaskDataset(
        "mood", rows.remove_columns([c for c in rows.column_names if SWAPPED in c]), "training"
    )


@pytest.mark.parametrize(
    ("tasks", "settings", "options", "message"),
    [
        (
            None,
            {"num_task_layers": 1},
            {"cache_frozen_states": "states"},
            "one encoder that all tasks share, found encoders=shared with num_task_layers=1",
        ),
        (
            None,
            {"encoders": ["shared", "frozen"]},
            {"cache_frozen_states": "states"},
            "set encoders=shared and num_task_layers=0",
        ),
        (
            tasks_of(near={"head": "cosine", "features": []}),
            {},
            {"cache_frozen_states": "states", "init_from_probe": True},
            "task 'near': init_from_probe needs a head that ends in one dense layer .*found head='cosine'",
        ),
        (
            None,
            {"num_task_layers": 1},
            {"head_first_epochs": 1},
            "head_first_epochs needs one encoder that all",
        ),
        (
            None,
            {"encoders": ["frozen"]},
            {"head_first_epochs": 1},
            "head_first_epochs is followed by training of the encoder, found all its weights frozen",
        ),
        (
            None,
            {},
            {"gradient_surgery": "pcgrad"},
            "gradient_surgery=pcgrad needs parameters that tasks share, found freeze_encoder=True",
        ),
    ],
)
def test_what_several_tasks_exclude(
    tmp_path: Path, tasks: Any, settings: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    if "cache_frozen_states" in options:
        options["cache_frozen_states"] = str(tmp_path / "states")
    with pytest.raises(UserError, match=message):
        trainer_of(tmp_path / "run", model_of(tasks, **settings), **options)


def test_labels_that_no_probe_is_fitted_to_are_refused_before_texts_are_encoded(tmp_path: Path) -> None:
    options = {
        "cache_frozen_states": str(tmp_path / "states"),
        "freeze_encoder": True,
        "init_from_probe": True,
    }
    rows = data(24, 0)
    for task, labels, message in (
        ("mood", [1] * len(rows["mood"]), "task 'mood': init_from_probe: targets must have two classes"),
        ("near", [2.5] * len(rows["near"]), "task 'near': init_from_probe: targets must differ, found 2.5"),
    ):
        same = {**rows, task: rows[task].remove_columns("labels").add_column("labels", labels)}
        with pytest.raises(UserError, match=message):
            LayerFusionTrainer(
                model_of(),
                small_arguments(tmp_path / "run", **options),
                train_dataset=same,
                processing_class=tiny_tokenizer(),
            )
    assert not (tmp_path / "states").exists()
    several = model_of(
        tasks_of(mood={"problem_type": "multi_label_classification", "loss": "binary_cross_entropy"})
    )
    with pytest.raises(
        UserError,
        match=r"task 'mood': init_from_probe, .* needs one class or value a text",
    ):
        check_probe_start(several, ["mood"])


def test_a_cosine_head_that_is_not_trained_needs_no_probe(tmp_path: Path) -> None:
    trainer = LayerFusionTrainer(
        model_of(tasks_of(near={"head": "cosine", "features": []})),
        small_arguments(
            tmp_path / "run",
            cache_frozen_states=str(tmp_path / "states"),
            freeze_encoder=True,
            init_from_probe=True,
            max_steps=1,
        ),
        train_dataset={task: rows for task, rows in data(24, 0).items() if task != "near"},
        eval_dataset=data(8, 1),
        processing_class=tiny_tokenizer(),
    )
    trainer.train()


def test_a_trained_head_keeps_the_standardisation_that_it_was_trained_with(tmp_path: Path) -> None:
    model = model_of()
    trainer_of(tmp_path / "first", model, tmp_path / "states", learning_rate=0.0, max_steps=1).train()
    fuser = model.heads["mood"].readers["shared"].fuser
    mean, scale = fuser.mean.clone(), fuser.scale.clone()
    again = LayerFusionTrainer(
        model,
        small_arguments(
            tmp_path / "again", cache_frozen_states=str(tmp_path / "states"), freeze_encoder=True, max_steps=1
        ),
        train_dataset=data(12, 5),
        eval_dataset=data(8, 1),
        processing_class=tiny_tokenizer(),
    )
    again.train()
    assert torch.equal(fuser.mean, mean) and torch.equal(fuser.scale, scale)


def test_operations_are_counted_alike_whatever_is_mixed(tmp_path: Path) -> None:
    counts = []
    for mixing in ("together", "shuffled"):
        trainer = trainer_of(
            tmp_path / mixing,
            model_of(),
            tmp_path / "states",
            task_mixing=mixing,
            num_train_epochs=1,
            per_device_train_batch_size=24,
        )
        trainer.train_dataset.tasks["mood"].rows = trainer.train_dataset.tasks["mood"].rows.select(range(24))
        trainer.train()
        counts.append(trainer.state.total_flos)
    assert counts[0] == counts[1] > 0
