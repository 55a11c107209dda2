"""A Trainer that evaluates and predicts several tasks."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerControl
from transformers.trainer_utils import IntervalStrategy, speed_metrics
from transformers.utils import logging

from hf_layerfusion.errors import UserError
from hf_layerfusion.metric_registry import EVAL_PREFIX, greater_is_better
from hf_layerfusion.storage import PARTIAL, remove, sync_folder, sync_tree, writable, write_json
from hf_layerfusion.training.best_checkpoint import ChoosingTrainer
from hf_layerfusion.training.collators import MultitaskCollator, PaddingCollator
from hf_layerfusion.training.label_checks import check_labels, with_labels
from hf_layerfusion.training.sharded_evaluation import EvaluatingTrainer
from hf_layerfusion.training.task_data import TaskDataset
from hf_layerfusion.training.trainer_card import NO_METRIC
from hf_layerfusion.training.training_arguments import LayerFusionTrainingArguments

logger = logging.get_logger(__name__)

OF_SEVERAL_TASKS = (
    "gradient_surgery", "task_mixing", "task_temperature", "task_loss", "task_weights", "task_metrics",
    "best_of_each_task",
)  # fmt: skip
"""Options that would have no effect on the data of one task."""

BEST_OF_TASK = "best"
"""The folder of a task's best model is called this, a hyphen and the task."""

BEST_FILE = "best.json"
"""The file in it that says how good it is, and when."""


