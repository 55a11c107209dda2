"""The options of a run: `transformers.TrainingArguments` and those of this package."""

import copy
import math
import os
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from transformers import TrainingArguments
from transformers.trainer_utils import IntervalStrategy, SchedulerType

from hf_layerfusion.errors import UserError, nearest
from hf_layerfusion.gradient_surgery.registry import AGGREGATORS, task_weights
from hf_layerfusion.metric_registry import greater_is_better, known_direction
from hf_layerfusion.regularizers.registry import make_regularizers
from hf_layerfusion.training.launch_checks import (
    check_launcher,
    check_parallelism,
    check_processes,
    check_sharding,
    warn_of_slow_bf16,
)
from hf_layerfusion.training.option_exclusions import check_exclusions
from hf_layerfusion.training.probe_recipes import FROZEN_TRAINING, TUNED_TRAINING
from hf_layerfusion.training.task_mixing import TASK_MIXINGS

CHECKPOINTING = (
    "activation_checkpointing"
    if hasattr(TrainingArguments, "activation_checkpointing")
    else "gradient_checkpointing"  # before transformers 5.23
)
"""The name of gradient checkpointing among the options of the installed transformers."""

NOT_NEGATIVE = (
    "learning_rate", "fusion_learning_rate", "head_learning_rate", "embedding_learning_rate", "weight_decay",
    "max_grad_norm", "adam_epsilon",
)  # fmt: skip
COUNTS = ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps")
SEEDS = ("seed", "data_seed")
LARGEST_TEMPERATURE = 100.0
LARGEST_SEED = 2**32 - 1
"""NumPy's."""


def check_seed(name: str, seed: int | None) -> None:
    """Check a seed; None passes.

    Args:
        name: the option, for the message.
        seed: its value.

    Raises:
        UserError: if NumPy takes no such seed.
    """
    if seed is not None and not 0 <= seed <= LARGEST_SEED:
        raise UserError(f"{name} must lie between 0 and {LARGEST_SEED}, found {seed}; choose a number there")


