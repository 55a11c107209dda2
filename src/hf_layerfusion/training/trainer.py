"""The Trainer of this package: the stock one, with its gaps closed."""

from __future__ import annotations

from typing import Any, cast

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import PreTrainedModel, TrainingArguments, set_seed
from transformers.trainer_optimizer import is_optimizer_factory
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import TrainOutput, has_length
from transformers.training_args import OptimizerNames

from hf_layerfusion.errors import UserError
from hf_layerfusion.regularizers.task_outputs import ONE_TASK
from hf_layerfusion.training.adapters import check_adapters
from hf_layerfusion.training.callbacks import EarlyStopping, GradualUnfreezing
from hf_layerfusion.training.checkpointing import CheckpointingTrainer
from hf_layerfusion.training.divergence import GuardedTraining
from hf_layerfusion.training.frozen_state_cache import FrozenStates, check_cacheable
from hf_layerfusion.training.hp_search import SearchingTrainer
from hf_layerfusion.training.hub_push import PushingTrainer
from hf_layerfusion.training.parameter_groups import (
    epoch_decay_schedule,
    freeze_encoder,
    parameter_groups,
)
from hf_layerfusion.training.probe_start import ProbeStart, check_probe_start
from hf_layerfusion.training.samplers import RowOrder, SeededSampler
from hf_layerfusion.training.stream_checks import check_stream
from hf_layerfusion.training.tokenizers import limit_to_model
from hf_layerfusion.training.training_arguments import LayerFusionTrainingArguments

# What only an optimizer that takes parameter groups can do.
GROUP_OPTIONS = ("fusion_learning_rate", "head_learning_rate", "embedding_learning_rate", "layer_decay")


