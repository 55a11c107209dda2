"""Arguments of runs over several tasks."""

from dataclasses import dataclass

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
        "Encoders side by side: shared, own (one for each task), frozen (as it was). own alone is the paper's triple, "
        "shared own its multi + triple, shared frozen its static + finetune.",
    )
    adapter_per_task: bool = option(
        True, "With --use_lora or --peft_config, an adapter for each task; False is one for all of them."
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
        None, "Train on these tasks alone; the others are evaluated with heads as they were drawn."
    )
    pair_order: str = option(
        "random",
        "Order of a joint pair's texts in training: random (SerBERTus, section 3) or given. Evaluation keeps the one "
        "given.",
    )
    max_seq_length: int = option(128, "Tokens a text or joint pair is cut to.")
    cut: str = option(
        "tail", "Part of an over-long text that is cut off: tail, head or middle (SerBERTus, section 6)."
    )
    max_train_samples: int | None = option(None, "Train on a random part of that many examples of each task.")
    max_predict_samples: int | None = option(None, "Test on the first that many examples of each task.")
    split_seed: int = option(42, "Seed of the splits and of --max_*_samples, the same for every run.")
    prediction_format: str = option(
        "standard",
        "standard; spreadsheet, in which no text is run as a formula; or course for the prediction files of Stanford's "
        "CS 224N beside the standard ones.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_prediction_format(self.prediction_format, PREDICTION_FORMATS)
        check_least(self, 1, "max_seq_length", "max_train_samples", "max_predict_samples")
        check_seed("--split_seed", self.split_seed)


@dataclass
class MultitaskTrainingArguments(RunTrainingArguments):
    """Training arguments with SerBERTus' recipe as defaults (section 4.3)."""

    learning_rate: float = option(1e-5, "Rate of the encoders.")
    weight_decay: float = option(0.0, "AdamW's decay.")
    num_train_epochs: float = option(10.0, "Most epochs.")
    per_device_train_batch_size: int = option(32, "Texts of a task's batch on a device.")
    metric_for_best_model: str | None = option(
        "mean",
        "What makes a checkpoint the best on validation data: the mean over the tasks' metrics, loss, or a metric of "
        "one of them, TASK_METRIC.",
    )
    best_of_each_task: bool = option(
        True, "Report each task's best epoch too, beside the best of all together (SerBERTus, Table 6)."
    )
