from __future__ import annotations

import json
import math
import resource
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BertForSequenceClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
)

from hf_layerfusion.errors import UserError
from hf_layerfusion.training.checkpoints import MANIFEST_NAME, newest_valid_checkpoint, verify_checkpoint
from hf_layerfusion.training.trainer import LayerFusionTrainer
from tests.tiny import tiny_tokenizer
from tests.training.small import rows, small_arguments, small_model, small_trainer, weights_digest


class Killed(Exception):
    """Stands in for a signal."""


class KillAt(TrainerCallback):
    """Ends the process, as it were, after so many steps."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise Killed


class Gradients(TrainerCallback):
    """Keeps the gradients of the first step, and how often each was seen."""

    def __init__(self) -> None:
        self.steps: list[dict[str, torch.Tensor]] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.steps.append({name: p.grad.clone() for name, p in kwargs["model"].named_parameters()})


def logged(trainer: Trainer, key: str) -> list[float]:
    return [entry[key] for entry in trainer.state.log_history if key in entry]


# Rates


def test_rates_are_logged_by_part(tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path, learning_rate=1e-5, fusion_learning_rate=1e-3, max_steps=2)
    trainer.train()
    assert logged(trainer, "learning_rate") == [1e-5, 1e-5]
    assert logged(trainer, "fusion_learning_rate") == [1e-3, 1e-3]


def test_each_layer_s_rate_is_logged_and_the_top_one_is_the_learning_rate(tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path, learning_rate=1e-3, layer_decay=0.5, max_steps=1)
    trainer.train()
    entry = trainer.state.log_history[0]
    assert entry["learning_rate"] == 1e-3
    assert entry["layer_0_learning_rate"] == 0.5e-3
    assert entry["embeddings_learning_rate"] == 0.25e-3
    assert "fusion_learning_rate" not in entry


class Moved(TrainerCallback):
    """The names of the weights that each epoch moves."""

    def __init__(self, model: BertForSequenceClassification) -> None:
        self.model = model
        self.epochs: list[set[str]] = []

    def on_epoch_begin(self, *args: Any, **kwargs: Any) -> None:
        self.before = {name: value.detach().clone() for name, value in self.model.named_parameters()}

    def on_epoch_end(self, *args: Any, **kwargs: Any) -> None:
        self.epochs.append(
            {
                name
                for name, value in self.model.named_parameters()
                if not torch.equal(value, self.before[name])
            }
        )


def test_gradual_unfreezing_moves_one_more_layer_each_epoch(tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path, unfreeze_per_epoch=1, num_train_epochs=4)
    model = trainer.model
    moved = Moved(model)
    trainer.add_callback(moved)
    trainer.train()

    def parts(names: set[str]) -> set[str]:
        known = ("embeddings", "layer.0.", "layer.1.", "pooler", "classifier")
        return {next(part for part in known if part in name) for name in names}

    top = {"layer.1.", "pooler", "classifier"}
    assert [parts(names) for names in moved.epochs] == [
        {"classifier"}, top, top | {"layer.0.", "embeddings"}, top | {"layer.0.", "embeddings"},
    ]  # fmt: skip
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_layers_frozen_for_an_epoch_are_trained_again_after_an_interruption(tmp_path: Path) -> None:
    class Interrupt(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            raise KeyboardInterrupt

    trainer = small_trainer(tmp_path, unfreeze_per_epoch=1, callbacks=[Interrupt()])
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert all(parameter.requires_grad for parameter in trainer.model.parameters())


def test_one_rate_is_logged_once(tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path, max_steps=1)
    trainer.train()
    assert logged(trainer, "fusion_learning_rate") == []


def test_a_rate_of_zero_holds_the_encoder_still(tmp_path: Path) -> None:
    model = small_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    small_trainer(tmp_path, model, learning_rate=0.0, fusion_learning_rate=1e-2, max_steps=2).train()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"classifier.weight", "classifier.bias"}


@pytest.mark.parametrize(("accumulation", "steps_per_epoch"), [(1, 4), (2, 2), (3, 2)])
def test_epoch_decay_multiplies_every_rate(tmp_path: Path, accumulation: int, steps_per_epoch: int) -> None:
    trainer = small_trainer(
        tmp_path,
        learning_rate=1e-4,
        fusion_learning_rate=1e-3,
        epoch_decay=0.5,
        gradient_accumulation_steps=accumulation,
        num_train_epochs=3,
    )
    trainer.train()
    factors = [0.5**epoch for epoch in range(3) for _ in range(steps_per_epoch)]
    assert logged(trainer, "learning_rate") == pytest.approx([1e-4 * factor for factor in factors])
    assert logged(trainer, "fusion_learning_rate") == pytest.approx([1e-3 * factor for factor in factors])


def test_epoch_decay_with_max_steps(tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path, learning_rate=1e-4, epoch_decay=0.5, max_steps=6)
    trainer.train()
    assert logged(trainer, "learning_rate") == pytest.approx([1e-4] * 4 + [5e-5] * 2)


def test_a_stream_has_no_epochs_to_decay_by(tmp_path: Path) -> None:
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self) -> Any:
            return iter(rows(32))

    with pytest.raises(UserError, match="epoch_decay"):
        small_trainer(tmp_path, train=Stream(), epoch_decay=0.5, max_steps=2)


def test_an_optimizer_with_groups_of_its_own_excludes_the_fusion_rate(tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path, fusion_learning_rate=1e-3)
    trainer.optimizer_cls_and_kwargs = (
        torch.optim.SGD,
        {"params": list(trainer.model.parameters()), "lr": 1.0},
    )
    with pytest.raises(UserError, match="fusion_learning_rate"):
        trainer.create_optimizer()


def test_an_optimizer_class_given_takes_the_groups(tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path, fusion_learning_rate=1e-2)
    trainer.optimizer_cls_and_kwargs = (torch.optim.SGD, {"lr": 0.1})
    assert [group["lr"] for group in trainer.create_optimizer().param_groups] == [1e-3, 1e-3, 1e-2, 1e-2]


# Gradients


def regression_rows(count: int) -> list[dict[str, Any]]:
    return [row | {"labels": float(index % 5)} for index, row in enumerate(rows(count))]


def multi_label_rows(count: int) -> list[dict[str, Any]]:
    return [
        row | {"labels": [float(index % 2), float(index % 3 == 0), 1.0]}
        for index, row in enumerate(rows(count))
    ]


def partly_labelled_rows(count: int) -> list[dict[str, Any]]:
    return [row | {"labels": row["labels"] if index % 3 else -100} for index, row in enumerate(rows(count))]


@pytest.mark.parametrize(
    ("examples", "num_labels"),
    [(rows, 2), (regression_rows, 1), (multi_label_rows, 3), (partly_labelled_rows, 2)],
)
def test_accumulated_gradients_are_those_of_the_undivided_batch(
    tmp_path: Path, examples: Any, num_labels: int
) -> None:
    # 13 rows: batches of 8 and 5, or micro-batches of 2, 2, 2, 2 and 2, 2, 1.
    train = examples(13)
    found = []
    for size, accumulation in ((8, 1), (2, 4)):
        gradients = Gradients()
        trainer = small_trainer(
            tmp_path,
            small_model(num_labels=num_labels),
            train,
            [gradients],
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulation,
            train_sampling_strategy="sequential",
            max_grad_norm=0.0,
        )
        trainer.train()
        found.append((gradients.steps, logged(trainer, "loss")))
    (whole, whole_losses), (divided, divided_losses) = found
    assert len(whole) == len(divided) == 2
    for expected, got in zip(whole, divided, strict=True):
        for name in expected:
            torch.testing.assert_close(got[name], expected[name], rtol=0, atol=1e-6)
    assert divided_losses == pytest.approx(whole_losses, abs=1e-6)


def test_the_gradient_is_that_of_the_mean_over_the_batch(tmp_path: Path) -> None:
    gradients = Gradients()
    train = rows(8)
    trainer = small_trainer(
        tmp_path,
        train=train,
        callbacks=[gradients],
        per_device_train_batch_size=2,
        gradient_accumulation_steps=4,
    )
    trainer.train()
    model = small_model().double()
    batch = trainer.data_collator([dict(row) for row in train])
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    torch.nn.functional.cross_entropy(logits, batch["labels"]).backward()
    # the stock Trainer clips to norm 1 before the callback sees the gradients
    norm = torch.sqrt(sum((p.grad**2).sum() for p in model.parameters())).item()
    for name, parameter in model.named_parameters():
        expected = parameter.grad * min(1.0, 1.0 / norm)
        torch.testing.assert_close(gradients.steps[0][name].double(), expected, rtol=0, atol=1e-6)


def test_evaluation_loss_is_the_mean_over_rows(tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path, per_device_eval_batch_size=8)
    batch = trainer.data_collator([dict(row) for row in trainer.eval_dataset])
    with torch.no_grad():
        expected = trainer.model(**batch).loss.item()
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, abs=1e-6)


def test_a_loss_function_of_the_user_keeps_its_meaning(tmp_path: Path) -> None:
    seen = []

    def loss_function(outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor) -> torch.Tensor:
        seen.append(int(num_items_in_batch))
        total = torch.nn.functional.cross_entropy(outputs.logits, labels, reduction="sum")
        return total / num_items_in_batch

    trainer = small_trainer(
        tmp_path, train=rows(8), per_device_train_batch_size=2, gradient_accumulation_steps=4
    )
    trainer.compute_loss_func = loss_function
    trainer.train()
    assert seen == [8] * 4
    plain = small_trainer(tmp_path, train=rows(8))
    plain.train()
    assert logged(trainer, "loss") == pytest.approx(logged(plain, "loss"), abs=1e-6)


def test_class_weights_have_no_place_in_a_loss_function_of_the_user(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"class_balance=weights .* excludes compute_loss_func"):
        LayerFusionTrainer(
            small_model(),
            small_arguments(tmp_path, class_balance="weights"),
            train_dataset=rows(8),
            compute_loss_func=lambda outputs, labels, num_items_in_batch: outputs.logits.sum(),
        )


def test_bf16_on_the_cpu(tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path, train=rows(8), bf16=True, num_train_epochs=30, learning_rate=3e-3)
    trainer.train()
    losses = logged(trainer, "loss")
    assert losses[-1] < 0.5 * losses[0]
    assert all(parameter.dtype == torch.float32 for parameter in trainer.model.parameters())


# Checkpoints


RESUMABLE: dict[str, Any] = {
    "num_train_epochs": 4,
    "save_strategy": "steps",
    "save_steps": 3,
    "eval_strategy": "epoch",
    "epoch_decay": 0.9,
    "fusion_learning_rate": 3e-3,
    "train_sampling_strategy": "group_by_length",
}


@pytest.mark.parametrize(
    ("killed_at", "changes"),
    [
        (5, {}),  # resumes in the middle of the first epoch
        (11, {}),  # of the third
        (9, {"save_steps": 4, "train_sampling_strategy": "random"}),  # at the end of the second
        (7, {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4}),
    ],
)
def test_a_resumed_run_ends_in_the_same_weights(
    tmp_path: Path, killed_at: int, changes: dict[str, Any]
) -> None:
    settings = RESUMABLE | changes
    straight = small_trainer(tmp_path / "straight", small_model(0.1), **settings)
    straight.train()
    with pytest.raises(Killed):
        small_trainer(
            tmp_path / "killed", small_model(0.1), callbacks=[KillAt(killed_at)], **settings
        ).train()
    # what a kill within the next save leaves
    partial = tmp_path / "killed" / "checkpoint-1000"
    shutil.copytree(next((tmp_path / "killed").glob("checkpoint-*")), partial)
    (partial / MANIFEST_NAME).unlink()
    torch.manual_seed(99)
    resumed = small_trainer(tmp_path / "killed", small_model(0.1), **settings)
    torch.rand(7)  # the state of the generators at this point must not matter
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == straight.state.global_step == 16
    assert weights_digest(resumed.model) == weights_digest(straight.model)
    assert weights_digest(resumed.model) != weights_digest(small_model(0.1))


def test_a_damaged_checkpoint_is_passed_over_or_refused(tmp_path: Path) -> None:
    settings = {"num_train_epochs": 2, "save_strategy": "steps", "save_steps": 2}
    straight = small_trainer(tmp_path, small_model(0.1), **settings)
    straight.train()
    last = tmp_path / "checkpoint-8"
    (last / "optimizer.pt").unlink()
    resumed = small_trainer(tmp_path, small_model(0.1), **settings)
    with pytest.raises(UserError, match=r"optimizer\.pt is missing"):
        resumed.train(resume_from_checkpoint=str(last))
    resumed.train(resume_from_checkpoint=True)
    assert resumed._initial_global_step == 6
    assert weights_digest(resumed.model) == weights_digest(straight.model)
    verify_checkpoint(last)


def test_nothing_to_resume_from(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"must hold a checkpoint .* found none"):
        small_trainer(tmp_path).train(resume_from_checkpoint=True)


def test_a_checkpoint_without_the_optimizer_s_state_is_refused_for_resuming(tmp_path: Path) -> None:
    settings = {"save_strategy": "steps", "save_steps": 2, "save_only_model": True}
    small_trainer(tmp_path, **settings).train()
    for resume in (True, str(tmp_path / "checkpoint-2")):
        again = small_trainer(tmp_path, **settings)
        with pytest.raises(UserError, match=r"the optimizer's? .*state|save_only_model"):
            again.train(resume_from_checkpoint=resume)
        assert weights_digest(again.model) == weights_digest(small_model())


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    settings = {"save_strategy": "steps", "save_steps": 1, "max_steps": 2}
    small_trainer(tmp_path, **settings).train()
    other = small_model()
    other.fuser = torch.nn.Linear(2, 2)
    with pytest.raises(
        UserError, match=r"does not fit BertForSequenceClassification: 2 weights are missing, such as .*fuser"
    ):
        small_trainer(tmp_path, other, **settings).train(resume_from_checkpoint=True)


def test_old_checkpoints_are_rotated_and_the_rest_is_intact(tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path, save_strategy="steps", save_steps=1, save_total_limit=2)
    trainer.train()
    kept = sorted(tmp_path.glob("checkpoint-*"))
    assert [folder.name for folder in kept] == ["checkpoint-3", "checkpoint-4"]
    for folder in kept:
        verify_checkpoint(folder)
        saved = torch.load(folder / "training_args.bin", weights_only=False)
        assert (
            saved.save_total_limit
            == json.loads((folder / "training_args.json").read_text())["save_total_limit"]
            == 2
        )


def test_a_saved_tokenizer_does_not_depend_on_its_last_call(tmp_path: Path) -> None:
    """Which call was last depends on whether the encoded data came out of a cache."""
    saved = []
    for name, options in (("a", {}), ("b", {"truncation": True, "max_length": 3, "padding": "max_length"})):
        trainer = small_trainer(tmp_path / name)
        trainer.processing_class = tiny_tokenizer()
        trainer.processing_class(["a good day"], **options)
        trainer.save_model(str(tmp_path / name))
        saved.append((tmp_path / name / "tokenizer.json").read_bytes())
    assert saved[0] == saved[1]


def test_the_manifest_is_there_before_older_checkpoints_are_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rotate(*args: Any, **kwargs: Any) -> None:
        for folder in tmp_path.glob("checkpoint-*"):
            verify_checkpoint(folder)

    monkeypatch.setattr("hf_layerfusion.training.checkpoints.rotate", rotate)
    small_trainer(tmp_path, save_strategy="steps", save_steps=2, save_total_limit=1).train()
    assert len(list(tmp_path.glob("checkpoint-*"))) == 2


class FullDiskAt(TrainerCallback):
    """Files of more than 50 kB cannot be written once so many steps have been taken."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))