class LayerFusionTrainer(
    GuardedTraining, FrozenStates, SearchingTrainer, CheckpointingTrainer, PushingTrainer
):
    """A `transformers.Trainer` for any `PreTrainedModel` whose loss is a mean over the examples of its batch.

    It differs from the stock Trainer in this:

    - Encoder and the rest (fuser, head) are parameter groups with rates of their own; they may decay by epoch.
    - Gradient accumulation and several processes give the gradient of the undivided batch: each micro-batch
      weighs as its share of the examples, less those that accelerate repeats to even out the last batch.
    - Checkpoints carry a manifest of checksums. Damaged ones are refused, and passed over when the newest is
      asked for. Weights that do not fit the model are refused too.
    - A resumed run ends in the same weights as one that was not interrupted: evaluation leaves the random
      generator alone, early stopping counts on, and examples grouped by length come in an order of their own.
    - Prediction i answers row i, and each row counts once in the evaluation's loss, for any number of processes, also
      where batches are grouped by length, are read from a stream or do not come out even (`EvaluatingTrainer`).
    - A loss or gradient that is not finite never reaches the weights: the run stops, or skips and counts the step.
    - Several processes train one model also where it was evaluated before training.
    - `training_args.json` is written beside `training_args.bin`, and neither holds the Hub's token.
    - Pushes to the Hub leave that pickle and the texts of predictions out and keep a card that is there; those in the
      background tell of their failures, and `train` raises `PushError` if the last save has not arrived.
    - It takes the data of several tasks. The model is then called with `task=name` and that task's batch, and gives
      `loss` and `logits`; where `task_mixing` puts tasks together, with `tasks={name: batch}`, and gives `losses`
      and `logits` by task. Every process has the same tasks in each step.

    - `regularizers` (SMART and its kin) add terms to each task's loss; `gradient_surgery` (PCGrad and its kin)
      combines the tasks' gradients.
    - With `cache_frozen_states` a frozen encoder reads each text once, not once an epoch. With `init_from_probe` the
      head then starts from a linear probe.
    - The saved tokenizer cuts texts off at what the model takes: `model_max_length` is lowered to that.
    - `hyperparameter_search` judges a trial by the model that it would keep (`SearchingTrainer`).
    - Options that need the number of rows refuse a stream, where the stock Trainer leaves them out.

    Args:
        model: As for `Trainer`. With several tasks and `tasks` in its configuration, these must be the data's.
        args: Must be `LayerFusionTrainingArguments`.
        **kwargs: Every other argument of `Trainer`, by name. With several tasks, `train_dataset` and `eval_dataset`
            are dictionaries by task; their rows hold what the tokenizer gives and `labels`, each a list of two lists
            where a pair's texts stand apart, and `swapped_…` columns for a pair in its other order, of which chance
            takes one in training. `compute_metrics` is a function, or one for each task; `data_collator` pads the
            rows of one task, by default by the tokenizer given as `processing_class`.

    Raises:
        UserError: see the arguments' class, `train`, `evaluate` and `create_optimizer`; and tasks that the data, the
            model and the arguments do not share, or options that several tasks exclude.
    """

    args: LayerFusionTrainingArguments
    optimizer_cls_and_kwargs: tuple[type[Optimizer], dict[str, Any]] | None
    lr_scheduler: LRScheduler | None

    def __init__(
        self,
        model: PreTrainedModel | nn.Module | None = None,
        args: LayerFusionTrainingArguments | None = None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(args, LayerFusionTrainingArguments):
            raise UserError(
                f"args must be LayerFusionTrainingArguments, found {type(args).__name__}; "
                "it takes every field of TrainingArguments"
            )
        if model is not None:
            check_adapters(model, args)
            freeze_encoder(model, args)
            check_cacheable(model, args)
            if args.init_from_probe:
                check_probe_start(model)
        check_stream(kwargs.get("train_dataset"), args)
        super().__init__(model, args, **kwargs)
        limit_to_model(self.processing_class, self.model)
        # What `num_items_in_batch` does inside a model differs from class to class, and some ignore it.
        self.model_accepts_loss_kwargs = False
        self._updates_per_epoch: int | None = None
        self._rates: dict[str | None, float] = {}
        if args.cache_frozen_states is not None:
            self.add_callback(ProbeStart(self.training_states))
        if args.early_stopping_patience is not None:
            self.add_callback(EarlyStopping())
        if args.unfreeze_per_epoch is not None:
            self.add_callback(GradualUnfreezing())

    def train(
        self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any
    ) -> TrainOutput:
        """See `CheckpointingTrainer.train`."""
        self.reset()
        if self.args.world_size > 1 and self.model_wrapped is self.model:
            # An evaluation before marks the bare model as prepared. accelerate would then leave it bare, and each
            # process would train weights of its own.
            self.model.__dict__.pop("_is_accelerate_prepared", None)
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def call_model_init(self, trial: Any = None) -> PreTrainedModel:
        """As the stock method; with frozen what the arguments keep as it is. The seed is set once more, so that
        training draws what it would draw for a model made before its Trainer."""
        model = super().call_model_init(trial)
        check_adapters(model, self.args)
        freeze_encoder(model, self.args)
        check_cacheable(model, self.args)
        set_seed(self.args.seed)
        return model

    def _set_signature_columns_if_needed(self) -> None:
        """As the stock method, with the columns that the encoder declares as its inputs beside ids and masks."""
        super()._set_signature_columns_if_needed()
        names: list[str] = self._signature_columns
        config = getattr(self.model, "config", None)
        names += [name for name in getattr(config, "extra_inputs", ()) if name not in names]

    # Rates

    def create_optimizer(self, model: nn.Module | None = None) -> Optimizer:
        """Make the optimizer of `args.optim` over `parameter_groups`, unless one was given.

        Raises:
            UserError: a rate of some parameters with an optimizer that makes its own groups; nothing to train.
        """
        if self.optimizer is not None:
            return super().create_optimizer(model)
        target = cast(PreTrainedModel, self.model if model is None else model)
        given = self.optimizer_cls_and_kwargs
        optimizer_class, options = given or self.get_optimizer_cls_and_kwargs(self.args, target)
        if is_optimizer_factory(optimizer_class) or options.keys() & {"params", "model", "optimizer_dict"}:
            asked = [name for name in GROUP_OPTIONS if getattr(self.args, name) not in (None, 1)]
            if asked:
                raise UserError(
                    f"{', '.join(asked)} needs an optimizer that takes parameter groups, and "
                    f"optim={OptimizerNames(self.args.optim).value} makes its own; "
                    "choose another, such as adamw_torch, or leave the option out"
                )
            return super().create_optimizer(model)
        groups = parameter_groups(target, self.args, self.get_decay_parameter_names(target))
        # The stock method prefers groups that come with the options to its own.
        self.optimizer_cls_and_kwargs = (optimizer_class, {**options, "params": groups})
        try:
            return super().create_optimizer(model)
        finally:
            self.optimizer_cls_and_kwargs = given

    def set_initial_training_values(
        self, args: TrainingArguments, dataloader: DataLoader
    ) -> tuple[int, int, int, int, int, int | None, int]:
        """As the stock method; remembers the number of optimizer steps in an epoch."""
        values = super().set_initial_training_values(args, dataloader)
        self._updates_per_epoch = values[1] if has_length(dataloader) else None
        return values

    def create_scheduler(self, num_training_steps: int, optimizer: Optimizer | None = None) -> LRScheduler:
        """Make the schedule of `lr_scheduler_type`, or that of `epoch_decay`, unless one was given.

        Raises:
            UserError: `epoch_decay` on training data whose length is not known.
        """
        if self.lr_scheduler is None and self.args.epoch_decay != 1:
            if self._updates_per_epoch is None:
                self.set_initial_training_values(self.args, self.get_train_dataloader())
            if self._updates_per_epoch is None:
                raise UserError(
                    f"epoch_decay={self.args.epoch_decay} needs training data of a known length, found a "
                    "stream; set epoch_decay=1 or load the data without streaming"
                )
            self.lr_scheduler = epoch_decay_schedule(
                cast(Optimizer, optimizer or self.optimizer), self.args.epoch_decay, self._updates_per_epoch
            )
            self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)

    def _get_learning_rate(self) -> float:
        # Called before the scheduler steps, so these are the rates of the step that will be logged.
        groups = cast(Optimizer, self.optimizer).param_groups
        self._rates = {group.get("name"): group["lr"] for group in groups}
        return super()._get_learning_rate()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As the stock method; `learning_rate` is the encoder's, or that of its top layer, and the rate of each other
        part of the model is added where it differs: `fusion_learning_rate`, `layer_0_learning_rate` and so on."""
        if "learning_rate" in logs:
            rates = {
                str(name).removesuffix("_no_decay"): float(rate) for name, rate in self._rates.items() if name
            }
            in_encoder = [
                rate for name, rate in rates.items() if name not in ("fusion", "head", "embeddings")
            ]
            if in_encoder:
                logs["learning_rate"] = in_encoder[-1]
            logs |= {
                f"{name}_learning_rate": rate for name, rate in rates.items() if rate != logs["learning_rate"]
            }
        super().log(logs, start_time)

    def log_state(self) -> dict[str, Any]:
        """Return `GuardedTraining.log_state` with the rates of the last step."""
        return super().log_state() | {"rates": list(self._rates.items())}

    def load_log_state(self, state: dict[str, Any]) -> None:
        """Take up what `log_state` returned."""
        super().load_log_state(state)
        self._rates = dict(state["rates"])

    # Order of the examples

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        sampler = super()._get_train_sampler(train_dataset)
        grouped = isinstance(sampler, LengthGroupedSampler)
        balanced = self.args.class_balance == "sampling"
        if not (grouped or balanced):
            return sampler
        args = self.args
        order = RowOrder(
            len(sampler),
            # All examples of an optimizer step, so that the order does not depend on how they are shared out.
            args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
            lengths=sampler.lengths if grouped else None,
            classes=self._classes[ONE_TASK] if balanced else None,
        )
        seed = args.seed if args.data_seed is None else args.data_seed
        return SeededSampler(order, seed, epoch=lambda: int(self.state.epoch or 0))
