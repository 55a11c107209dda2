"""Several tasks in one run: their data, order, losses, metrics and evaluation."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, replace
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase
from transformers.trainer_utils import IntervalStrategy
from transformers.utils import logging

from hf_layerfusion.errors import UserError
from hf_layerfusion.metric_registry import EVAL_PREFIX, greater_is_better
from hf_layerfusion.regularizers.task_outputs import task_inputs
from hf_layerfusion.training.best_checkpoint import metric_names
from hf_layerfusion.training.class_balance import RowClasses
from hf_layerfusion.training.collators import TASKS, MultitaskCollator, PaddingCollator
from hf_layerfusion.training.label_checks import check_labels, with_labels
from hf_layerfusion.training.log_aggregation import Logs, LogSource
from hf_layerfusion.training.samplers import RowOrder
from hf_layerfusion.training.task_data import MultitaskBatchSampler, MultitaskDataset, TaskDataset
from hf_layerfusion.training.task_mixing import TASK_MIXINGS
from hf_layerfusion.training.trainer_card import NO_METRIC
from hf_layerfusion.training.training_arguments import LayerFusionTrainingArguments

logger = logging.get_logger(__name__)

OF_SEVERAL_TASKS = (
    "gradient_surgery", "task_mixing", "task_temperature", "task_loss", "task_weights", "task_metrics",
    "best_of_each_task",
)  # fmt: skip
"""Options that have no effect on data of one task."""


class TaskDatasets(Mapping[str, TaskDataset]):
    """The evaluation data of several tasks, which are evaluated as one.

    Args:
        datasets: The data of each task.
        are_given: Whether they are those that the Trainer was made with, so that their data loaders may be kept.
    """

    def __init__(self, datasets: Mapping[str, TaskDataset], are_given: bool = False) -> None:
        self.datasets, self.are_given = dict(datasets), are_given

    def __getitem__(self, task: str) -> TaskDataset:
        return self.datasets[task]

    def __iter__(self) -> Iterator[str]:
        return iter(self.datasets)

    def __len__(self) -> int:
        return len(self.datasets)


class TaskLoaders:
    """The data loaders of `TaskDatasets`, which stand for one.

    Args:
        dataset: The data of each task.
        loaders: Their data loaders.
    """

    def __init__(self, dataset: TaskDatasets, loaders: Mapping[str, DataLoader]) -> None:
        self.dataset, self.loaders = dataset, dict(loaders)

    def __len__(self) -> int:
        """Return the number of batches of all tasks."""
        return sum(map(len, self.loaders.values()))

    def __iter__(self) -> Iterator[Any]:
        for loader in self.loaders.values():
            yield from loader


def has_several(train_dataset: Any, model: Any) -> bool:
    """Return whether a run has several tasks: its training data are a dictionary; without training data, the model's
    configuration declares tasks."""
    declared = getattr(getattr(model, "config", None), "tasks", None)
    return isinstance(train_dataset, Mapping) or (train_dataset is None and isinstance(declared, Mapping))


def check_one_task(args: LayerFusionTrainingArguments) -> None:
    """Check that a run of one task has no option of several.

    Raises:
        UserError: Names the options that would have no effect.
    """
    given = [
        each.name
        for each in fields(LayerFusionTrainingArguments)
        if each.name in OF_SEVERAL_TASKS and getattr(args, each.name) != each.default
    ]
    if given:
        raise UserError(
            f"{', '.join(given)} must come with several tasks, found training data of one; give train_dataset as "
            "a dictionary by task or leave the options out"
        )


class Tasks(LogSource):
    """The tasks of a run: their data, order, losses and metrics. Logs the mean loss of each.

    Args:
        args: The options; those of tasks are `task_mixing`, `task_weights`, `task_loss`, `task_metrics`.
        config: The model's configuration, which may declare `tasks`.
        train_dataset: The training rows of each task, or None.
        eval_dataset: The evaluation rows of each task, or None.
        compute_metrics: A function of all tasks or one for each.
        data_collator: Pads the rows of one task; None for the tokenizer's padding.
        tokenizer: The tokenizer of the rows.

    Raises:
        UserError: Tasks that data, model and arguments do not share; labels or metrics that are not a task's; data of
            no task; options that several tasks exclude.
    """

    def __init__(
        self,
        args: LayerFusionTrainingArguments,
        config: Any,
        train_dataset: Mapping[str, Any] | None,
        eval_dataset: Any,
        compute_metrics: Any,
        data_collator: Callable[[list[Any]], Any] | None,
        tokenizer: Any,
    ) -> None:
        self.args = args
        declared = getattr(config, "tasks", None)
        self._declared = list(declared) if isinstance(declared, Mapping) else None
        self._configs = getattr(config, "task_configs", {})
        if data_collator is None:
            if not isinstance(tokenizer, PreTrainedTokenizerBase):
                raise UserError(
                    "data_collator or processing_class must say how rows are padded, found neither; "
                    "give the tokenizer as processing_class"
                )
            data_collator = PaddingCollator(tokenizer)
        self.collator = MultitaskCollator(data_collator)
        self.evaluation: dict[str, TaskDataset] | None = None
        if eval_dataset is not None:
            self.evaluation = self.datasets(eval_dataset, "evaluation")
            self._check_labels(self.evaluation, "evaluation")
        self._check_tasks(train_dataset or {}, train_dataset is not None)
        self._check_metrics(compute_metrics, train_dataset is not None)
        self.training: MultitaskDataset | None = None
        if train_dataset is not None:
            self._check_options()
            self.training = MultitaskDataset(train_dataset)
            self._check_labels(self.training.tasks, "training")
        self.main_metrics: dict[str, str] = {}
        """The metric of each task that enters the mean, as the last evaluation found."""
        self.of_step: list[str] = []
        """The tasks of the step under way."""
        self._loss_sums: dict[str, Tensor] = {}
        self._steps_of: Counter[str] = Counter()

    # Training

    def batch_sampler(
        self, batch_size: int, classes: Mapping[str, RowClasses], epoch: Callable[[], int]
    ) -> MultitaskBatchSampler:
        """Return the sampler of the training batches, mixed by `task_mixing`.

        Args:
            batch_size: Rows of a micro-batch.
            classes: What the rows are balanced by, for each task that is.
            epoch: Returns the number of the epoch that begins.

        Raises:
            UserError: `dataloader_drop_last` with a task that has no full batch.
        """
        args, datasets = self.args, cast(MultitaskDataset, self.training).tasks
        parts = args.gradient_accumulation_steps * args.world_size
        size = batch_size * parts
        grouped = args.train_sampling_strategy == "group_by_length"
        orders = {
            task: RowOrder(
                len(of_task),
                size,
                lengths=of_task.lengths(args.length_column_name) if grouped else None,
                classes=(
                    classes[task].classes if args.class_balance == "sampling" and task in classes else None
                ),
                shuffled=args.train_sampling_strategy != "sequential",
            )
            for task, of_task in datasets.items()
        }
        rows = {task: len(of_task) for task, of_task in datasets.items()}
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
            swappable=frozenset(task for task, of_task in datasets.items() if of_task.is_swappable),
            parts=parts,
            drop_last=args.dataloader_drop_last,
            seed=args.seed if args.data_seed is None else args.data_seed,
            epoch=epoch,
        )

    def begin_step(self, batches: list[Any], main_input_name: str) -> None:
        """Count the tasks of a step that begins.

        A micro-batch of several tasks is given their inputs in one row, flat, from which the stock Trainer counts
        operations and tokens.

        Args:
            batches: The micro-batches of the step.
            main_input_name: The name of the inputs that are counted.
        """
        self.of_step = list(task_inputs(batches[0]))
        self._steps_of.update(self.of_step)
        for batch in batches:
            for name in (main_input_name, "attention_mask") if TASKS in batch else ():
                flat = [of_task[name].flatten() for of_task in batch[TASKS].values() if name in of_task]
                if flat:
                    batch[name] = torch.cat(flat)

    def add_losses(self, losses: Mapping[str, Tensor]) -> None:
        """Add the losses of a micro-batch, as shares of their step's, to what is logged."""
        for task, loss in losses.items():
            self._loss_sums[task] = self._loss_sums.get(task, 0.0) + loss.detach()

    def weigh(self, losses: Mapping[str, Any]) -> dict[str, Any]:
        """Return the losses of tasks as they enter the sum that is trained, by `task_weights` and `task_loss`."""
        weights = cast("dict[str, float]", self.args.task_weights or {})
        divisor = len(losses) if self.args.task_loss == "mean" else 1
        return {task: loss * (weights.get(task, 1.0) / divisor) for task, loss in losses.items()}

    def diverged(self) -> list[str]:
        """Return the tasks whose loss was not finite since the last entry of the log."""
        return [task for task, total in self._loss_sums.items() if not torch.isfinite(total)]

    def every_text(self) -> list[Any]:
        """Return the data sets of training, pairs in both orders where they may be swapped, and of evaluation."""
        trained = {} if self.training is None else self.training.tasks
        return [
            *(rows for of_task in trained.values() for rows in of_task.in_both_orders()),
            *(of_task.rows for of_task in (self.evaluation or {}).values()),
        ]

    def as_given(self) -> dict[str, Any]:
        """Return the training data and the collator as the arguments of another Trainer, with the evaluation data of
        tasks that are not trained."""
        trained = cast(MultitaskDataset, self.training).tasks
        others = {task: of_task for task, of_task in (self.evaluation or {}).items() if task not in trained}
        return {
            "train_dataset": {task: of_task.rows for task, of_task in trained.items()},
            "eval_dataset": {task: of_task.rows for task, of_task in others.items()} or None,
            "data_collator": self.collator.collate,
        }

    # The log

    def bind(self, accelerator: Callable[[], Accelerator]) -> None:
        """Set what sums over the processes: the Trainer's accelerator, which it may replace."""
        self._accelerator = accelerator

    def _mean_over_processes(self) -> dict[str, float]:
        accelerator = self._accelerator()
        return {
            task: accelerator.reduce(self._loss_sums[task], reduction="mean").item()
            for task in sorted(self._loss_sums)
        }

    def add_to(self, logs: Logs, is_step: bool) -> None:
        """Add the mean loss of each task that was trained since the last entry."""
        if is_step and self._loss_sums:
            for task, total in self._mean_over_processes().items():
                logs[f"loss_{task}"] = total / self._steps_of[task]
            self.reset()

    def log_state(self) -> dict[str, Any]:
        """Return the sums of the tasks' losses and their steps."""
        return {"task_losses": self._mean_over_processes(), "task_steps": dict(self._steps_of)}

    def load_log_state(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        device = self.args.device
        self._loss_sums = {
            task: torch.tensor(total, device=device) for task, total in state["task_losses"].items()
        }
        self._steps_of = Counter(state["task_steps"])

    def reset(self) -> None:
        """Start over with the losses."""
        self._loss_sums, self._steps_of = {}, Counter()

    def snapshot(self) -> Callable[[], None]:
        """Return a function that takes back the losses and steps added from now on."""
        sums, steps = dict(self._loss_sums), Counter(self._steps_of)

        def rollback() -> None:
            self._loss_sums, self._steps_of = sums, steps

        return rollback

    # Evaluation

    def datasets(self, datasets: Any, role: str) -> dict[str, TaskDataset]:
        """Return the data of each task.

        Args:
            datasets: Rows by task.
            role: "evaluation" or "prediction", for messages.

        Raises:
            UserError: Data of no task or an unknown one, a stream, or no rows.
        """
        if not isinstance(datasets, Mapping) or not datasets:
            raise UserError(
                f"{role} data must be given by task, {{'sst5': rows, …}}, found {type(datasets).__name__}"
                f"{' without tasks' if isinstance(datasets, Mapping) else ''}; name the task of each data set"
            )
        self._check_known(datasets, f"{role} data")
        return {task: TaskDataset(task, rows, role) for task, rows in datasets.items()}

    def to_evaluate(self, eval_dataset: Any, of_trainer: Mapping[str, Any] | None) -> TaskDatasets:
        """Return the tasks of an evaluation: those that have labels.

        Args:
            eval_dataset: The data of each task, or None for those of the Trainer.
            of_trainer: The Trainer's.

        Raises:
            UserError: As `datasets`, or no task has labels.
        """
        if isinstance(eval_dataset, TaskDatasets):
            return eval_dataset
        are_given = eval_dataset is None and of_trainer is not None
        found = of_trainer if are_given else self.datasets(eval_dataset, "evaluation")
        return TaskDatasets(with_labels(cast("Mapping[str, TaskDataset]", found)), are_given)

    def over_tasks(self, found: Mapping[str, Mapping[str, float]], prefix: str) -> dict[str, float]:
        """Return loss and mean metric over the tasks, and remember the main metric of each.

        Args:
            found: The metrics of each task, under full names.
            prefix: The prefix of all names, such as "eval".

        Raises:
            UserError: A metric of `task_metrics` that was not computed.
        """
        main = {task: self._main_metric(task, list(found[task]), f"{prefix}_{task}_") for task in found}
        self.main_metrics = {task: name for task, name in main.items() if name is not None}
        losses = {task: found[task][f"{prefix}_{task}_loss"] for task in found}
        result = {f"{prefix}_loss": sum(self.weigh(losses).values())}
        values = [found[task][name] for task, name in self.main_metrics.items()]
        undefined = [name for task, name in self.main_metrics.items() if math.isnan(found[task][name])]
        if undefined:
            logger.warning(
                f"{prefix}_mean is not a number, as {', '.join(undefined)} is none; a correlation is not defined where "
                "all predictions are the same"
            )
        return result | ({f"{prefix}_mean": sum(values) / len(values)} if values else {})

    def _main_metric(self, task: str, metrics: list[str], prefix: str) -> str | None:
        """Return the full name of the metric that a task is chosen by, or None if no metric of it is one of which more
        is better."""
        found = [metric.removeprefix(prefix) for metric in metrics if not metric.endswith(NO_METRIC)]
        names = [name for name in found if greater_is_better(name)]
        asked = cast("dict[str, str]", self.args.task_metrics or {}).get(task)
        if asked is not None and asked not in names:
            raise UserError(
                f"task_metrics: the metric of task '{task}' must be one of which more is better, "
                f"{', '.join(names) or 'of which there is none'}; found {asked!r}; correct the name"
            )
        return f"{prefix}{asked or names[0]}" if names else None

    # Checks

    def _check_options(self) -> None:
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

    def _check_known(self, tasks: Iterable[str], what: str) -> None:
        unknown = [task for task in tasks if self._declared is not None and task not in self._declared]
        if unknown:
            raise UserError(
                f"{what}: must be of the model's tasks {', '.join(self._declared or ())}, found "
                f"{', '.join(map(repr, unknown))}; declare it in the model's configuration or leave it out"
            )

    def _check_tasks(self, training: Mapping[str, Any], trains: bool) -> None:
        """Check that data, model and arguments have the same tasks."""
        with_data = {**training, **(self.evaluation or {})}
        if trains:
            self._check_known(training, "training data")
            idle = [task for task in self._declared or () if task not in with_data]
            if idle:
                raise UserError(
                    f"the model's tasks {', '.join(idle)} must have training or evaluation data, found data of "
                    f"{', '.join(with_data)}; give theirs too or build the model without them"
                )
        for option in ("task_weights", "task_metrics"):
            unknown = [
                task for task in getattr(self.args, option) or () if task not in (self._declared or with_data)
            ]
            if unknown:
                raise UserError(
                    f"{option} must name tasks of the data, {', '.join(self._declared or with_data)}, found "
                    f"{', '.join(map(repr, unknown))}; correct the name"
                )

    def _check_metrics(self, functions: Any, trains: bool) -> None:
        """Check that the evaluation will have the metrics that the arguments name."""
        evaluates = trains and self.args.eval_strategy != IntervalStrategy.NO
        self.labelled = list(with_labels(self.evaluation or {}, needed=evaluates))
        missing = [task for task in self.labelled if isinstance(functions, Mapping) and task not in functions]
        if missing:
            raise UserError(
                f"compute_metrics must have a function for each task, found none for {', '.join(missing)}; add it"
            )
        chosen = self.args.metric_for_best_model
        if chosen is None or self.args.eval_strategy == IntervalStrategy.NO:
            return
        name = chosen.removeprefix(EVAL_PREFIX)
        known = name == "loss" or (name == "mean" and functions is not None)
        if not known and not any(
            _may_have(name, task, function_of(functions, task)) for task in self.labelled
        ):
            raise UserError(
                f"metric_for_best_model must be eval_mean (with compute_metrics), eval_loss or a metric of one of the "
                f"tasks {', '.join(self.labelled) or '(none has labels)'}, such as eval_TASK_accuracy, found "
                f"{chosen!r}; correct it"
            )

    def _check_labels(self, datasets: Mapping[str, TaskDataset], role: str) -> None:
        """Check that labels are of the classes or the range that the model's configuration declares. A collator of the
        user's may turn anything into labels."""
        if isinstance(self.collator.collate, PaddingCollator):
            for task, dataset in datasets.items():
                if dataset.has_labels and task in self._configs:
                    check_labels(dataset, self._configs[task], role)


def function_of(compute_metrics: Any, task: str) -> Any:
    """Return the function that computes a task's metrics."""
    return compute_metrics.get(task) if isinstance(compute_metrics, Mapping) else compute_metrics


def _may_have(name: str, task: str, compute_metrics: Any) -> bool:
    """Return whether a metric is one of a task's, or may be one that a function of the user's computes."""
    names = metric_names(compute_metrics)
    return name.startswith(f"{task}_") and (names is None or name.removeprefix(f"{task}_") in names)
