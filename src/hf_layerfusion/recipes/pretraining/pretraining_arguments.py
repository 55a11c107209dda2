"""Arguments of further pretraining."""

from dataclasses import dataclass, field
from typing import Any

from hf_layerfusion.data.streaming import STREAMS
from hf_layerfusion.recipes.recipe_arguments import option
from hf_layerfusion.training.launch_checks import check_whole_model
from hf_layerfusion.training.training_arguments import LayerFusionTrainingArguments, check_seed

__all__ = ["PretrainingArguments", "PretrainingDataArguments"]


@dataclass
class PretrainingDataArguments:
    """Arguments of the texts and of how they are streamed."""

    train_file: list[str] | None = option(
        None, f"One or several text files, with any of these endings: {', '.join(STREAMS)}."
    )
    text_columns: list[str] = option(
        ["text"],
        "Columns of texts, such as sentence1 sentence2; the texts of several columns are read separately.",
    )
    validation_file: list[str] | None = option(None, "Files of held-out texts.")
    validation_fraction: float = option(
        0.0, "Share of the training texts to hold out if there is no validation file."
    )
    split_seed: int = option(42, "Seed of that split, the same for every run.")
    skip_incomplete: bool = option(
        False, "Leave out rows without a text, with a warning that counts them, instead of refusing the file."
    )
    max_train_samples: int | None = option(None, "Train on this many first texts, or pairs of sentences.")
    max_eval_samples: int | None = option(
        None, "Evaluate on this many first held-out texts, or pairs of sentences."
    )
    max_seq_length: int = option(128, "Tokens that a text is truncated to.")
    shuffle_buffer_size: int = option(
        10_000,
        "Texts in the shuffle buffer, from which the next one is drawn; 0 keeps the order of the files.",
    )

    def __post_init__(self) -> None:
        check_seed("--split_seed", self.split_seed)


@dataclass
class PretrainingArguments(LayerFusionTrainingArguments):
    """Training arguments with SerBERTus' further pretraining as defaults (section 4.3.7)."""

    output_dir: str = option("", "Folder of the run; must not hold another one.")
    objective: dict[str, Any] | str | None = field(
        default="mlm",
        metadata={
            "help": "mlm (masked tokens), mlm_nsp (with next sentences), simcse (a text under two draws of dropout "
            "masks) or adjacent (adjacent sentences of a text), or with settings as json: "
            '{"simcse": {"pooling": "cls", "temperature": 0.05}}. The settings are the fields of the classes in '
            "hf_layerfusion.training.objectives."
        },
    )
    head_steps: int = option(
        500,
        "Steps in which the language-model head is trained alone with a learning rate of 1e-3, if the checkpoint "
        "has none.",
    )
    learning_rate: float = option(
        5e-6, "Learning rate of the encoder (SerBERTus: 5e-6 for 8,500 sentences, 1e-5 for more)."
    )
    weight_decay: float = option(0.0, "Weight decay of AdamW.")
    num_train_epochs: float = option(1.0, "Epochs.")
    per_device_train_batch_size: int = option(32, "Texts per step and device.")
    per_device_eval_batch_size: int = option(32, "Texts per step and device in evaluation.")
    logging_steps: float = option(25, "Steps between log entries.")
    save_strategy: str = option("epoch", "When to save a checkpoint.")
    save_total_limit: int | None = option(1, "Number of checkpoints to keep.")
    report_to: str = option("none", "Where to report to, such as tensorboard.")
    dry_run: bool = option(
        False,
        "Print the groups of parameters with their rates and, with --push_to_hub, the files that would be pushed, and "
        "stop before training; nothing is written.",
    )

    _VALID_DICT_FIELDS = (*LayerFusionTrainingArguments._VALID_DICT_FIELDS, "objective")

    def __post_init__(self) -> None:
        check_whole_model(self)
        super().__post_init__()
        self.remove_unused_columns = False  # a stream's rows carry seeds to the collator
        # Each process reads the stream itself, because batches of different lengths cannot be dispatched.
        self.accelerator_config.dispatch_batches = False