def test_a_full_disk_leaves_the_older_checkpoint(tmp_path: Path) -> None:
    settings = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 1}
    trainer = small_trainer(tmp_path, callbacks=[FullDiskAt(3)], **settings)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(UserError, match="checkpoint-3 could not be written"):
            trainer.train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert newest_valid_checkpoint(tmp_path) == tmp_path / "checkpoint-2"
    assert [folder.name for folder in tmp_path.glob("checkpoint-*")] == ["checkpoint-2"]


def test_the_token_is_nowhere_in_the_output(tmp_path: Path) -> None:
    trainer = small_trainer(
        tmp_path,
        hub_token="hf_SECRETSECRET",
        fusion_learning_rate=1e-3,
        save_strategy="epoch",
        num_train_epochs=1,
    )
    trainer.train()
    trainer.save_model()
    trainer.save_state()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert tmp_path / "training_args.bin" in files
    assert tmp_path / "checkpoint-4" / "training_args.bin" in files
    assert not [path for path in files if b"hf_SECRETSECRET" in path.read_bytes()]
    written = json.loads((tmp_path / "training_args.json").read_text())
    assert written["fusion_learning_rate"] == 1e-3
    assert trainer.args.hub_token == "hf_SECRETSECRET"


def test_a_model_from_an_old_checkpoint_keeps_its_layer_norms(tmp_path: Path) -> None:
    """Old BERT checkpoints say gamma and beta; saved so, a LayerNorm is left out when the best model is loaded."""
    import safetensors.torch

    model = small_model()
    model.save_pretrained(tmp_path / "old")
    state = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in model.state_dict().items()
    }
    safetensors.torch.save_file(state, tmp_path / "old" / "model.safetensors", metadata={"format": "pt"})
    model = BertForSequenceClassification.from_pretrained(tmp_path / "old")
    settings = {"save_strategy": "epoch", "num_train_epochs": 2}
    straight = small_trainer(tmp_path / "run", model, **settings)
    straight.train()
    again = small_trainer(
        tmp_path / "run", BertForSequenceClassification.from_pretrained(tmp_path / "old"), **settings
    )
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-4"))
    assert weights_digest(again.model) == weights_digest(straight.model)


