"""The Trainer of this package: wires the objects of this folder into `transformers.Trainer`."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext
from functools import reduce
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub import CommitInfo
from peft import PeftModel
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerControl, TrainingArguments
from transformers.trainer import Trainer
from transformers.trainer_utils import (
    PREFIX_CHECKPOINT_DIR,
    EvalLoopOutput,
    PredictionOutput,
    TrainOutput,
    has_length,
)
from transformers.utils.hub import PushInProgress

from hf_layerfusion.data.soft_labels import TEACHER_LOGITS
from hf_layerfusion.errors import UserError
from hf_layerfusion.regularizers import task_outputs as by_task
from hf_layerfusion.regularizers.registry import make_regularizers
from hf_layerfusion.regularizers.task_outputs import ONE_TASK, problem_types
from hf_layerfusion.storage import write_text
from hf_layerfusion.training.adapters import read_adapters
from hf_layerfusion.training.attempts import Attempts
from hf_layerfusion.training.best_checkpoint import (
    BestOfEachTask,
    NoBestModelWarning,
    check_computed,
    check_folders,
    check_metric,
    is_candidate,
    metric_names,
)
from hf_layerfusion.training.callbacks import EarlyStopping, EpochDecay, GradualUnfreezing
from hf_layerfusion.training.checkpoints import (
    CheckpointSaver,
    check_fits,
    checkpoint_to_resume,
    verify_checkpoint,
)
from hf_layerfusion.training.class_balance import ClassWeights, RowClasses
from hf_layerfusion.training.collators import TASKS, MultitaskCollator, PaddingCollator
from hf_layerfusion.training.distillation import (
    Distillation,
    TeacherCollator,
    check_teacher,
    check_temperature,
)
from hf_layerfusion.training.divergence import DivergenceGuard, SkippedSteps
from hf_layerfusion.training.frozen_state_cache import (
    ENCODER_STATES,
    PADDING_COLLATORS,
    FrozenStateCache,
    StateCollator,
    count_operations,
    rows_in_order,
)
from hf_layerfusion.training.global_batch import loss_depends_on_device_batch
from hf_layerfusion.training.gradient_combination import GradientSurgery
from hf_layerfusion.training.head_first import train_head_first
from hf_layerfusion.training.hp_search import SearchTrial
from hf_layerfusion.training.hub_push import HubPush, open_run_repository
from hf_layerfusion.training.label_checks import classes_of_tasks
from hf_layerfusion.training.log_aggregation import (
    LOG_STATE_NAME,
    LastStep,
    LogSource,
    TrainingLog,
    WholeRunLoss,
)
from hf_layerfusion.training.loss_terms import LossTerms
from hf_layerfusion.training.loss_weighting import (
    SHARES,
    LossWeighting,
    is_evened_out,
    to_complete_the_step,
    weigh_losses,
    without_repeats,
)
from hf_layerfusion.training.model_preparation import PreparedModelInit, prepare_model
from hf_layerfusion.training.parameter_groups import parameter_groups, takes_groups
from hf_layerfusion.training.probe_start import ProbeStart, check_probe_labels, check_probe_start
from hf_layerfusion.training.raw_data import RawData
from hf_layerfusion.training.resumed_log import ResumedLog
from hf_layerfusion.training.samplers import SeededSampler, seeded_sampler
from hf_layerfusion.training.sharded_evaluation import (
    CountedStream,
    ShardedEvaluation,
    changed,
    evaluation_sampler,
    every_row,
)
from hf_layerfusion.training.sharded_weights import own_class, reshard, share_weights
from hf_layerfusion.training.state_cache import encoder_inputs
from hf_layerfusion.training.stock_arguments import own_arguments
from hf_layerfusion.training.stock_trainer import (
    RunningLoss,
    column_kept,
    forget_preparation,
    keep_columns,
)
from hf_layerfusion.training.stream_checks import check_stream
from hf_layerfusion.training.task_data import TASK, MultitaskDataset, task_loader
from hf_layerfusion.training.tasks import (
    TaskDatasets,
    TaskLoaders,
    Tasks,
    check_one_task,
    function_of,
    has_several,
)
from hf_layerfusion.training.tokenizers import limit_to_model
from hf_layerfusion.training.trainer_card import write_card
from hf_layerfusion.training.training_arguments import LayerFusionTrainingArguments
from hf_layerfusion.training.weight_averaging import (
    EvaluatedWeights,
    check_resumable,
    make_evaluated_weights,
)


class LayerFusionTrainer(Trainer):
    """A `transformers.Trainer` for any `PreTrainedModel` whose loss is a mean over the examples of its batch.

    Differences from the stock Trainer:

    - Encoder, fuser and head are parameter groups with rates of their own, which may decay by epoch.
    - Gradient accumulation and several processes give the gradient of the undivided batch (`LossWeighting`).
    - Checkpoints carry a manifest of checksums. Damaged ones are refused, and passed over when the newest is asked for.
      Weights that do not fit the model are refused (`checkpoints`).
    - A resumed run ends in the same weights, and the same log, as one that was not interrupted.
    - Prediction i is that of row i, and each row counts once in the evaluation's loss, for any number of processes and
      for streams (`ShardedEvaluation`).
    - A loss or gradient that is not finite never reaches the weights: the run stops, or skips and counts the step
      (`DivergenceGuard`).
    - `training_args.json` is written beside `training_args.bin`, and neither holds the Hub's token.
    - Pushes to the Hub leave out that pickle and the texts of predictions, and keep a card that is there. Background
      pushes report their failures, and `train` raises `PushError` if the last save has not arrived (`HubPush`).
    - Several tasks: the model is then called with `task=name` and that task's batch, and returns `loss` and `logits`;
      where `task_mixing` trains tasks together, with `tasks={name: batch}`, and returns `losses` and `logits` by task.
      Every process has the same tasks in each step (`Tasks`).
    - `regularizers` add terms to each task's loss (`LossTerms`); `gradient_surgery` combines the tasks' gradients
      (`GradientSurgery`).
    - `distillation_weight` adds the loss towards a teacher's predictions, the column `teacher_logits` (`Distillation`).
    - With `cache_frozen_states` a frozen encoder reads each text once, not once an epoch (`FrozenStateCache`). With
      `init_from_probe` the head then starts from a linear probe.
    - `model_max_length` of the saved tokenizer is at most what the model takes.
    - `hyperparameter_search` judges a trial by the model that it would keep (`SearchTrial`).
    - Options that need the number of rows are refused for a stream; the stock Trainer ignores them.
    - Data sets may hold raw texts and labels by name if `processing_class` is a tokenizer (`RawData`). Their metrics
      are computed without a `compute_metrics`.

    `stock_trainer` lists every private member of the stock Trainer that is used.

    Args:
        model: As for `Trainer`. With several tasks and `tasks` in its configuration, these must be the data's.
        args: `LayerFusionTrainingArguments`, or `TrainingArguments`, which are converted.
        **kwargs: Every other argument of `Trainer`, by name. Data are tokenized rows, or raw texts in a column `text`
            (for pairs also `text_pair`) with labels in `label`: names, ids, numbers, or lists of names. With several
            tasks, `train_dataset` and `eval_dataset` are dictionaries by task. Their tokenized rows hold what the
            tokenizer gives and `labels`, each a list of two lists where a pair's texts are encoded apart, and
            `swapped_…` columns for a pair in its other order, which is drawn at random in training. `compute_metrics`
            is a function, or one for each task; `data_collator` pads the rows of one task, by default by the tokenizer
            given as `processing_class`.

    Raises:
        UserError: See the arguments' class, `train`, `evaluate` and `create_optimizer`; and tasks that the data, the
            model and the arguments do not share, or options that several tasks exclude.
    """

    args: LayerFusionTrainingArguments
    control: TrainerControl
    train_dataset: Any
    eval_dataset: Any
    data_collator: Any
    compute_metrics: Any
    model: Any
    hub_model_id: str | None  # type: ignore[assignment]
    hp_search_backend: Any
    objective: float | None
    push_in_progress: PushInProgress | None
    optimizer_cls_and_kwargs: tuple[type[Optimizer], dict[str, Any]] | None
    model_init: Any
    _raw_data: RawData | None = None

    def __init__(
        self,
        model: PreTrainedModel | nn.Module | None = None,
        args: TrainingArguments | None = None,
        **kwargs: Any,
    ) -> None:
        args = own_arguments(args)
        if model is not None:
            prepare_model(model, args)
        check_stream(kwargs.get("train_dataset"), args)
        if kwargs.get("model_init") is not None:
            kwargs["model_init"] = PreparedModelInit(kwargs["model_init"], args)
        if args.push_to_hub and args.process_index == 0:
            open_run_repository(args)
        super().__init__(model, args, **kwargs)
        limit_to_model(self.processing_class, self.model)
        # Inputs that an encoder takes beside ids and masks, and that no signature names.
        keep_columns(self, getattr(getattr(self.model, "config", None), "extra_inputs", ()))
        # What `num_items_in_batch` does inside a model differs from class to class, and some ignore it.
        self.model_accepts_loss_kwargs = False
        self._evaluation: ShardedEvaluation | None = None
        self._train_stream: CountedStream | None = None
        self._ignore_keys: list[str] | None = None
        self._eval_loaders: dict[str, DataLoader] = {}
        self._read_data(kwargs.get("data_collator"))
        self._make_parts(kwargs.get("data_collator"))

    def _read_data(self, data_collator: Any) -> None:
        """Make model inputs of raw data, and name the model's classes as their labels."""
        config = getattr(self.model, "config", None)
        if (
            data_collator is None
            and getattr(config, "pair_features", None)
            and self.processing_class is not None
        ):
            self.data_collator = PaddingCollator(cast(PreTrainedTokenizerBase, self.processing_class))
        if data_collator is not None and not self.args.remove_unused_columns:
            return  # a collator of the user's, which may read the texts itself
        self._raw_data = RawData(
            self.processing_class, config, self.args, has_several(self.train_dataset, self.model)
        )
        self.train_dataset = self._raw_data.training(self.train_dataset)
        self.eval_dataset = self._with_inputs(self.eval_dataset, "evaluation")
        self._raw_data.name(self.model)

    def _with_inputs(self, dataset: Any, role: str) -> Any:
        """Return data with model inputs in place of raw texts; their metrics are computed if none are given."""
        if self._raw_data is None:
            return dataset
        dataset = self._raw_data.inputs(dataset, role)
        if self.compute_metrics is None and not self.args.batch_eval_metrics:
            self.compute_metrics = self._raw_data.metrics()
        return dataset

    def _make_parts(self, data_collator: Any) -> None:
        """Make the objects that this Trainer wires together, and register those that are callbacks."""
        args = self.args
        self.tasks = self._make_tasks(data_collator)
        self.class_labels = {} if args.class_balance == "none" else self._class_labels()
        self.class_weights = ClassWeights(self.class_labels if args.class_balance == "weights" else {})
        self.loss_weighting = LossWeighting(args, self.label_names)
        self.frozen_states = FrozenStateCache(args, self.processing_class)
        self.saver = CheckpointSaver(args, self.accelerator.wait_for_everyone)
        self.hub_push = HubPush(args, lambda: str(self.hub_model_id))
        self._check_label_smoothing()
        self.loss_terms: LossTerms | None = None
        if regularizers := make_regularizers(args.named_regularizers):
            self._check_own_loss("regularizers must be added to the model's own loss")
            self.loss_terms = LossTerms(regularizers, args.low_memory, args.device)
        self.distillation: Distillation | None = None
        if args.distillation_weight is not None:
            self._check_one_task_of_labels()
            self.distillation = Distillation(args.distillation_weight, args.distillation_temperature)
        elif args.distillation_temperature is not None:
            raise UserError(
                f"distillation_temperature={args.distillation_temperature} is of the loss towards a teacher, found no "
                "distillation_weight; set one or leave it out"
            )
        self.evaluated_weights: EvaluatedWeights | None = None
        self.unfreezing = GradualUnfreezing()
        self.surgery: GradientSurgery | None = None
        if args.gradient_surgery is not None:
            self.surgery = GradientSurgery(
                args.gradient_surgery, args.seed, self._step_losses, averages=args.task_loss == "mean"
            )
        running_loss = RunningLoss(self)
        self.training_log = TrainingLog(running_loss)
        self.last_step = LastStep()
        self.resumed_log = ResumedLog(self.training_log, self._load_own_state, self._end_epoch)
        self.guard = DivergenceGuard(
            args,
            lambda: self.accelerator,
            lambda: self._skip_counter,
            self.training_log.snapshot,
            self._diverged_tasks,
        )
        whole_run = WholeRunLoss(running_loss, lambda: self.state.global_step)
        sources = [whole_run, self.last_step, self.guard, self.surgery, self.loss_terms, self.tasks]
        self.training_log.sources = [source for source in sources if isinstance(source, LogSource)]
        self.attempts = Attempts(self._forget_steps)
        self._add_callbacks()

    def _add_callbacks(self) -> None:
        args = self.args
        self.add_callback(self.attempts)
        self.add_callback(NoBestModelWarning())
        self.add_callback(self.last_step)
        self.add_callback(self.guard)
        self.add_callback(SkippedSteps())
        if self.loss_terms is not None:
            self.add_callback(self.loss_terms)
        if self.tasks is not None and args.best_of_each_task:
            self.add_callback(
                BestOfEachTask(
                    lambda: cast(Tasks, self.tasks).main_metrics,
                    self._save_evaluated,
                    self.accelerator.wait_for_everyone,
                    lambda: Path(self._get_output_dir(self._trial)),
                    lambda: self.is_in_train,
                )
            )
        if args.init_from_probe and self.train_dataset is not None:
            rows = self._training_rows()
            check_probe_start(self.model, rows)
            collate = self.data_collator if self.tasks is None else self.tasks.collator.collate
            if isinstance(collate, PADDING_COLLATORS):  # one of the user's may make labels of anything
                check_probe_labels(self.model, rows)
        if args.cache_frozen_states is not None:
            self.add_callback(ProbeStart(self.training_states))
        if self.lr_scheduler is None:
            self.add_callback(EpochDecay())
        if args.early_stopping_patience is not None:
            self.add_callback(EarlyStopping())
        if args.unfreeze_per_epoch is not None:
            self.add_callback(self.unfreezing)
        self.add_callback(self.resumed_log)
        self._renew_evaluated_weights()

    def _renew_evaluated_weights(self) -> None:
        """Keep the weights that the arguments ask for, which a trial of a search may have changed."""
        if self.evaluated_weights is not None:
            self.remove_callback(self.evaluated_weights)
        self.evaluated_weights = make_evaluated_weights(self.args)
        if self.evaluated_weights is not None:
            # Other callbacks read or save the model when training ends.
            self.callback_handler.callbacks.insert(0, self.evaluated_weights)

    def _make_tasks(self, data_collator: Any) -> Tasks | None:
        if not has_several(self.train_dataset, self.model):
            check_one_task(self.args)
            check_metric(self.args, self.metric_names(), self.eval_dataset)
            return None
        if self.compute_loss_func is not None and self.train_dataset is not None:
            raise UserError(
                "compute_loss_func is of one task, found training data by task; leave it out: each task's loss is the "
                "model's"
            )
        tasks = Tasks(
            self.args,
            getattr(self.model, "config", None),
            self.train_dataset,
            self.eval_dataset,
            self.compute_metrics,
            data_collator,
            self.processing_class,
        )
        if self.args.best_of_each_task:
            check_folders(str(self.args.output_dir), tasks.labelled)
        tasks.bind(lambda: self.accelerator)
        self.data_collator = tasks.collator
        self.train_dataset, self.eval_dataset = tasks.training, tasks.evaluation
        return tasks

    def _class_labels(self) -> dict[str, RowClasses]:
        if self.args.class_balance == "weights":
            self._check_own_loss("class_balance=weights weighs the loss that the model computes itself")
        return classes_of_tasks(self.train_dataset, str(self.args.class_balance), self.args.balance_bins)

    def _check_one_task_of_labels(self) -> None:
        self._check_own_loss("distillation_weight takes the loss of the model's logits")
        if self.tasks is not None:
            raise UserError("distillation_weight is for one task, found several; leave it out")
        config = getattr(self.model, "config", None)
        check_temperature(self.args.distillation_temperature, problem_types(config, {})[ONE_TASK])
        check_teacher(self.train_dataset, config)

    def _check_label_smoothing(self) -> None:
        config = getattr(self.model, "config", None)
        predicts_tokens = type(self.model).__name__.endswith("ForMaskedLM")  # whatever its `num_labels`
        is_regression = getattr(config, "problem_type", None) == "regression" or (
            getattr(config, "num_labels", None) == 1 and not predicts_tokens
        )
        if self.args.label_smoothing_factor and is_regression:
            raise UserError(
                f"label_smoothing_factor={self.args.label_smoothing_factor} smooths the labels of classes, found a "
                "regression; leave it out"
            )

    def _check_own_loss(self, rule: str) -> None:
        if self.compute_loss_func is not None:
            raise UserError(f"{rule} and excludes compute_loss_func, found one; leave one of them out")

    def metric_names(self) -> tuple[str, ...] | None:
        """Return the metrics of an evaluation of one task, or None where only the evaluation can tell."""
        return metric_names(self.compute_metrics)

    @property
    def is_multitask(self) -> bool:
        """True if the run has several tasks."""
        return self.tasks is not None

    @property
    def skipped_steps(self) -> int:
        """Optimizer steps of the run that were not taken, including those that an fp16 scaler skipped."""
        return self._skip_counter.total

    @property
    def _skip_counter(self) -> SkippedSteps:
        # Not kept: a resumed run replaces it.
        return next(each for each in self.callback_handler.callbacks if isinstance(each, SkippedSteps))

    # Training

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """Train, as `Trainer.train` does.

        Args:
            resume_from_checkpoint: True for the newest intact checkpoint of `output_dir`, or a folder. Those of
                `save_only_model=True` hold no optimizer state and do not count.
            trial: As for `Trainer.train`. The trial of a search that fails, or whose objective is not a number, says so
                in its attribute `error`.
            ignore_keys_for_eval: As for `Trainer.train`.

        Raises:
            UserError: There is no intact checkpoint; the named one is damaged, holds the model alone, or fits neither
                the model nor the global batch; or a loss or gradient is not finite.
            PushError: The last save has not reached the Hub. Training itself is done, and `push_to_hub` pushes the
                model.
            SearchStopped: The disk refused a checkpoint of a trial.
        """
        if trial is not None and self.is_fsdp_enabled:
            raise UserError(
                "hyperparameter_search trains its trials by DDP or one process, found FSDP; leave fsdp out"
            )
        checkpoint = checkpoint_to_resume(
            resume_from_checkpoint, self.args, cast(nn.Module, self.model), self._loss_depends_on_device_batch
        )
        self._reset()
        self.resumed_log.begin(checkpoint)
        self._ignore_keys = ignore_keys_for_eval
        if self.model_init is None:
            self._share_weights()
            self._train_head_first()
        pushes = self.args.push_to_hub and self.is_world_process_zero()
        if pushes:
            self.hub_push.begin()
        try:
            if trial is not None and self.hp_search_backend is not None:
                output = self._train_trial(SearchTrial(trial, self.args), checkpoint, ignore_keys_for_eval)
            else:
                output = super().train(checkpoint, trial, ignore_keys_for_eval)
        finally:
            # After an interruption, evaluations and saves are of the model as it is, and another training trains all.
            self.is_in_train = False
            self.unfreezing.unfreeze()
            if self.evaluated_weights is not None:
                self.evaluated_weights.reset()
        if pushes:
            self.hub_push.finish()
        return output._replace(training_loss=output.metrics.get("train_loss", output.training_loss))

    def call_model_init(self, trial: Any = None) -> Any:
        """Make a model, as `Trainer.call_model_init` does, with the labels of the training data. In training its head
        is trained first, if that is asked for."""
        model = super().call_model_init(trial)
        if self._raw_data is not None:
            self._raw_data.name(model)
        if getattr(self, "is_in_train", False):  # `__init__` makes a model too
            self.model = model
            self._share_weights()
            self._train_head_first()
        return model

    def _share_weights(self) -> None:
        if self.is_fsdp_enabled and not isinstance(self.model, FSDPModule):
            share_weights(cast(nn.Module, self.model), self.args.device)

    def _train_head_first(self) -> None:
        if self.args.head_first_epochs is not None and self.resumed_log.checkpoint is None:
            train_head_first(self, self._another)

    def _another(self, **kwargs: Any) -> LayerFusionTrainer:
        """Return a Trainer of this one's class with other arguments, and with all that a subclass has set beside them,
        which its constructor may take in any way."""
        other = copy.copy(self)
        LayerFusionTrainer.__init__(other, **kwargs)
        return other

    @property
    def _loss_depends_on_device_batch(self) -> bool:
        """True if the loss depends on which rows share a device."""
        return loss_depends_on_device_batch(self.args)

    def _reset(self) -> None:
        """Forget a training before this one."""
        self._renew_evaluated_weights()
        self._forget_steps()
        self.attempts.begin()
        self.frozen_states.reset()  # the data may have changed
        self.remove_callback(SkippedSteps)
        self.add_callback(SkippedSteps())
        if self.model_init is not None and not isinstance(self.model_init, PreparedModelInit):
            self.model_init = PreparedModelInit(self.model_init, self.args)
        if self.args.world_size > 1 and self.model_wrapped is self.model:
            forget_preparation(self.model)

    def _forget_steps(self) -> None:
        """Forget what the steps of a training have summed up."""
        self.training_log.reset()
        if self.evaluated_weights is not None:
            self.evaluated_weights.reset()

    def _train_trial(
        self, trial: SearchTrial, checkpoint: str | None, ignore_keys: list[str] | None
    ) -> TrainOutput:
        """Train a trial of a search, and keep its checkpoints if it is the best so far."""
        is_kept = False
        trial.make_folder(self._get_output_dir(trial.trial))
        folder = trial.folder
        hp_name = self.hp_name if folder is None else lambda _: folder
        objective = trial.recorded(self.compute_objective, lambda: self.state.global_step)
        try:
            with (
                trial.failures(),
                trial.reporting(),
                changed(self, hp_name=hp_name, compute_objective=objective),
            ):
                # Ray and W&B hand over the values themselves.
                values = trial.trial if isinstance(trial.trial, dict) else self.hp_space(trial.trial)
                trial.set_arguments(values)
                self._renew_evaluated_weights()
                output = super().train(checkpoint, trial.trial, ignore_keys)
                best_step = self.state.best_global_step
                if self.args.load_best_model_at_end and best_step in trial.objectives:
                    self.objective = trial.objectives[best_step]
                is_kept = trial.is_kept(self.objective)
                trial.end(self.objective)
            return output
        finally:
            if not is_kept:
                trial.remove_folder()

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        self.resumed_log.finish_epoch(self.state, self.control)
        if not self.control.should_training_stop:
            super()._run_epoch(*args, **kwargs)

    def _end_epoch(self) -> None:
        """Log, evaluate and save as is due at the end of an epoch."""
        stops = self.control.should_training_stop
        self.control.should_log = self.control.should_evaluate = self.control.should_save = False
        self.control = self.callback_handler.on_epoch_end(self.args, self.state, self.control)
        self._maybe_log_save_evaluate(
            self.training_log.running_loss.since_log,
            self.last_step.grad_norm,
            self.model_wrapped,
            self._trial,
            math.ceil(self.state.epoch or 0),
            self._ignore_keys,
            time.time(),
            learning_rate=self.last_step.learning_rate,
        )
        self.control.should_training_stop |= stops

    def create_optimizer(self, model: nn.Module | None = None) -> Optimizer:
        """Create the optimizer of `args.optim` over `parameter_groups`, unless one was given.

        Raises:
            UserError: A rate of some parameters with an optimizer that makes its own groups; nothing to train.
        """
        if self.optimizer is not None:
            return super().create_optimizer(model)
        target = cast(PreTrainedModel, self.model if model is None else model)
        optimizer_class, options = self.optimizer_cls_and_kwargs or self.get_optimizer_cls_and_kwargs(
            self.args, target
        )
        if takes_groups(optimizer_class, options, self.args):
            groups = parameter_groups(target, self.args, self.get_decay_parameter_names(target))
            # The stock method prefers groups that come with the options to its own.
            options = {**options, "params": groups}
        with changed(self, optimizer_cls_and_kwargs=(optimizer_class, options)):
            return super().create_optimizer(model)

    # Losses and gradients

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor | int | None]:
        """Return the micro-batches of an optimizer step, each with its share of the step's examples."""
        self.guard.begin_step()
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self.compute_loss_func is not None or not batches:
            return batches, num_items
        args, rows = self.args, self.train_dataset
        if not has_length(rows):
            stream = self._train_stream
            if stream is not None and self.accelerator.gradient_state.end_of_dataloader:
                batches[-1] = without_repeats(
                    batches[-1], stream.count, self._train_batch_size, args.process_index, args.world_size
                )
            batches += to_complete_the_step(batches[-1], num_batches - len(batches))
        elif self.tasks is None and is_evened_out(args, self.accelerator):
            batches[-1] = without_repeats(
                batches[-1], len(rows), self._train_batch_size, args.process_index, args.world_size
            )
        self.loss_weighting.weigh(batches, self.accelerator, device)
        if self.tasks is not None:
            self.tasks.begin_step(batches, getattr(self.model, "main_input_name", "input_ids"))
        return batches, None

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, Any]:
        """Return the loss of a batch: in training, the sum over its tasks, weighed by its share of the step; in an
        evaluation, the model's mean."""
        if not model.training:
            return self._evaluation_loss(model, inputs, return_outputs, num_items_in_batch)
        if self.compute_loss_func is not None:
            loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        elif self.surgery is not None and not return_outputs:
            # The gradients are computed and combined here: what is returned adds nothing to them.
            step = self.state.global_step
            loss = self.surgery.backward(model, inputs, self.accelerator, step).requires_grad_()
        else:
            losses, outputs = self._weighed_losses(model, inputs)
            loss = reduce(torch.add, losses.values())
        # Weighed by the micro-batch's share, there is nothing left for the stock Trainer to divide by. Not so the loss
        # of a subclass that computes it without this method.
        self.loss_is_scaled_for_ga = True
        return (loss, outputs) if return_outputs else loss

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Return the floating-point operations of a pass; on cached states, those of the trained parameters."""
        states = [
            each[ENCODER_STATES] for each in by_task.task_inputs(inputs).values() if ENCODER_STATES in each
        ]
        if states:
            # Each task trains the parameters of its head alone.
            heads = len(self.train_dataset.tasks) if isinstance(self.train_dataset, MultitaskDataset) else 1
            return sum(count_operations(each, self.optimizer) for each in states) // heads
        return super().floating_point_ops(inputs)

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Train on a micro-batch, as `Trainer.training_step` does, and show its loss to the guard, also where a
        subclass computes that."""
        loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        self.guard.observe(loss)
        return loss

    def _step_losses(self, model: nn.Module, inputs: dict[str, Any]) -> dict[str, Tensor]:
        return self._weighed_losses(model, inputs)[0]

    def _weighed_losses(self, model: nn.Module, inputs: dict[str, Any]) -> tuple[dict[str, Tensor], Any]:
        """Return the loss of each task as it enters the sum of the step, and the model's output.

        Args:
            model: The model, wrapped or not.
            inputs: A micro-batch with its shares, as `get_batch_samples` returns it.
        """
        inputs = dict(inputs)
        shares = inputs.pop(SHARES, {})
        if TASKS in inputs:
            inputs = {TASKS: inputs[TASKS]}
        losses, outputs = self.task_losses(model, inputs)
        losses = weigh_losses(losses, shares)
        if self.tasks is not None:
            self.tasks.add_losses(losses)
            losses = self.tasks.weigh(losses)
        return losses, outputs

    def task_losses(self, model: nn.Module, inputs: dict[str, Any]) -> tuple[dict[str, Tensor], Any]:
        """Return the mean loss of each task over a training batch, and the model's output.

        A subclass adds here what a training method adds to a task's loss. A batch without a task is of `ONE_TASK`.
        """
        if self.distillation is not None:
            batch, losses_of = self.distillation.prepare(self.model.config, inputs)
            if self.loss_terms is not None:
                return self.loss_terms.losses(model, batch, self.state.global_step, losses_of)
            outputs = model(**batch)
            return losses_of(batch, outputs), outputs
        if self.loss_terms is not None:

            def own_losses(batch: Any, outputs: Any) -> dict[str, Tensor]:
                return self.class_weights.weigh(batch, outputs, by_task.task_losses(batch, outputs))

            return self.loss_terms.losses(model, inputs, self.state.global_step, own_losses)
        if self.tasks is None:
            loss, outputs = super().compute_loss(model, inputs, True)
            losses = {ONE_TASK: loss}
        else:
            outputs = model(**inputs)
            losses = dict(outputs["losses"]) if TASKS in inputs else {inputs[TASK]: outputs["loss"]}
        return self.class_weights.weigh(inputs, outputs, losses), outputs

    def _evaluation_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool, num_items: Tensor | int | None
    ) -> Tensor | tuple[Tensor, Any]:
        evaluation = self._evaluation
        # Counted before labels are taken out, as label smoothing does.
        items = None if evaluation is None else evaluation.count_items(inputs, self.args.device)
        loss, outputs = super().compute_loss(model, inputs, True, num_items)
        if evaluation is not None and items is not None:
            evaluation.add_loss(loss, items)
        return (loss, outputs) if return_outputs else loss

    def _diverged_tasks(self) -> list[str]:
        """Return the tasks whose loss, or else whose gradient, was not finite; where neither tells, the task of a step
        that trains one."""
        if self.tasks is None:
            return []
        alone = self.tasks.of_step if len(self.tasks.of_step) == 1 else []
        return self.tasks.diverged() or alone or (self.surgery.diverged if self.surgery is not None else [])

    def _get_grad_norm(self, model: nn.Module, grad_norm: Tensor | float | None = None) -> Tensor | float:
        norm: Tensor | float = super()._get_grad_norm(model, grad_norm)
        self.guard.grad_norm = norm
        self.last_step.grad_norm = None if norm is None else float(norm)
        return norm

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, as `Trainer.log` does, with what every source of `training_log` adds."""
        self.training_log.add_to(logs)
        super().log(logs, start_time)

    # Data loaders

    def get_train_dataloader(self) -> DataLoader:
        """Return the data loader of `train_dataset`; several tasks are mixed by `task_mixing`."""
        args = self.args
        if isinstance(self.train_dataset, MultitaskDataset):
            tasks = cast(Tasks, self.tasks)
            sampler = tasks.batch_sampler(self._train_batch_size, self.class_labels, self._epoch)
            loader = task_loader(args, self.train_dataset, sampler, self._collator())
            return cast(DataLoader, self.accelerator.prepare(loader))
        collator: Any = self._collator()
        if self.distillation is not None:
            collator = TeacherCollator(collator)
        keeping = nullcontext() if self.distillation is None else column_kept(self, TEACHER_LOGITS)
        with keeping, changed(self, data_collator=collator):
            grouped = args.train_sampling_strategy == "group_by_length"
            if not grouped and args.class_balance != "sampling":
                if args.world_size == 1 or has_length(self.train_dataset):
                    return super().get_train_dataloader()
                self._train_stream = CountedStream(self.train_dataset)
                with (
                    changed(self, train_dataset=self._train_stream),
                    changed(self.accelerator.dataloader_config, dispatch_batches=False),
                ):
                    return super().get_train_dataloader()
            return self._get_dataloader(
                self.train_dataset, "Training", self._train_batch_size, self._seeded_sampler, is_training=True
            )

    def _seeded_sampler(self, dataset: Any) -> SeededSampler:
        classes = self.class_labels[ONE_TASK].classes if self.args.class_balance == "sampling" else None
        return seeded_sampler(self.args, dataset, classes, self._main_input, self._epoch)

    def _epoch(self) -> int:
        return int(self.state.epoch or 0)

    @property
    def _main_input(self) -> str | None:
        names = getattr(self.processing_class, "model_input_names", None)
        return names[0] if names else None

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """Return the data loader of an evaluation, which shows every row once; of several tasks, one for each."""
        if isinstance(eval_dataset, TaskDatasets):
            loaders = {
                task: self.get_eval_dataloader(task if eval_dataset.are_given else rows)
                for task, rows in eval_dataset.items()
            }
            return cast(DataLoader, TaskLoaders(eval_dataset, loaders))
        if eval_dataset is None and self.eval_dataset is None:
            return super().get_eval_dataloader()  # refuses it
        key = eval_dataset if isinstance(eval_dataset, str) else "eval"
        # The stock Trainer keeps one for rows that it is given too, and shows them again for other rows.
        is_kept = self.args.dataloader_persistent_workers and (
            eval_dataset is None or isinstance(eval_dataset, str)
        )
        if is_kept and key in self._eval_loaders:
            return self._eval_loaders[key]
        rows = self.eval_dataset[key] if isinstance(eval_dataset, str) else eval_dataset
        with changed(self, data_collator=self._collator()):
            loader = self._evaluation_loader(self.eval_dataset if rows is None else rows, "Evaluation")
        if is_kept:
            self._eval_loaders[key] = loader
        return loader

    def get_test_dataloader(self, test_dataset: Dataset) -> DataLoader:
        """Return the data loader of a prediction, which shows every row once. Texts whose states are cached are not
        encoded again; others are not added to the cache."""
        collator = self.data_collator if self.frozen_states.states is None else self._collator()
        with changed(self, data_collator=collator):
            return self._evaluation_loader(test_dataset, "test")

    def get_local_dataloader(self, dataset: Dataset) -> DataLoader:
        """Return a data loader of all rows in their order, which a single process can read while the others wait."""
        collator = self.frozen_states.present(self.data_collator, cast(PreTrainedModel, self.model))
        return DataLoader(dataset, self.args.eval_batch_size, collate_fn=collator)

    def _evaluation_loader(self, dataset: Any, description: str) -> DataLoader:
        args, batch_size = self.args, self.args.eval_batch_size
        if self.accelerator.dataloader_config.split_batches:
            batch_size = max(batch_size // args.world_size, 1)
        dataset = self._with_inputs(dataset, "prediction" if description == "test" else "evaluation")
        rows = CountedStream(dataset) if isinstance(dataset, IterableDataset) else dataset
        # The collator of several tasks takes the columns that it needs.
        removes = args.remove_unused_columns and self.tasks is None
        with changed(args, remove_unused_columns=removes), every_row(args, self.accelerator, dataset):
            return self._get_dataloader(rows, description, batch_size, cast(Any, self._evaluation_sampler))

    def _evaluation_sampler(self, rows: Any) -> Sampler | None:
        return evaluation_sampler(self.args, rows, self._main_input)

    def _collator(self) -> Any:
        """Return the collator of training and evaluation: of a cached encoder's states, where there is a cache."""
        if self.args.cache_frozen_states is None:
            return self.data_collator
        collator = self._state_collator()
        return collator if self.tasks is None else MultitaskCollator(collator)

    def _state_collator(self) -> StateCollator:
        """Return the collator of one task's rows that puts states in place of texts."""
        collate, datasets = self.data_collator, [self.train_dataset, self.eval_dataset]
        if self.tasks is not None:
            collate, datasets = self.tasks.collator.collate, self.tasks.every_text()
        model = cast(PreTrainedModel, self.model)
        return self.frozen_states.collator(collate, model, self.accelerator, datasets)

    def training_states(self) -> dict[str, Iterator[dict[str, Any]]]:
        """Return, by task, an iterator over the cached states and labels of the training rows, in their order, every
        row in every process; `ONE_TASK` names the rows of a run of one task."""
        collator, inputs = self._state_collator(), encoder_inputs(self.model)
        return {
            task: rows_in_order(of_task, collator, self.args.eval_batch_size, inputs)
            for task, of_task in self._training_rows().items()
        }

    def _training_rows(self) -> dict[str, Any]:
        """Return the training rows by task; `ONE_TASK` names those of a run of one task."""
        if isinstance(self.train_dataset, MultitaskDataset):
            return {task: of_task.rows for task, of_task in self.train_dataset.tasks.items()}
        return {ONE_TASK: self.train_dataset}

    # Evaluation

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Evaluate; several tasks as one evaluation: one entry of the log, one `on_evaluate`.

        Args:
            eval_dataset: As for `Trainer.evaluate`; with several tasks, the data of each.
            ignore_keys: As for `Trainer.evaluate`.
            metric_key_prefix: The prefix of each metric's name.

        Returns:
            With several tasks, for each that has labels its `eval_<task>_<metric>` and `eval_<task>_loss`;
            `eval_mean`, the mean over the tasks of each one's main metric: that of `task_metrics`, or else the first
            that `compute_metrics` returns of which more is better; and `eval_loss`, by `task_weights` and
            `task_loss`. Tasks without labels are left out.

        Raises:
            UserError: Data of no task or an unknown one, none with labels, or a metric of `task_metrics` that is
                missing.
        """
        if self.tasks is not None:
            if not isinstance(eval_dataset, TaskDatasets):
                eval_dataset = self._with_inputs(eval_dataset, "evaluation")
            eval_dataset = self.tasks.to_evaluate(eval_dataset, self.eval_dataset)
        with self._with_evaluated_weights():
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)

    def predict(
        self, test_dataset: Any, ignore_keys: list[str] | None = None, metric_key_prefix: str = "test"
    ) -> Any:
        """Predict, as `Trainer.predict` does; with several tasks the data are by task.

        Returns:
            A `PredictionOutput`; with several tasks, one for each, by task.

        Raises:
            UserError: With several tasks, data of no task or an unknown one.
        """
        if self.tasks is None:
            with self._with_evaluated_weights():
                return super().predict(test_dataset, ignore_keys, metric_key_prefix)
        outputs: dict[str, PredictionOutput] = {}
        test_dataset = self._with_inputs(test_dataset, "prediction")
        for task, dataset in self.tasks.datasets(test_dataset, "prediction").items():
            with (
                self._with_evaluated_weights(),
                changed(self, compute_metrics=function_of(self.compute_metrics, task)),
            ):
                outputs[task] = super().predict(dataset, ignore_keys, f"{metric_key_prefix}_{task}")
        return outputs

    def evaluation_loop(
        self,
        dataloader: DataLoader | TaskLoaders,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Evaluate as `Trainer.evaluation_loop` does, with predictions in the rows' order and the loss of all rows.

        torch's generator stays as it was. A data loader draws a seed each time it starts: where a checkpoint is saved
        between the end of an epoch and its evaluation, the run that resumes from it would otherwise draw other dropout
        masks.

        A model that FSDP2 would shard is evaluated whole where it has not been trained yet, as accelerate shards it
        together with an optimizer only.
        """
        if isinstance(dataloader, TaskLoaders):
            return self._evaluation_of_tasks(dataloader, description, ignore_keys, metric_key_prefix)
        evaluation = ShardedEvaluation(dataloader, self.accelerator, self.label_names)
        gather, metrics = self.gather_function, self.compute_metrics
        if metrics is not None and not self.args.batch_eval_metrics:
            metrics = evaluation.by_row(metrics)
        is_sharded = self.is_fsdp_enabled and isinstance(self.model, FSDPModule)
        with (
            torch.random.fork_rng(devices=[]),
            changed(
                self,
                is_fsdp_enabled=is_sharded,
                _evaluation=evaluation,
                compute_metrics=metrics,
                gather_function=lambda tensors: evaluation.gather(tensors, gather),
            ),
        ):
            output = super().evaluation_loop(
                cast(DataLoader, evaluation),
                description,
                prediction_loss_only,
                ignore_keys,
                metric_key_prefix,
            )
        if is_sharded:
            reshard(self.model)
        return evaluation.corrected(output, metric_key_prefix, self.args.logging_nan_inf_filter)

    def _evaluation_of_tasks(
        self, loaders: TaskLoaders, description: str, ignore_keys: list[str] | None, prefix: str
    ) -> EvalLoopOutput:
        found: dict[str, dict[str, float]] = {}
        for task, loader in loaders.loaders.items():
            function = function_of(self.compute_metrics, task)
            with changed(self, compute_metrics=function):
                loss_only = True if function is None else None
                output = self.evaluation_loop(
                    loader, f"{description} of {task}", loss_only, ignore_keys, f"{prefix}_{task}"
                )
            found[task] = output.metrics
        metrics = {name: value for of_task in found.values() for name, value in of_task.items()}
        metrics |= cast(Tasks, self.tasks).over_tasks(found, prefix)
        return EvalLoopOutput(None, None, metrics, sum(map(len, loaders.dataset.values())))

    # Checkpoints

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model, as `Trainer.save_model` does, with readable arguments and a manifest of checksums.

        Raises:
            StorageError: It could not be written.
        """
        folder = Path(output_dir or str(self.args.output_dir))
        with (
            self.saver.saving_model(folder, self.model, self.processing_class),
            own_class(cast(nn.Module, self.model)),
            self._with_evaluated_weights(),
        ):
            super().save_model(output_dir, _internal_call=True)
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        run_dir = Path(self._get_output_dir(trial))
        folder = run_dir / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        with self.saver.saving(folder):
            with self._with_evaluated_weights():
                super()._save_checkpoint(model, trial)
            if not self.args.save_only_model:
                self._save_own_state(folder)
        if self.args.push_to_hub and self.is_world_process_zero():
            self.push_in_progress = self.hub_push.push_checkpoint(
                folder,
                self.state.global_step,
                self.state.epoch or 0,
                self.push_in_progress,
                lambda: self.callback_handler.on_push_begin(self.args, self.state, self.control),
            )
        self.saver.rotate(run_dir, self.state.best_model_checkpoint)

    def _save_own_state(self, folder: Path) -> None:
        state = self.training_log.state()  # on every process
        if self.args.should_save:
            write_text(folder / LOG_STATE_NAME, json.dumps(state) + "\n")
            if self.loss_terms is not None:
                self.loss_terms.save(folder)
        if self.evaluated_weights is not None:
            self.evaluated_weights.save(cast(nn.Module, self.model), folder, self.args.should_save)

    @contextmanager
    def _with_evaluated_weights(self) -> Iterator[None]:
        """In training, give the model the weights that are evaluated while the block runs."""
        if self.evaluated_weights is None or not self.is_in_train:
            yield
            return
        with self.evaluated_weights.applied(cast(nn.Module, self.model)):
            yield

    def _save_evaluated(self, folder: str) -> None:
        with self._with_evaluated_weights():
            self.save_model(folder, _internal_call=True)

    def _load_own_state(self, folder: Path) -> None:
        if self.loss_terms is not None:
            self.loss_terms.load(folder)
        check_resumable(self.evaluated_weights, folder)
        if self.evaluated_weights is not None:
            self.evaluated_weights.load(cast(nn.Module, self.model), folder)

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        check_computed(self.args, metrics)
        return is_candidate(self.args, self.control) and super()._determine_best_metric(metrics, trial)

    def _load_best_model(self) -> None:
        folder = str(self.state.best_model_checkpoint)
        verify_checkpoint(folder)
        if self.evaluated_weights is not None:
            self.evaluated_weights.reset()  # the checkpoint's model has its own
        if isinstance(self.model, PeftModel):
            read_adapters(self.model, folder)  # the stock method reads one of several adapters
        else:
            check_fits(cast(nn.Module, self.model), folder)
            super()._load_best_model()

    # The Hub

    def push_to_hub(  # type: ignore[override]
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> CommitInfo | Future[CommitInfo] | None:
        """Save the model and its card and push `output_dir`, without what `NEVER_PUSHED` names.

        Args:
            commit_message: As for `Trainer.push_to_hub`, as are `blocking`, `token`, `revision` and `private`.
            blocking: See above.
            token: See above.
            revision: See above.
            private: See above.
            **kwargs: As for `create_model_card`.

        Returns:
            The commit, without `blocking` a future of it; None on all but the main process.

        Raises:
            PushError: It cannot be pushed; `output_dir` is complete.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if self.hub_model_id is None and self.is_world_process_zero():
            self.hub_model_id = open_run_repository(self.args, token, private)
            self.push_in_progress = None
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        self.create_model_card(**kwargs)
        self._finish_current_push()
        return self.hub_push.push_folder(commit_message or "End of training", token, revision, blocking)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write a card of what the Trainer knows into `output_dir`, with a plot of its training. A card that is there
        and not a Trainer's own is left as it is.

        Args:
            *args: As for `Trainer.create_model_card`.
            **kwargs: As for `Trainer.create_model_card`.
        """
        if self.is_world_process_zero():
            write_card(self, *args, **kwargs)
