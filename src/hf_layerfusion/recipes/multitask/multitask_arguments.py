"""Arguments of runs over several tasks."""

from dataclasses import dataclass

from hf_layerfusion.errors import UserError
from hf_layerfusion.recipes.recipe_arguments import (
    AdaptedEncoderArguments,
    DataCardArguments,
    RunTrainingArguments,
    check_least,
    check_prediction_format,
    option,
)
from hf_layerfusion.training.training_arguments import check_seed

PREDICTION_FORMATS = ("standard", "spreadsheet", "course")


@dataclass
class MultitaskModelArguments(AdaptedEncoderArguments):
    """Arguments of the encoder and of how much of it the tasks share (SerBERTus, section 3)."""

    num_task_layers: int = option(
        2, "Top layers of the shared encoder that each task has a copy of; 0 shares all (SerBERTus' best: 2)."
    )
    encoders: list[str] = option(
        ["shared"],
        "Encoders used in parallel: shared, own (one for each task), frozen (not trained). own alone is the paper's "
        "triple, shared own its multi + triple, shared frozen its static + finetune.",
    )
    pooling: str | None = option(
        None,
        "Fuser of the layers for tasks whose entries name neither fusion nor sentence_vector: lstm, attention, last, "
        "max, mean, scalar_mix, concat, attentive or layer_graph (default: the last layer's sentence vector).",
    )
    token_pooling: str | None = option(
        None,
        "With --pooling: cls, mean, cls_mean (both) or last of the tokens of a layer (default cls, of a causal encoder "
        "last).",
    )
    adapter_per_task: bool = option(
        True, "With --use_lora or --peft_config, use an adapter for each task; False uses one for all tasks."
    )

    def __post_init__(self) -> None:
        if self.token_pooling is not None and self.pooling is None:
            raise UserError(
                f"--token_pooling {self.token_pooling} is of the layers' fuser, found no --pooling; name one, such as "
                "concat, or leave it out"
            )


@dataclass
class MultitaskDataArguments(DataCardArguments):
    """Arguments of the tasks and of their text preparation."""

    tasks_file: str | None = option(
        None, "The tasks: a .json file with an entry for each, see docs/multitask.md and examples/tasks.json."
    )
    data_dir: str | None = option(
        None, "Folder that the tasks' files are relative to; by default tasks_file's own."
    )
    train_tasks: list[str] | None = option(
        None, "Train on these tasks only; the others are evaluated with untrained heads."
    )
    pair_order: str = option(
        "random",
        "Order of a joint pair's texts in training: random (SerBERTus, section 3) or given. Evaluation always uses the "
        "given order.",
    )
    max_seq_length: int = option(128, "Tokens that a text or joint pair is truncated to.")
    cut: str = option(
        "tail", "Part of an over-long text that is removed: tail, head or middle (SerBERTus, section 6)."
    )
    max_train_samples: int | None = option(None, "Train on this many random examples of each task.")
    max_predict_samples: int | None = option(None, "Test on this many first examples of each task.")
    split_seed: int = option(42, "Seed of the splits and of --max_*_samples, the same for every run.")
    folds: int | None = option(
        None,
        "Cross-validate over that many parts of each task's training data (SerBERTus, section 6); equal values of a "
        "task's group_column stay in one fold.",
    )
    prediction_format: str = option(
        "standard",
        "standard; spreadsheet, which escapes texts that would run as formulas; or course, which adds the prediction "
        "files of Stanford's CS 224N to the standard ones.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_prediction_format(self.prediction_format, PREDICTION_FORMATS)
        check_least(self, 1, "max_seq_length", "max_train_samples", "max_predict_samples")
        check_least(self, 2, "folds")
        check_seed("--split_seed", self.split_seed)


@dataclass
class MultitaskTrainingArguments(RunTrainingArguments):
    """Training arguments with SerBERTus' recipe as defaults (section 4.3)."""

    learning_rate: float = option(1e-5, "Learning rate of the encoders.")
    weight_decay: float = option(0.0, "Weight decay of AdamW.")
    num_train_epochs: float = option(10.0, "Most epochs.")
    per_device_train_batch_size: int = option(32, "Texts per device in a task's batch.")
    metric_for_best_model: str | None = option(
        "mean",
        "Validation metric that selects the best checkpoint: mean (over the tasks' metrics), loss, or a metric of one "
        "task, TASK_METRIC.",
    )
    best_of_each_task: bool = option(True, "Also report each task's own best epoch (SerBERTus, Table 6).")


@dataclass
class MultitaskSearchArguments(MultitaskTrainingArguments):
    """`MultitaskTrainingArguments` with a search before the run."""

    hp_search: str | None = option(
        "optuna", "What searches: optuna, ray or wandb; see docs/hyperparameter-search.md."
    )
