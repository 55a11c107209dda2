"""A Trainer that trains several tasks."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel
from transformers.trainer_utils import seed_worker

from hf_layerfusion.errors import UserError
from hf_layerfusion.regularizers.task_outputs import ONE_TASK, task_inputs
from hf_layerfusion.training.class_balance import ClassWeights, class_labels
from hf_layerfusion.training.collators import TASKS
from hf_layerfusion.training.multitask_evaluation import MultitaskEvaluation
from hf_layerfusion.training.samplers import RowOrder
from hf_layerfusion.training.task_data import (
    LABELS,
    TASK,
    MultitaskBatchSampler,
    MultitaskDataset,
    TaskDataset,
)
from hf_layerfusion.training.task_mixing import TASK_MIXINGS
from hf_layerfusion.training.training_arguments import LayerFusionTrainingArguments


class MultitaskTraining(MultitaskEvaluation):
    """Takes training data by task, mixes them, weighs their losses and logs each."""

    def __init__(
        self,
        model: PreTrainedModel | nn.Module | None = None,
        args: LayerFusionTrainingArguments | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(model, args, **kwargs)
        self._loss_sums: dict[str, Tensor] = {}
        self._steps_of: Counter[str] = Counter()
        self._of_step: list[str] = []
        if self.is_multitask and self.train_dataset is not None:
            self._check_training()
            self.train_dataset = MultitaskDataset(self.train_dataset)
            self._check_labels(self.train_dataset.tasks, "training")
        self._classes = self._class_labels() if self.args.class_balance != "none" else {}
        weighted = self.args.class_balance == "weights"
        if weighted and self.compute_loss_func is not None:
            raise UserError(
                "class_balance=weights weighs the loss that the model computes itself and excludes compute_loss_func; "
                "leave one of them out"
            )
        self._class_weights = ClassWeights(self._classes if weighted else {})

    def _check_training(self) -> None:
        if self.compute_loss_func is not None:
            raise UserError(
                "compute_loss_func is of one task, found training data by task; leave it out: each task's loss is the "
                "model's"
            )
        if self.args.label_smoothing_factor:
            raise UserError(
                f"label_smoothing_factor={self.args.label_smoothing_factor} is of one task, found training data by "
                "task; leave it out: each task's loss is the model's"
            )
        if self.args.train_sampling_strategy == "batch_rebalance":
            raise UserError(
                "train_sampling_strategy=batch_rebalance is of one task, found training data by task; "
                "set random, sequential or group_by_length"
            )

    def _class_labels(self) -> dict[str, list[int]]:
        """The class of each training row, for each task that has classes."""
        if self.train_dataset is None:
            return {}
        if isinstance(self.train_dataset, MultitaskDataset):
            datasets = self.train_dataset.tasks
        else:
            datasets = {ONE_TASK: TaskDataset("one", self.train_dataset, "training")}
        classes = {}
        for task, dataset in datasets.items():
            column = next((name for name in (LABELS, "label") if name in dataset.columns), None)
            found = None if column is None else class_labels(dataset.column(column))
            if found is not None:
                classes[task] = found
        if not classes:
            raise UserError(
                f"class_balance={self.args.class_balance} needs a task whose labels are single whole numbers, found "
                "none; set class_balance=none"
            )
        return classes

    # The order of tasks and rows

    def get_train_dataloader(self) -> DataLoader:
        """The loader of `train_dataset`; of several tasks, mixed by `task_mixing`."""
        if not isinstance(self.train_dataset, MultitaskDataset):
            return super().get_train_dataloader()
        args = self.args
        loader = DataLoader(
            self.train_dataset,
            batch_sampler=self._task_batch_sampler(self.train_dataset),
            collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            persistent_workers=args.dataloader_persistent_workers,
            multiprocessing_context=args.dataloader_multiprocessing_context,
            prefetch_factor=args.dataloader_prefetch_factor,
            in_order=args.dataloader_in_order,
            worker_init_fn=partial(
                seed_worker, num_workers=args.dataloader_num_workers, rank=args.process_index
            ),
        )
        return self.accelerator.prepare(loader)

    def _task_batch_sampler(self, dataset: MultitaskDataset) -> MultitaskBatchSampler:
        args = self.args
        parts = args.gradient_accumulation_steps * args.world_size
        size = self._train_batch_size * parts
        grouped = args.train_sampling_strategy == "group_by_length"
        orders = {
            task: RowOrder(
                len(of_task),
                size,
                lengths=of_task.lengths(args.length_column_name) if grouped else None,
                classes=self._classes.get(task) if args.class_balance == "sampling" else None,
                shuffled=args.train_sampling_strategy != "sequential",
            )
            for task, of_task in dataset.tasks.items()
        }
        rows = {task: len(of_task) for task, of_task in dataset.tasks.items()}
        whole = math.floor if args.dataloader_drop_last else math.ceil
        batches = {task: whole(count / size) for task, count in rows.items()}
        if not all(batches.values()):
            task = min(batches, key=lambda task: batches[task])
            raise UserError(
                f"dataloader_drop_last needs a full batch of each task, {size} rows on all processes, found "
                f"{rows[task]} of task '{task}'; set dataloader_drop_last=False or a smaller batch"
            )
        mixing = TASK_MIXINGS[args.task_mixing](rows, batches, temperature=args.task_temperature)
        epochs = args.max_steps / len(mixing) if args.max_steps > 0 else args.num_train_epochs
        return MultitaskBatchSampler(
            mixing=replace(mixing, num_epochs=math.ceil(epochs)),
            orders=orders,
            swappable=frozenset(task for task, of_task in dataset.tasks.items() if of_task.is_swappable),
            parts=parts,
            drop_last=args.dataloader_drop_last,
            seed=args.seed if args.data_seed is None else args.data_seed,
            epoch=lambda: int(self.state.epoch or 0),
        )

    def num_examples(self, dataloader: DataLoader) -> int:
        """Rows that `dataloader` shows, on all processes; of training data, in an epoch."""
        batches = dataloader.batch_sampler
        batches = getattr(batches, "batch_sampler", batches)  # accelerate's share of a process
        if isinstance(batches, MultitaskBatchSampler):
            return batches.num_examples()
        return super().num_examples(dataloader)

    # Their losses

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor | int | None]:
        """As `WeighingTrainer.get_batch_samples`; counts the steps of each task."""
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self.is_multitask and batches:
            self._of_step = [*task_inputs(batches[0])]
            self._steps_of.update(self._of_step)
        return batches, num_items

    def _without_repeats(self, batch: Any) -> Any:
        # The batches of several tasks are shared out before accelerate could even them out.
        return batch if self.is_multitask else super()._without_repeats(batch)

    def step_losses(self, model: nn.Module, inputs: dict[str, Any]) -> tuple[dict[str, Tensor], Any]:
        """As `WeighingTrainer.step_losses`; in training, by `task_weights` and `task_loss`."""
        losses, outputs = super().step_losses(model, inputs)
        if not (self.is_multitask and model.training):
            return losses, outputs
        for task, loss in losses.items():
            self._loss_sums[task] = self._loss_sums.get(task, 0.0) + loss.detach()
        return self.weighed(losses), outputs

    def task_losses(self, model: nn.Module, inputs: dict[str, Any]) -> tuple[dict[str, Tensor], Any]:
        """The mean loss over the batch of each task, by `class_balance`, and the model's output. What a training
        method adds to a task's loss is added here."""
        if not self.is_multitask:
            losses, outputs = super().task_losses(model, inputs)
        else:
            outputs = model(**inputs)
            losses = dict(outputs["losses"]) if TASKS in inputs else {inputs[TASK]: outputs["loss"]}
        return (self.balanced(inputs, outputs, losses) if model.training else losses), outputs

    def balanced(self, inputs: dict[str, Any], outputs: Any, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """The losses of a batch's tasks, with the weights of `class_balance`."""
        batches = task_inputs(inputs)
        for task in losses.keys() & self._class_weights.weights.keys():
            logits = outputs["logits"][task] if TASKS in inputs else outputs["logits"]
            losses[task] = self._class_weights.weighed(task, losses[task], logits, batches[task][LABELS])
        return losses

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As the stock method; adds the mean loss of each task that was trained since the last entry."""
        if "learning_rate" in logs and self._loss_sums:
            for task in sorted(self._loss_sums):
                total = self.accelerator.reduce(self._loss_sums[task], reduction="mean")
                logs[f"loss_{task}"] = total.item() / self._steps_of[task]
            self.forget_losses()
        super().log(logs, start_time)

    def log_state(self) -> dict[str, Any]:
        """Return `LogKeepingTrainer.log_state` with the tasks' losses."""
        sums = {
            task: self.accelerator.reduce(self._loss_sums[task], reduction="mean").item()
            for task in sorted(self._loss_sums)
        }
        return super().log_state() | {"task_losses": sums, "task_steps": dict(self._steps_of)}

    def load_log_state(self, state: dict[str, Any]) -> None:
        """Take up what `log_state` returned."""
        super().load_log_state(state)
        device = self.args.device
        self._loss_sums = {
            task: torch.tensor(total, device=device) for task, total in state["task_losses"].items()
        }
        self._steps_of = Counter(state["task_steps"])

    def reset(self) -> None:
        """Keep nothing of a training before: a search trains one model after another."""
        self.forget_losses()

    def forget_losses(self) -> None:
        """Begin anew with what is logged of the tasks' losses."""
        self._loss_sums.clear()
        self._steps_of.clear()

    def keep_losses(self) -> Callable[[], None]:
        """Returns what takes back all that is added from now on to what the log will say of the tasks' losses."""
        sums, steps = dict(self._loss_sums), Counter(self._steps_of)

        def rollback() -> None:
            self._loss_sums, self._steps_of = sums, steps

        return rollback

    def diverged_tasks(self) -> list[str]:
        """The tasks whose loss was not finite since the last entry of the log; where all were, the task of a step that
        trains one."""
        diverged = [task for task, total in self._loss_sums.items() if not torch.isfinite(total)]
        return diverged or (self._of_step if len(self._of_step) == 1 else [])

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Of all the tasks of a batch."""
        return sum(super(MultitaskTraining, self).floating_point_ops(b) for b in task_inputs(inputs).values())

    def _track_num_input_tokens(self, inputs: Mapping[str, Any]) -> None:
        for batch in task_inputs(inputs).values():
            super()._track_num_input_tokens(batch)