# Early stopping

STOPPING: dict[str, Any] = {
    "num_train_epochs": 12,
    "learning_rate": 0.0,  # nothing ever improves on the first evaluation
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "load_best_model_at_end": True,
    "early_stopping_patience": 2,
}


def test_early_stopping(tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path, **STOPPING)
    trainer.train()
    assert trainer.state.epoch == 3
    assert trainer.state.best_global_step == 4


def test_a_resumed_run_counts_on(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        small_trainer(tmp_path, callbacks=[KillAt(9)], **STOPPING).train()
    resumed = small_trainer(tmp_path, **STOPPING)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.epoch == 3


def test_a_run_that_was_stopped_takes_no_further_step(tmp_path: Path) -> None:
    small_trainer(tmp_path, **STOPPING).train()
    resumed = small_trainer(tmp_path, **STOPPING)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 12
    patient = small_trainer(tmp_path, **(STOPPING | {"early_stopping_patience": 3}))
    patient.train(resume_from_checkpoint=True)
    assert patient.state.epoch == 4


def test_the_loss_of_a_subclass_is_divided_by_the_accumulation(tmp_path: Path) -> None:
    class Own(LayerFusionTrainer):
        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, *args: Any, **kwargs: Any
        ) -> Any:
            labels = inputs["labels"]
            outputs = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
            loss = torch.nn.functional.cross_entropy(outputs.logits, labels)
            return (loss, outputs) if return_outputs else loss

    logged = []
    for accumulation in (1, 4):
        trainer = Own(
            small_model(),
            small_arguments(
                tmp_path,
                per_device_train_batch_size=8 // accumulation,
                gradient_accumulation_steps=accumulation,
            ),
            train_dataset=rows(32),
            data_collator=DataCollatorWithPadding(tiny_tokenizer()),
        )
        trainer.train()
        logged.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    assert logged[0] == pytest.approx(logged[1], rel=1e-4)


def test_a_step_without_any_label_teaches_nothing_and_is_no_error(tmp_path: Path) -> None:
    data = rows(16)
    for row in data[8:]:
        row["labels"] = -100
    trainer = small_trainer(tmp_path, train=data, train_sampling_strategy="sequential", weight_decay=0.0)
    trainer.train()
    assert trainer.state.global_step == 2
    first = small_trainer(tmp_path / "first", train=data[:8], train_sampling_strategy="sequential")
    first.train()
    assert math.isfinite(trainer.state.log_history[-1]["train_loss"])


def test_smoothed_labels_of_a_regression_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"label_smoothing_factor=0\.1 smooths the labels of classes"):
        small_trainer(tmp_path, model=small_model(num_labels=1), label_smoothing_factor=0.1)


def test_a_model_without_a_configuration_is_taken(tmp_path: Path) -> None:
    LayerFusionTrainer(torch.nn.Linear(2, 2), small_arguments(tmp_path))