class MultitaskEvaluation(ChoosingTrainer, EvaluatingTrainer):
    """The stock Trainer, but data sets by task are evaluated as one, and predicted one by one.

    It is a Trainer of several tasks where the training data are a dictionary; without training data, where the
    model's configuration has `tasks`. Else everything is as in the stock Trainer.
    """

    args: LayerFusionTrainingArguments
    train_dataset: Any
    eval_dataset: Any
    compute_metrics: Any
    control: TrainerControl

    def __init__(
        self,
        model: PreTrainedModel | nn.Module | None = None,
        args: LayerFusionTrainingArguments | None = None,
        *,
        data_collator: Callable[[list[Any]], Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(model, args, data_collator=data_collator, **kwargs)
        declared = getattr(getattr(self.model, "config", None), "tasks", None)
        self.is_multitask = isinstance(self.train_dataset, Mapping) or (
            self.train_dataset is None and isinstance(declared, Mapping)
        )
        if not self.is_multitask:
            self._check_one_task()
            self.check_metric()
            return
        self._declared = list(declared) if isinstance(declared, Mapping) else None
        self._main_metrics: dict[str, str] = {}
        if data_collator is None:
            if not isinstance(self.processing_class, PreTrainedTokenizerBase):
                raise UserError(
                    "data_collator or processing_class must say how rows are padded, found neither; "
                    "give the tokenizer as processing_class"
                )
            data_collator = PaddingCollator(self.processing_class)
        self.data_collator = MultitaskCollator(data_collator)
        if self.eval_dataset is not None:
            self.eval_dataset = self._task_datasets(self.eval_dataset, "evaluation")
            self._check_labels(self.eval_dataset, "evaluation")
        self._check_tasks()
        self._check_metrics()

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Evaluate; with several tasks, all of them, as one evaluation: one entry of the log, one `on_evaluate`.

        Args:
            eval_dataset: with several tasks, the data of each, in place of those given at first.
            ignore_keys: as for `Trainer.evaluate`.
            metric_key_prefix: what each metric's name begins with.

        Returns:
            With several tasks, for each that has labels its `eval_<task>_<metric>` and `eval_<task>_loss`;
            `eval_mean`, the mean over the tasks of each one's main metric: that of `task_metrics`, or else the first
            that `compute_metrics` returns of which more is better; and `eval_loss`, by `task_weights` and
            `task_loss`. Tasks without labels are left out.

        Raises:
            UserError: data of no task or an unknown one, none with labels, or a metric of `task_metrics` that is not
                there.
        """
        if not self.is_multitask:
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        datasets = self.eval_dataset
        if eval_dataset is not None or datasets is None:
            datasets = self._task_datasets(eval_dataset, "evaluation")
        labelled = with_labels(datasets)
        self._memory_tracker.start()
        start = time.time()
        found: dict[str, dict[str, float]] = {}
        for task, dataset in labelled.items():
            given = eval_dataset is not None
            loader = self.get_test_dataloader(dataset) if given else self.get_eval_dataloader(task)
            with self._metrics_of(task):
                found[task] = self.evaluation_loop(
                    loader,
                    description=f"Evaluation of {task}",
                    prediction_loss_only=True if self.compute_metrics is None else None,
                    ignore_keys=ignore_keys,
                    metric_key_prefix=f"{metric_key_prefix}_{task}",
                ).metrics
        metrics = {name: value for of_task in found.values() for name, value in of_task.items()}
        metrics |= self._over_tasks(found, metric_key_prefix)
        rows = [len(dataset) for dataset in labelled.values()]
        batch = self.args.eval_batch_size * self.args.world_size
        metrics |= speed_metrics(
            metric_key_prefix, start, sum(rows), sum(math.ceil(count / batch) for count in rows)
        )
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self._memory_tracker.stop_and_update_metrics(metrics)
        return metrics

    def predict(
        self, test_dataset: Any, ignore_keys: list[str] | None = None, metric_key_prefix: str = "test"
    ) -> Any:
        """Predict, as `Trainer.predict` does; with several tasks the data are by task.

        Returns:
            A `PredictionOutput`; with several tasks, one for each, by task.

        Raises:
            UserError: with several tasks, data of no task or an unknown one.
        """
        if not self.is_multitask:
            return super().predict(test_dataset, ignore_keys, metric_key_prefix)
        outputs = {}
        for task, dataset in self._task_datasets(test_dataset, "prediction").items():
            with self._metrics_of(task):
                outputs[task] = super().predict(dataset, ignore_keys, f"{metric_key_prefix}_{task}")
        return outputs

    # What the stock methods above call

    def _get_collator_with_removed_columns(
        self, data_collator: Callable[..., Any], description: str | None = None
    ) -> Callable[..., Any]:
        if self.is_multitask:
            return data_collator  # it takes what it needs
        return super()._get_collator_with_removed_columns(data_collator, description)

    def _evaluate(self, trial: Any, *args: Any, **kwargs: Any) -> dict[str, float]:
        """The evaluation in the course of training."""
        metrics = super()._evaluate(trial, *args, **kwargs)
        if not self.is_multitask:
            return metrics
        if self.args.best_of_each_task:
            for task, name in self._main_metrics.items():
                *earlier, value = [entry[name] for entry in self.state.log_history if name in entry]
                if not math.isnan(value) and not any(value <= other for other in earlier):
                    self._save_best(task, {"metric": name, "value": value}, Path(self._get_output_dir(trial)))
        return metrics

    def _save_best(self, task: str, facts: dict[str, Any], run_dir: Path) -> None:
        folder = run_dir / f"{BEST_OF_TASK}-{task}"
        partial = folder.with_name(f".{folder.name}{PARTIAL}")
        if self.args.should_save:
            remove(partial)
        self.save_model(str(partial), _internal_call=True)
        if self.args.should_save:
            facts |= {"step": self.state.global_step, "epoch": self.state.epoch}
            with writable(folder):
                write_json(partial / BEST_FILE, facts)
                sync_tree(partial)
                remove(folder)
                partial.rename(folder)
                sync_folder(folder.parent)
        self.accelerator.wait_for_everyone()

    @contextmanager
    def _metrics_of(self, task: str) -> Iterator[None]:
        """Puts the task's function in the place of all of them."""
        given = self.compute_metrics
        self.compute_metrics = given.get(task) if isinstance(given, Mapping) else given
        try:
            yield
        finally:
            self.compute_metrics = given

    def _over_tasks(self, found: Mapping[str, Mapping[str, float]], prefix: str) -> dict[str, float]:
        """Loss and mean over the tasks; remembers each one's main metric."""
        main = {task: self._main_metric(task, list(found[task]), f"{prefix}_{task}_") for task in found}
        self._main_metrics = {task: name for task, name in main.items() if name is not None}
        losses = {task: found[task][f"{prefix}_{task}_loss"] for task in found}
        result = {f"{prefix}_loss": sum(self.weighed(losses).values())}
        values = [found[task][name] for task, name in self._main_metrics.items()]
        undefined = [name for task, name in self._main_metrics.items() if math.isnan(found[task][name])]
        if undefined:
            logger.warning(
                f"{prefix}_mean is not a number, as {', '.join(undefined)} is none; a correlation is not defined where "
                "all predictions are the same"
            )
        return result | ({f"{prefix}_mean": sum(values) / len(values)} if values else {})

    def weighed(self, losses: Mapping[str, Any]) -> dict[str, Any]:
        """The losses of tasks as they enter the sum that is trained, by `task_weights` and `task_loss`."""
        weights = cast("dict[str, float]", self.args.task_weights or {})
        divisor = len(losses) if self.args.task_loss == "mean" else 1
        return {task: loss * (weights.get(task, 1.0) / divisor) for task, loss in losses.items()}

    def _main_metric(self, task: str, metrics: list[str], prefix: str) -> str | None:
        """The full name of the metric that a task is chosen by; None where more is better of none of its metrics."""
        found = [metric.removeprefix(prefix) for metric in metrics if not metric.endswith(NO_METRIC)]
        names = [name for name in found if greater_is_better(name)]
        asked = cast("dict[str, str]", self.args.task_metrics or {}).get(task)
        if asked is not None and asked not in names:
            raise UserError(
                f"task_metrics: the metric of task '{task}' must be one of which more is better, "
                f"{', '.join(names) or 'of which there is none'}; found {asked!r}; correct the name"
            )
        return f"{prefix}{asked or names[0]}" if names else None

    # What fits together

    def _task_datasets(self, datasets: Any, role: str) -> dict[str, TaskDataset]:
        """The data of each task, checked one by one."""
        if not isinstance(datasets, Mapping) or not datasets:
            raise UserError(
                f"{role} data must be given by task, {{'sst5': rows, …}}, found {type(datasets).__name__}"
                f"{' without tasks' if isinstance(datasets, Mapping) else ''}; name the task of each data set"
            )
        self._check_known(datasets, f"{role} data")
        return {task: TaskDataset(task, rows, role) for task, rows in datasets.items()}

    def _check_known(self, tasks: Iterable[str], what: str) -> None:
        unknown = [task for task in tasks if self._declared is not None and task not in self._declared]
        if unknown:
            raise UserError(
                f"{what}: must be of the model's tasks {', '.join(self._declared or ())}, found "
                f"{', '.join(map(repr, unknown))}; declare it in the model's configuration or leave it out"
            )

    def _check_tasks(self) -> None:
        """That the tasks of data, model and arguments are the same."""
        with_data = {**(self.train_dataset or {}), **(self.eval_dataset or {})}
        if self.train_dataset is not None:
            self._check_known(self.train_dataset, "training data")
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

    def _check_metrics(self) -> None:
        """That the evaluation will have the metrics that the arguments ask for."""
        evaluates = self.train_dataset is not None and self.args.eval_strategy != IntervalStrategy.NO
        labelled = list(with_labels(self.eval_dataset or {}, needed=evaluates))
        functions, chosen = self.compute_metrics, self.args.metric_for_best_model
        self._check_folders(labelled)
        missing = [task for task in labelled if isinstance(functions, Mapping) and task not in functions]
        if missing:
            raise UserError(
                f"compute_metrics must have a function for each task, found none for {', '.join(missing)}; add it"
            )
        if chosen is None or self.args.eval_strategy == IntervalStrategy.NO:
            return
        name = chosen.removeprefix(EVAL_PREFIX)
        if name != "loss" and (name != "mean" or functions is None) and not self._may_have(name, labelled):
            raise UserError(
                f"metric_for_best_model must be eval_mean (with compute_metrics), eval_loss or a metric of one of the "
                f"tasks {', '.join(labelled) or '(none has labels)'}, such as eval_TASK_accuracy, found {chosen!r}; "
                "correct it"
            )

    def _may_have(self, name: str, tasks: Iterable[str]) -> bool:
        """Return whether a metric is one of a task's, or may be one that a function of the user's computes."""
        for task in tasks:
            with self._metrics_of(task):
                names = self.metric_names()
            if name.startswith(f"{task}_") and (names is None or name.removeprefix(f"{task}_") in names):
                return True
        return False

    def _check_folders(self, tasks: Iterable[str]) -> None:
        """That the folders of each task's best model are not another's, which would be deleted."""
        folders = [Path(str(self.args.output_dir)) / f"{BEST_OF_TASK}-{task}" for task in tasks]
        for folder in folders if self.args.best_of_each_task else []:
            if folder.exists() and not (folder / BEST_FILE).is_file():
                raise UserError(
                    f"best_of_each_task: {folder} must be new or a task's best model, found something else; name "
                    "another output_dir or move it away"
                )

    def _check_labels(self, datasets: Mapping[str, TaskDataset], role: str) -> None:
        """That the labels are of the classes or the range that the model's configuration declares. A collator of the
        user's may make them of anything."""
        declared = getattr(getattr(self.model, "config", None), "task_configs", {})
        if isinstance(self.data_collator.collate, PaddingCollator):
            for task, dataset in datasets.items():
                if dataset.has_labels and task in declared:
                    check_labels(dataset, declared[task], role)

    def _check_one_task(self) -> None:
        given = [
            each.name
            for each in fields(LayerFusionTrainingArguments)
            if each.name in OF_SEVERAL_TASKS and getattr(self.args, each.name) != each.default
        ]
        if given:
            raise UserError(
                f"{', '.join(given)} must come with several tasks, found training data of one; give train_dataset as "
                "a dictionary by task or leave the options out"
            )