@dataclass
class LayerFusionTrainingArguments(TrainingArguments):
    """The options of a run: every field of `TrainingArguments`, and those below.

    Two defaults differ: `logging_nan_inf_filter` is False, because a loss that is not finite stops the run;
    `restore_callback_states_from_checkpoint` is True, because a resumed run counts on towards early stopping.
    `greater_is_better` is by default that of `metric_for_best_model` in `metric_table`, and so is the `mode` of the
    schedules `reduce_lr_on_plateau` and `greedy`, which transformers leaves at "min" for every metric.

    Raises:
        UserError: a value out of its range, two options that exclude each other, or processes that do not know of each
            other (`launching`).
    """

    greater_is_better: bool | None = field(
        default=None,
        metadata={
            "help": "Whether more of metric_for_best_model is better. Default: what is known of the metric, see "
            "hf_layerfusion.metric_registry."
        },
    )
    fusion_learning_rate: float | None = field(
        default=None,
        metadata={
            "help": "Initial learning rate of all that is not the pretrained encoder: fuser and head. "
            "Default: learning_rate."
        },
    )
    head_learning_rate: float | None = field(
        default=None,
        metadata={"help": "Initial learning rate of the heads alone. Default: fusion_learning_rate."},
    )
    embedding_learning_rate: float | None = field(
        default=None,
        metadata={
            "help": "Learning rate of the encoder's embeddings; 0 freezes them. Default: learning_rate, or what "
            "layer_decay makes of it."
        },
    )
    layer_decay: float = field(
        default=1.0,
        metadata={
            "help": "Each layer of the encoder learns at this times the rate of the layer above it, the top one at "
            "learning_rate (SerBERTus, section 4.3.4: 0.95)."
        },
    )
    frozen_layers: int = field(
        default=0,
        metadata={
            "help": "Keep the encoder's embeddings and this many of its layers, from below, as they are."
        },
    )
    unfreeze_per_epoch: int | None = field(
        default=None,
        metadata={
            "help": "Gradual unfreezing (Howard and Ruder 2018, section 3.3): the first epoch trains fuser and head "
            "alone, each later one this many further layers of the encoder, from the top. Default: all from the start."
        },
    )
    decay_all: bool = field(
        default=False,
        metadata={
            "help": "Apply weight_decay to every parameter, as the code of BERT-LSTM does. Default: not to biases and "
            "LayerNorms, as in the stock Trainer."
        },
    )
    epoch_decay: float = field(
        default=1.0,
        metadata={
            "help": "Every learning rate is multiplied by this after each epoch (GRUBERT, section 2.3: 0.9). "
            "Below 1 it needs lr_scheduler_type=constant."
        },
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={
            "help": "Stop after this many evaluations in a row without a better metric_for_best_model. "
            "Needs load_best_model_at_end. Default: never."
        },
    )
    regularizers: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": "Terms added to the loss: smart, bregman, rdrop or freelb as it is, or several with settings "
            'as json: {"smart": {"weight": 5, "mode": "smart-pytorch"}}. The settings are the fields of the classes in '
            "hf_layerfusion.regularizers."
        },
    )
    low_memory: bool = field(
        default=False,
        metadata={
            "help": "With regularizers, the encoder's layers keep no activations but run again in the backward: the "
            "same gradients in less memory than a plain step's, for a quarter more time."
        },
    )
    gradient_surgery: str | None = field(
        default=None,
        metadata={
            "help": "What combines the gradients of tasks that are trained together: pcgrad, or with torchjd "
            "installed upgrad, mgda, cagrad, dualproj, imtl_g or aligned_mtl; sum adds them, as without surgery, and "
            "logs their conflicts. Needs task_mixing=together. Default: their losses are added."
        },
    )
    freeze_encoder: bool = field(
        default=False,
        metadata={"help": "Train fuser and head only, the pretrained encoder stays as it is."},
    )
    cache_frozen_states: str | None = field(
        default=None,
        metadata={
            "help": "Folder where the states that the model reads of its frozen encoder are kept, so that the encoder "
            "runs once for each text, as at inference: with freeze_encoder, and for models that take encoder_states. "
            "Default: it runs in every step."
        },
    )
    frozen_states_dtype: Literal["float32", "float16", "bfloat16"] | None = field(
        default=None,
        metadata={
            "help": "Type in which cache_frozen_states keeps the states; float16 and bfloat16 take half the space. "
            "Default: bfloat16 with bf16, float16 with fp16, else that of the model."
        },
    )
    init_from_probe: bool = field(
        default=False,
        metadata={
            "help": "Start the head's last layer from a linear probe (logistic or ridge regression, its strength "
            "chosen by cross-validation) on what that layer reads of the training texts: with cache_frozen_states, or "
            "with head_first_epochs, after which the encoder is trained too."
        },
    )
    head_first_epochs: float | None = field(
        default=None,
        metadata={
            "help": "Epochs that train fuser and head alone, on the states of the encoder as it is, before the encoder "
            "is trained with them (Kumar et al. 2022: linear probing, then fine-tuning). They cost one pass of the "
            "encoder. Default: none."
        },
    )
    ema_decay: float | None = field(
        default=None,
        metadata={
            "help": "Evaluate and keep an exponential moving average of the weights with this decay, such as 0.999, "
            "which warms up from 0.1. Default: the weights themselves."
        },
    )
    average_last: float | None = field(
        default=None,
        metadata={
            "help": "Evaluate and keep the mean of the weights over this last share of the steps, such as 0.25 "
            "(stochastic weight averaging). Default: the weights themselves."
        },
    )
    weight_interpolation: float | None = field(
        default=None,
        metadata={
            "help": "Evaluate and keep weights between those at the start of training and the trained ones: the share "
            "of the trained ones, such as 0.5 (WiSE-FT: Wortsman et al. 2022). For a start that is a good model by "
            "itself, as after head_first_epochs. Default: the trained weights, as with 1."
        },
    )
    distillation_weight: float | None = field(
        default=None,
        metadata={
            "help": "Train on a teacher's predictions too, the column teacher_logits of the training rows: factor of "
            "the loss towards them, above 0 and at most 1; the loss towards the labels has the rest (Hinton et al. "
            "2015). Default: no teacher."
        },
    )
    distillation_temperature: float | None = field(
        default=None,
        metadata={
            "help": "Temperature of the teacher's and the model's probabilities in the loss towards the teacher; more "
            "makes the classes more alike. A regression has none. Default: 2."
        },
    )
    on_divergence: Literal["stop", "skip"] = field(
        default="stop",
        metadata={
            "help": "What becomes of a step whose loss or gradient is not finite. stop: the run ends and names step "
            "and task; skip: the step is left out and counted as skipped_steps; an epoch of such steps alone ends the "
            "run."
        },
    )
    class_balance: Literal["none", "sampling", "weights"] = field(
        default="none",
        metadata={
            "help": "For classes of unequal size: sampling shows each class as often as any other, weights multiplies "
            "the cross-entropy of a row by N / (C n_c), n_c the rows of its class. A regression stays as it is without "
            "balance_bins."
        },
    )
    balance_bins: int | None = field(
        default=None,
        metadata={
            "help": "With class_balance: balance a regression too, by this many bins of equal width between the lowest "
            "and the highest value of its training labels, as if they were classes (the loss must be the squared "
            "error)."
        },
    )
    task_mixing: str = field(
        default="shuffled",
        metadata={
            "help": "Which tasks each step trains, where there are several. shuffled: one a step, each batch once an "
            "epoch, in random order; round_robin: one a step in turn, to the end of the shortest; together: a batch "
            "of each in every step, to the end of the shortest; round_robin_longest, together_longest: to the end of "
            "the longest, the others start over; proportional, square_root, temperature, annealed: one a step, "
            "drawn by rows ** 1, ** 0.5, ** (1 / task_temperature), and from ** 1 in the first epoch to ** 0.2 in "
            "the last."
        },
    )
    task_temperature: float = field(
        default=2.0,
        metadata={"help": "For task_mixing=temperature; 1 is proportional, above it small tasks gain."},
    )
    task_loss: Literal["sum", "mean"] = field(
        default="sum",
        metadata={"help": "What becomes of the losses of the tasks that a step trains together."},
    )
    task_weights: dict[str, float] | str | None = field(
        default=None,
        metadata={"help": 'Factors of the tasks\' losses, as json: {"sts": 0.5}. Default: 1 for each.'},
    )
    task_metrics: dict[str, str] | str | None = field(
        default=None,
        metadata={
            "help": 'The metric of each task that enters eval_mean, as json: {"sts": "spearmanr"}. Default: the first '
            "of the task's metrics of which more is better."
        },
    )
    best_of_each_task: bool = field(
        default=False,
        metadata={
            "help": "After each evaluation in training, save the model to best-TASK for each task that is better than "
            "ever before."
        },
    )
    logging_nan_inf_filter: bool = field(
        default=False,
        metadata={"help": "Leave losses that are not finite out of the logged and the evaluation loss."},
    )
    restore_callback_states_from_checkpoint: bool = field(
        default=True,
        metadata={"help": "Resume with the callbacks' states, such as the count towards early stopping."},
    )

    # Fields that a command line gives as json.
    _VALID_DICT_FIELDS = (
        *TrainingArguments._VALID_DICT_FIELDS,
        "task_weights",
        "task_metrics",
        "regularizers",
    )

    def __post_init__(self) -> None:
        check_launcher(os.environ)
        check_parallelism(self)
        if self.greater_is_better is None and self.metric_for_best_model is not None:
            self.greater_is_better = greater_is_better(self.metric_for_best_model)
        super().__post_init__()
        check_processes(self)
        warn_of_slow_bf16(self)
        self.check()

    def check(self) -> None:
        """Check the fields of this class once more, after some were set anew.

        Raises:
            UserError: a value out of its range, or two options that exclude each other.
        """
        self._set_schedule_mode()
        self._check_numbers()
        self._check_rates()
        self._check_averages()
        self._check_distillation()
        if self.init_from_probe and self.cache_frozen_states is None and self.head_first_epochs is None:
            raise UserError(
                "init_from_probe needs the encoder's states of all training texts, found neither cache_frozen_states "
                "nor head_first_epochs; set cache_frozen_states to a folder and freeze_encoder=True, or "
                "head_first_epochs=1 to train the encoder afterwards"
            )
        dtypes = ("float32", "float16", "bfloat16")
        if self.frozen_states_dtype not in (None, *dtypes):
            raise UserError(
                f"frozen_states_dtype must be one of {', '.join(dtypes)}, found {self.frozen_states_dtype!r}; "
                f"{nearest(str(self.frozen_states_dtype), dtypes)}"
            )
        has_states = self.cache_frozen_states is not None or self.head_first_epochs is not None
        if self.frozen_states_dtype is not None and not has_states:
            raise UserError(
                f"frozen_states_dtype={self.frozen_states_dtype} is of cached states, found neither "
                "cache_frozen_states nor head_first_epochs; set one of them or leave frozen_states_dtype out"
            )
        self._check_direction()
        self._check_early_stopping()
        self._check_methods()
        self._check_class_balance()
        self._check_tasks()
        check_exclusions(self)
        check_sharding(self)

    @classmethod
    def for_frozen_encoder(
        cls, output_dir: str | None = None, **options: Any
    ) -> "LayerFusionTrainingArguments":
        """Return the options of the recipe for a frozen encoder, `--recipe frozen` of the scripts.

        The encoder's states are cached in half precision, and the head starts from a linear probe on them.

        The recipe's model is `BertWithPoolingModule.from_pretrained(encoder, pooling="concat", token_pooling="mean")`.

        Args:
            output_dir: As for `TrainingArguments`.
            options: Options that differ from the recipe's, or beside them.
        """
        return cls(output_dir, **(FROZEN_TRAINING | options))

    @classmethod
    def for_tuned_encoder(
        cls, output_dir: str | None = None, **options: Any
    ) -> "LayerFusionTrainingArguments":
        """Return the options of the recipe for an encoder that is trained from a probe, `--recipe tuned` of the
        scripts.

        The head starts from a linear probe on the encoder's states and learns alone for one epoch; then the encoder is
        trained with it. The model has the weights halfway between that start and the trained ones; with
        `weight_interpolation=1`, the trained ones.

        The recipe's model is that of `for_frozen_encoder`.

        Args:
            output_dir: As for `TrainingArguments`.
            options: Options that differ from the recipe's, or beside them.
        """
        return cls(output_dir, **(TUNED_TRAINING | options))

    def _set_schedule_mode(self) -> None:
        """Tell a schedule that follows the metric which way is better; a search may set the schedule anew."""
        mode = {"mode": "max" if self.greater_is_better else "min"}
        given: dict[str, Any] = vars(self)["lr_scheduler_kwargs"] or {}
        if self.lr_scheduler_type in (SchedulerType.REDUCE_ON_PLATEAU, SchedulerType.GREEDY):
            self.lr_scheduler_kwargs = mode | given
        elif mode.items() <= given.items():
            self.lr_scheduler_kwargs = {name: given[name] for name in given.keys() - mode.keys()}

    def _check_numbers(self) -> None:
        # Of the stock fields too: transformers takes them as they are, and torch refuses a few once the model is made.
        for name in NOT_NEGATIVE:
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise UserError(
                    f"{name} must be a finite number of 0 or more, found {value}; leave it out for its default"
                )
        for name in COUNTS:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} must be 1 or more, found {value}; leave it out for its default")
        for name in SEEDS:
            check_seed(name, getattr(self, name))
        if self.max_steps <= 0 and not 0 < self.num_train_epochs < math.inf:
            raise UserError(
                f"num_train_epochs must be a finite number above 0, found {self.num_train_epochs}; leave it out for "
                "its default, or name max_steps"
            )

    def _check_averages(self) -> None:
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise UserError(
                f"ema_decay must lie above 0 and below 1, found {self.ema_decay}; 0.999 is common"
            )
        if self.average_last is not None and not 0 < self.average_last <= 1:
            raise UserError(
                f"average_last must be above 0 and at most 1, found {self.average_last}; it is a share of the steps"
            )
        if self.weight_interpolation is not None and not 0 < self.weight_interpolation <= 1:
            raise UserError(
                f"weight_interpolation must be above 0 and at most 1, found {self.weight_interpolation}; 1 is for the "
                "trained weights themselves"
            )
        if self.head_first_epochs is not None and not 0 < self.head_first_epochs < math.inf:
            raise UserError(
                f"head_first_epochs must be a finite number above 0, found {self.head_first_epochs}; leave it out for "
                "none"
            )

    def _check_distillation(self) -> None:
        if self.distillation_weight is not None and not 0 < self.distillation_weight <= 1:
            raise UserError(
                f"distillation_weight must be above 0 and at most 1, found {self.distillation_weight}; 0.5 gives "
                "teacher and labels the same weight"
            )
        temperature = self.distillation_temperature
        if temperature is not None and not 0 < temperature <= LARGEST_TEMPERATURE:
            raise UserError(
                f"distillation_temperature must be above 0 and at most {LARGEST_TEMPERATURE:g}, found {temperature}; "
                "1 to 5 are common"
            )

    def _check_rates(self) -> None:
        if not 0 < self.layer_decay <= 1:
            raise UserError(
                f"layer_decay must be above 0 and at most 1, found {self.layer_decay}; 1 gives each layer the same rate"
            )
        if self.frozen_layers < 0:
            raise UserError(f"frozen_layers must be 0 or more, found {self.frozen_layers}; 0 freezes none")
        if self.unfreeze_per_epoch is not None and self.unfreeze_per_epoch < 1:
            raise UserError(
                f"unfreeze_per_epoch must be 1 or more, found {self.unfreeze_per_epoch}; leave it out to train every "
                "layer from the start"
            )
        if not 0 < self.epoch_decay <= 1:
            raise UserError(
                f"epoch_decay must be above 0 and at most 1, found {self.epoch_decay}; "
                "1 keeps the rates, 0.9 takes a tenth off after each epoch"
            )

    def _check_direction(self) -> None:
        metric = self.metric_for_best_model
        known = None if metric is None else known_direction(metric)
        if known is not None and self.greater_is_better != known:
            raise UserError(
                f"greater_is_better={self.greater_is_better} contradicts metric_for_best_model={metric}, of which "
                f"{'more' if known else 'less'} is better; leave greater_is_better out"
            )

    def _check_early_stopping(self) -> None:
        patience = self.early_stopping_patience
        if patience is None:
            return
        if patience < 1:
            raise UserError(
                f"early_stopping_patience must be 1 or more, found {patience}; "
                "leave it out to train every epoch"
            )
        if not self.load_best_model_at_end or self.eval_strategy == IntervalStrategy.NO:
            raise UserError(
                f"early_stopping_patience={patience} needs evaluations and the best model at the end, found "
                f"eval_strategy={IntervalStrategy(self.eval_strategy).value} and "
                f"load_best_model_at_end={self.load_best_model_at_end}; "
                "set eval_strategy=epoch, save_strategy=epoch and load_best_model_at_end=True"
            )

    @property
    def named_regularizers(self) -> dict[str, dict[str, Any]]:
        """The settings of each regularizer by its name."""
        if not isinstance(self.regularizers, dict):
            return {} if self.regularizers is None else {self.regularizers: {}}
        return self.regularizers

    def _check_methods(self) -> None:
        if not all(isinstance(settings, dict) for settings in self.named_regularizers.values()):
            raise UserError(
                f'regularizers must be a name or settings by name, {{"smart": {{"weight": 5}}}}, found '
                f"{self.regularizers!r}"
            )
        make_regularizers(
            self.named_regularizers
        )  # refused here rather than with the Trainer, after its folder is made
        if self.on_divergence not in ("stop", "skip"):
            raise UserError(
                f"on_divergence must be stop or skip, found {self.on_divergence!r}; name one of them"
            )
        if self.low_memory and not self.named_regularizers:
            raise UserError(f"low_memory is for regularizers, found none; name one, or use {CHECKPOINTING}")
        how = getattr(self, f"{CHECKPOINTING}_kwargs") or {}
        if getattr(self, CHECKPOINTING) and how.get("use_reentrant"):
            for name in self.named_regularizers.keys() & {"smart", "freelb"}:
                raise UserError(
                    f"{name} takes gradients by its noise, which {CHECKPOINTING}_kwargs with use_reentrant=True cannot "
                    "give; set use_reentrant=False"
                )
        if self.gradient_surgery is None:
            return
        if self.gradient_surgery not in AGGREGATORS:
            raise UserError(
                f"gradient_surgery must be one of {', '.join(AGGREGATORS)}, found {self.gradient_surgery!r}; "
                f"{nearest(self.gradient_surgery, AGGREGATORS)}"
            )
        # Refuses a rule whose package is not installed, rather than in the first step.
        task_weights(self.gradient_surgery, torch.eye(2, dtype=torch.float64), torch.Generator())
        if not self.task_mixing.startswith("together"):
            raise UserError(
                f"gradient_surgery={self.gradient_surgery} needs a batch of each task in every step, found "
                f"task_mixing={self.task_mixing}; set task_mixing=together or together_longest"
            )

    def _check_class_balance(self) -> None:
        if self.class_balance not in ("none", "sampling", "weights"):
            raise UserError(
                f"class_balance must be none, sampling or weights, found {self.class_balance!r}; name one of them"
            )
        if self.balance_bins is None:
            return
        if self.balance_bins < 2:
            raise UserError(
                f"balance_bins must be 2 or more, found {self.balance_bins}; leave it out for none"
            )
        if self.class_balance == "none":
            raise UserError(
                f"balance_bins={self.balance_bins} has no effect without class_balance; set class_balance=sampling or "
                "weights"
            )

    def _check_tasks(self) -> None:
        if self.task_mixing not in TASK_MIXINGS:
            raise UserError(
                f"task_mixing must be one of {', '.join(TASK_MIXINGS)}, found {self.task_mixing!r}; "
                f"{nearest(self.task_mixing, TASK_MIXINGS)}"
            )
        if not 0 < self.task_temperature < float("inf"):
            raise UserError(
                f"task_temperature must be a finite number above 0, found {self.task_temperature}; "
                "1 draws tasks in proportion to their rows, more makes them more alike"
            )
        if self.task_loss not in ("sum", "mean"):
            raise UserError(f"task_loss must be sum or mean, found {self.task_loss!r}; name one of them")
        weights = self.task_weights
        if weights is not None and not (
            isinstance(weights, dict)
            and all(isinstance(weight, int | float) and 0 <= weight < math.inf for weight in weights.values())
        ):
            raise UserError(
                "task_weights must give finite numbers of 0 or more by task, "
                f'found {weights!r}; write {{"sts": 0.5}}'
            )
        metrics = self.task_metrics
        if metrics is not None and not (
            isinstance(metrics, dict) and all(isinstance(name, str) for name in metrics.values())
        ):
            raise UserError(
                "task_metrics must give the name of a metric by task, "
                f'found {metrics!r}; write {{"sts": "spearmanr"}}'
            )

    def __getstate__(self) -> dict[str, Any]:
        """Return what is pickled, as into `training_args.bin`: everything except the Hub's token."""
        return self.__dict__ | {"hub_token": None}

    # Copies keep the token, where copy would go by what is pickled.

    def __copy__(self) -> "LayerFusionTrainingArguments":
        made = type(self).__new__(type(self))
        made.__dict__.update(self.__dict__)
        return made

    def __deepcopy__(self, memo: dict[int, Any]) -> "LayerFusionTrainingArguments":
        made = type(self).__new__(type(self))
        memo[id(self)] = made
        made.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return made
