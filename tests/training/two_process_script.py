"""What each process runs in test_two_processes.py; writes what it ended with to a file of its own."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

import datasets
import torch
from transformers import TrainerCallback

from hf_layerfusion.errors import UserError
from hf_layerfusion.training.task_data import REPEATED
from tests.modeling.cases import build
from tests.training.evaluated import CASES as EVALUATIONS
from tests.training.evaluated import evaluate
from tests.training.sharded import train_sharded
from tests.training.small import InfiniteLoss, rows, small_model, small_trainer, weights_digest
from tests.training.small_tasks import small_tasks_model, tasks_trainer
from tests.training.small_texts import texts_trainer
from tests.training.test_distillation import taught

ROWS = 21  # two processes of 4: the third and last round holds 5 rows, 4 and 1
WHOLE_BATCH: dict[str, Any] = {
    # plain SGD: Adam makes much of a rounding error where a gradient is nearly zero
    "optim": "sgd",
    "learning_rate": 0.1,
    "num_train_epochs": 3,
    "train_sampling_strategy": "group_by_length",
}
SAVED: dict[str, Any] = WHOLE_BATCH | {"save_strategy": "steps", "save_steps": 4}
INTERRUPTED: dict[str, Any] = {
    "num_train_epochs": 3,
    "per_device_train_batch_size": 4,
    "save_strategy": "steps",
    "save_steps": 2,
    "eval_strategy": "epoch",
    "train_sampling_strategy": "group_by_length",
}
# 26, 13 and 7 rows by 8: batches of 2, 5 and 7 rows at the end, shared by two processes and two micro-batches
TASK_MIXINGS = ("shuffled", "together_longest")
INTERRUPTED_TASKS: dict[str, Any] = INTERRUPTED | {
    "num_train_epochs": 2,
    "task_mixing": "annealed",
    "class_balance": "sampling",
    "save_steps": 4,
}
# Averages of the weights, and a teacher's predictions, of rows without a label among them
METHODS: dict[str, dict[str, Any]] = {
    "ema": {"ema_decay": 0.7, "eval_strategy": "epoch"},
    "last": {"average_last": 0.5, "eval_strategy": "epoch"},
    "interpolation": {"weight_interpolation": 0.7, "eval_strategy": "epoch"},
    "teacher": {"distillation_weight": 0.5},
}
STREAMED: dict[str, Any] = {"optim": "sgd", "learning_rate": 0.1, "num_train_epochs": 3}
SHARDS: dict[str, Any] = {"optim": "sgd", "learning_rate": 0.1, "max_steps": 5}  # 3 steps are a pass
INTERRUPTED_TEXTS: dict[str, Any] = {
    "num_train_epochs": 2,
    "per_device_train_batch_size": 4,
    "save_strategy": "steps",
    "save_steps": 2,
}


class Killed(Exception):
    pass


class KillAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise Killed


def main(folder: Path) -> None:
    found: dict[str, Any] = {}
    for accumulation in (1, 2):
        trainer = small_trainer(
            folder / f"whole-{accumulation}",
            train=rows(ROWS),
            per_device_train_batch_size=4 // accumulation,
            gradient_accumulation_steps=accumulation,
            **SAVED,
        )
        trainer.train()
        found[f"weights-{accumulation}"] = {k: v.clone() for k, v in trainer.model.state_dict().items()}
        found[f"losses-{accumulation}"] = [x["loss"] for x in trainer.state.log_history if "loss" in x]
    found["world_size"] = trainer.args.world_size

    straight = small_trainer(folder / "straight", small_model(0.1), rows(ROWS), **INTERRUPTED)
    found["seen"] = seen = []
    collate = straight.data_collator
    straight.data_collator = lambda batch: (
        seen.append([tuple(r["input_ids"]) for r in batch]) or collate(batch)
    )
    straight.eval_dataset = None
    straight.args.eval_strategy = "no"
    straight.train()
    found["straight"] = weights_digest(straight.model)

    killed = small_trainer(
        folder / "killed", small_model(0.1), rows(ROWS), callbacks=[KillAt(6)], **INTERRUPTED
    )
    with contextlib.suppress(Killed):
        killed.train()
    trainer.accelerator.wait_for_everyone()
    (folder / "killed" / "checkpoint-6").mkdir(exist_ok=True)
    trainer.accelerator.wait_for_everyone()
    resumed = small_trainer(folder / "killed", small_model(0.1), rows(ROWS), **INTERRUPTED)
    resumed.train(resume_from_checkpoint=True)
    found["resumed_from"] = resumed._initial_global_step
    found["resumed"] = weights_digest(resumed.model)

    several_tasks(folder, found)
    skipped_steps(folder, found)
    frozen_states(folder, found)
    methods(folder, found)
    streamed_texts(folder, found)
    found["evaluations"] = {name: evaluate(folder / "evaluations", name) for name in EVALUATIONS}
    shards(folder, found)
    resume_of_one_process(folder, found)
    train_sharded(folder, found)
    torch.save(found, folder / f"found-{resumed.args.process_index}.pt")
    resumed.end()


def several_tasks(folder: Path, found: dict[str, Any]) -> None:
    for mixing in TASK_MIXINGS:
        trainer = tasks_trainer(
            folder / mixing,
            task_mixing=mixing,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            **WHOLE_BATCH,
        )
        trainer.train()
        found[mixing] = {k: v.clone() for k, v in trainer.model.state_dict().items()}
        found[f"{mixing}-log"] = [x for x in trainer.state.log_history if "loss" in x]

    straight = tasks_trainer(folder / "straight-tasks", small_tasks_model(0.1), **INTERRUPTED_TASKS)
    found["tasks"] = tasks = []
    collate = straight.data_collator
    straight.data_collator = lambda batch: tasks.append(batch[0]["task"]) or collate(batch)
    straight.eval_dataset = None
    straight.args.eval_strategy = "no"
    straight.train()
    found["straight-tasks"] = weights_digest(straight.model)

    killed = tasks_trainer(
        folder / "killed-tasks", small_tasks_model(0.1), callbacks=[KillAt(13)], **INTERRUPTED_TASKS
    )
    with contextlib.suppress(Killed):
        killed.train()
    resumed = tasks_trainer(folder / "killed-tasks", small_tasks_model(0.1), **INTERRUPTED_TASKS)
    resumed.train(resume_from_checkpoint=True)
    found["resumed-tasks"] = weights_digest(resumed.model)
    found["resumed-tasks-from"] = resumed._initial_global_step
    found["evaluated"] = resumed.evaluate()
    found["predicted"] = {
        task: output.predictions for task, output in resumed.predict(resumed.eval_dataset).items()
    }
    model = resumed.model.eval()
    with torch.no_grad():
        found["predicted alone"] = {
            task: [model(**resumed.data_collator([row])).logits[0].numpy() for row in dataset]
            for task, dataset in resumed.eval_dataset.items()
        }


def skipped_steps(folder: Path, found: dict[str, Any]) -> None:
    """In the second of three steps, one process alone has a loss that is not finite; its gradient is."""
    train = [row | {"labels": int(index == 8)} for index, row in enumerate(rows(24))]
    trainer = small_trainer(
        folder / "skipping",
        InfiniteLoss(small_model().config),
        train,
        per_device_train_batch_size=4,
        train_sampling_strategy="sequential",
        on_divergence="skip",
    )
    trainer.train()
    found["skipped"] = trainer.skipped_steps
    found["skipping"] = weights_digest(trainer.model)
    trainer.args.on_divergence = "stop"
    try:
        trainer.train()
    except UserError as error:
        found["stopped"] = str(error)


def frozen_states(folder: Path, found: dict[str, Any]) -> None:
    """Each process reads a part of the texts, and trains on the states of all."""
    for name, cache in {"frozen": None, "cached": str(folder / "states")}.items():
        torch.manual_seed(1)
        trainer = small_trainer(
            folder / name,
            build("share-gru"),
            rows(ROWS, 3),
            freeze_encoder=True,
            cache_frozen_states=cache,
            per_device_train_batch_size=4,
            **WHOLE_BATCH,
        )
        trainer.train()
        found[name] = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    found["shards"] = len(list((folder / "states").glob("*/*.states")))


def method_rows(name: str) -> list[dict[str, Any]]:
    return taught(ROWS, unlabelled=9) if name == "teacher" else rows(ROWS)


def methods(folder: Path, found: dict[str, Any]) -> None:
    for name, options in METHODS.items():
        options = SAVED | options | {"per_device_train_batch_size": 4}
        trainer = small_trainer(folder / name, train=method_rows(name), **options)
        trainer.train()
        found[name] = {k: v.clone() for k, v in trainer.model.state_dict().items()}
        found[f"{name}-evaluated"] = [x["eval_loss"] for x in trainer.state.log_history if "eval_loss" in x]
        if name == "ema":
            resumed = small_trainer(folder / name, train=method_rows(name), **options)
            resumed.train(resume_from_checkpoint=str(folder / name / "checkpoint-4"))
            found["ema-digests"] = [weights_digest(each.model) for each in (trainer, resumed)]


def streamed_texts(folder: Path, found: dict[str, Any]) -> None:
    trainer = texts_trainer(folder / "texts", per_device_train_batch_size=4, **STREAMED)
    trainer.evaluate()  # must not keep the processes from training one model
    trainer.train()
    found["texts"] = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    found["texts-evaluated"] = trainer.evaluate()["eval_loss"]

    killed = texts_trainer(folder / "killed-texts", callbacks=[KillAt(5)], **INTERRUPTED_TEXTS)
    with contextlib.suppress(Killed):
        killed.train()
    resumed = texts_trainer(folder / "killed-texts", **INTERRUPTED_TEXTS)
    resumed.train(resume_from_checkpoint=True)
    found["resumed-texts-from"] = resumed._initial_global_step
    found["resumed-texts"] = weights_digest(resumed.model)
    straight = texts_trainer(folder / "straight-texts", **INTERRUPTED_TEXTS)
    straight.train()
    found["straight-texts"] = weights_digest(straight.model)


def parquet_stream(folder: Path) -> datasets.IterableDataset:
    """21 rows in shards of unequal size, of which accelerate would hand two to each process."""
    files = sorted(map(str, folder.glob("*.parquet")))
    return datasets.load_dataset(
        "parquet", data_files=files, split="train", streaming=True, cache_dir=str(folder / "cache")
    )


def shards(folder: Path, found: dict[str, Any]) -> None:
    trainer = small_trainer(
        folder / "shards-run",
        train=parquet_stream(folder / "shards"),
        per_device_train_batch_size=2,
        per_device_eval_batch_size=4,
        gradient_accumulation_steps=2,
        **SHARDS,
    )
    found["rows of shards"] = seen = []
    weigh = trainer.loss_weighting.weigh

    def recording(batches: list[dict[str, Any]], *others: Any) -> None:
        seen.extend(
            tuple(row[:2].tolist())
            for batch in batches
            if not batch.get(REPEATED)
            for row in batch["input_ids"]
        )
        weigh(batches, *others)

    trainer.loss_weighting.weigh = recording
    trainer.train()
    found["shards-weights"] = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    found["shards-loss"] = trainer.evaluate(parquet_stream(folder / "shards"))["eval_loss"]
    try:
        small_trainer(
            folder / "x", train=parquet_stream(folder / "shards"), dataloader_num_workers=2, **SHARDS
        )
    except UserError as error:
        found["shards-refused"] = str(error)


def resume_of_one_process(folder: Path, found: dict[str, Any]) -> None:
    """Goes on with what test_two_processes.py trained before on one process, with the whole batch and with half."""
    for name, rows_of_a_device in {"same batch": 4, "other batch": 8}.items():
        trainer = small_trainer(
            folder / "resumed", train=rows(ROWS), per_device_train_batch_size=rows_of_a_device, **WHOLE_BATCH
        )
        try:
            trainer.train(resume_from_checkpoint=str(folder / "one" / "checkpoint-4"))
        except UserError as error:
            found[name] = str(error)
        else:
            found[name] = {k: v.clone() for k, v in trainer.model.state_dict().items()}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
