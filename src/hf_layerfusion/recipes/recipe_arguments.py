"""Arguments of the recipes, as the dataclasses that `HfArgumentParser` reads."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from hf_layerfusion.data.absa import CONFLICT
from hf_layerfusion.data.splits import check_fraction
from hf_layerfusion.errors import UserError, nearest
from hf_layerfusion.evaluation.predictions import PREDICTION_FORMATS
from hf_layerfusion.metric_registry import MAIN_METRIC
from hf_layerfusion.training.launch_checks import check_whole_model
from hf_layerfusion.training.training_arguments import LayerFusionTrainingArguments, check_seed

__all__ = ["EncoderArguments"]

LANGUAGE_CODE = re.compile("[a-z]{2,3}|multilingual|code")
"""Codes that the Hub accepts as the language of a model card."""


def option(default: Any, help: str) -> Any:
    """Return a dataclass field with a help text."""
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"help": help})
    return field(default=default, metadata={"help": help})


def check_prediction_format(found: str, known: Sequence[str]) -> None:
    """Check `--prediction_format`.

    Raises:
        UserError: if it is none of those that a script knows.
    """
    if found not in known:
        raise UserError(
            f"--prediction_format must be one of {', '.join(known)}, found {found!r}; {nearest(found, known)}"
        )


def check_least(arguments: Any, least: int, *names: str) -> None:
    """Check that each named option is at least `least`; None is not checked.

    Raises:
        UserError: names the first that is.
    """
    for name in names:
        value = getattr(arguments, name)
        if value is not None and value < least:
            raise UserError(f"--{name} must be {least} or more, found {value}; leave it out for its default.")


def secret(help: str) -> Any:
    """Return a dataclass field without a default whose value is never printed."""
    return field(default=None, repr=False, metadata={"help": help})


@dataclass
class CheckpointArguments:
    """Arguments of the checkpoint and of how it is loaded."""

    model_name_or_path: str = option(
        "bert-base-uncased",
        "Encoder or checkpoint of ours: Hub id, folder, or package:NAME for a Python package that carries a model in "
        "its MODEL_DIR.",
    )
    tokenizer_name: str | None = option(None, "Tokenizer, where it is not the encoder's.")
    cache_dir: str | None = option(None, "Where downloads are kept.")
    model_revision: str = option("main", "Branch, tag or commit of the model.")
    token: str | None = secret("Token for the Hub; by default the one stored by `hf auth login`.")
    trust_remote_code: bool = option(
        False, "Run code that lies beside the encoder on the Hub. Read it first."
    )
    allow_pickle: bool = option(False, "Accept weights stored as pickle (.bin) instead of safetensors.")


@dataclass
class EncoderArguments(CheckpointArguments):
    """Arguments of the encoder and its dropout in training."""

    hidden_dropout: float | None = option(
        None, "Dropout of the encoder's embeddings and layers (default: the encoder's own)."
    )
    attention_dropout: float | None = option(
        None, "Dropout of the encoder's attention weights (default: the encoder's own)."
    )


@dataclass
class AdaptedEncoderArguments(EncoderArguments):
    """Arguments of the encoder and of adapters to train instead of it."""

    use_lora: bool = option(
        False,
        "Keep the encoder as it is and train LoRA beside its layers; fuser and heads are trained in full. The folder "
        "then holds the adapter, not the encoder.",
    )
    lora_r: int = option(8, "Rank of LoRA.")
    lora_alpha: int = option(16, "LoRA's factor, divided by the rank.")
    lora_dropout: float = option(0.0, "Dropout before LoRA.")
    lora_target_modules: list[str] | None = option(
        None,
        "Names of the layers' modules that LoRA changes, or all-linear; by default peft's choice for the architecture.",
    )
    peft_config: str | None = option(
        None,
        'In place of LoRA: a json file with the settings of any method of peft, such as {"peft_type": "IA3"}.',
    )


@dataclass
class ModelArguments(AdaptedEncoderArguments):
    """Arguments of the encoder and the model around it. Settings that are left out keep the paper's defaults."""

    NEW_MODEL: ClassVar[dict[str, dict[str, Any]]] = {}
    """For each architecture, settings of a new model that the user may leave out; a trained one keeps its own."""

    architecture: str = option(
        "gru_fusion",
        "gru_fusion (GRUBERT), layer_pooling (BERT-LSTM and its kin) or plain (transformers' own classifier).",
    )
    fusion: str | None = option(
        None,
        "gru_fusion: share, cat, share_depth, cat_depth, last_concat, last_mean or scalar_mix (default share).",
    )
    num_groups: int | None = option(
        None, "gru_fusion: number of layer groups; divides the depth (default 3)."
    )
    num_last_layers: int | None = option(None, "gru_fusion: layers of last_concat and last_mean (default 4).")
    fusion_cell: str | None = option(None, "gru_fusion: gru, lstm, linear, mingru or minlstm (default gru).")
    fusion_hidden_size: int | None = option(
        None, "gru_fusion: units a direction of the embedding cell (default 100)."
    )
    freeze_fusion: bool | None = option(
        None, "gru_fusion: keep the fuser at its random weights, as a control."
    )
    downstream_cell: str | None = option(
        None, "gru_fusion: gru, lstm, mingru or minlstm after the fuser (default gru)."
    )
    downstream_hidden_size: int | None = option(
        None, "gru_fusion: units a direction of the downstream recurrence; 0 leaves it out (default 100)."
    )
    token_reduction: str | None = option(
        None, "gru_fusion: sum, mean or max of the tokens' logits (default sum)."
    )
    mask_padding: bool | None = option(
        None,
        "gru_fusion: False is the public code's function, for texts padded to one length (default True).",
    )
    pooling: str | None = option(
        None,
        "layer_pooling: lstm, attention, last, max, mean, scalar_mix, concat, attentive or layer_graph over the "
        "layers (default lstm).",
    )
    token_pooling: str | None = option(
        None,
        "layer_pooling: cls, mean, cls_mean (both) or last of the tokens of a layer (default cls, of a causal encoder "
        "last).",
    )
    pair_features: list[str] | None = option(
        None,
        "layer_pooling: encode the two texts of a pair separately and pool these features of them: concat, "
        "abs_difference, product, squared_sum, squared_difference, normalized_difference or cosine (default: a pair is "
        "one sequence).",
    )
    residual_head: str | None = option(
        None,
        "gru_fusion, layer_pooling: cls, last or mean, a vector of the last layer on which a plain classifier stands "
        "beside the fused branch, which then starts at zero (default: none).",
    )
    normalize_layers: bool | None = option(
        None,
        "gru_fusion, layer_pooling: pass all layers through the encoder's final normalization before they are fused "
        "(default: where it has one, as ModernBERT and decoders do).",
    )
    window_size: int | None = option(
        None,
        "gru_fusion, layer_pooling: read texts in windows of that many tokens, at most what the encoder takes; "
        "--max_seq_length then limits the whole text (default: one text is one window).",
    )
    window_overlap: int | None = option(
        None, "With --window_size: tokens that a window shares with the one before (default 64)."
    )
    window_pooling: str | None = option(
        None, "With --window_size: mean, max or attention over a text's windows (default mean)."
    )
    dense_size: int | None = option(None, "Units of the dense layer before the labels; 0 leaves it out.")
    classifier_dropout: float | None = option(None, "Dropout before the labels.")


@dataclass(kw_only=True)  # so that a file may still be the first argument
class DataCardArguments:
    """Facts about the data for the model card, beyond those that a run knows."""

    language: str = option("en", "ISO 639 code of the texts' language.")
    dataset_description: str = option("", "What the data are and where they come from.")
    dataset_defects: list[str] = option([], "Their known defects, a sentence each.")
    dataset_warning: str = option("", "A warning to print above everything else.")

    def __post_init__(self) -> None:
        if not LANGUAGE_CODE.fullmatch(self.language):
            raise UserError(
                f"--language must be a code of ISO 639, two or three lower-case letters, or multilingual, found "
                f"{self.language!r}; write en for English."
            )


@dataclass
class DataArguments(DataCardArguments):
    """Arguments of the texts and of their preparation."""

    # Whether the second text of a pair is an aspect of the first.
    pair_is_aspect: ClassVar[bool] = False

    @property
    def dropped_labels(self) -> tuple[str, ...]:
        """Labels whose rows are removed from every split."""
        return ()

    train_file: str | None = option(
        None, "Training examples: .csv, .tsv, .jsonl, .json, .parquet, SemEval's .xml or ACL-14's .raw."
    )
    validation_file: str | None = option(
        None, "Validation examples; without them --validation_fraction is split from training."
    )
    test_file: str | None = option(
        None, "Test examples, with or without labels; the competition's test_data.txt too."
    )
    teacher: list[str] | None = option(
        None,
        "Ensembles or models whose averaged predictions of the training texts the model is trained on too: folders or "
        "Hub ids, [TASK=]TEACHER[@REVISION] (docs/ensembles.md).",
    )
    unlabelled_file: str | None = option(
        None,
        "Further texts without labels, for which the model is trained on the teacher's predictions alone.",
    )
    train_pos_file: str | None = option(None, "The competition's train_pos.txt, one tweet a line.")
    train_neg_file: str | None = option(None, "The competition's train_neg.txt, one tweet a line.")
    dataset_name: str | None = option(None, "Data set of the Hub, such as cardiffnlp/tweet_eval.")
    dataset_config_name: str | None = option(None, "Its configuration, such as sentiment.")
    test_split_name: str = option(
        "test",
        "Split of --dataset_name to test on. With validation, for data sets whose test labels are kept back, "
        "checkpoints are chosen on examples that are cut from training.",
    )
    text_column: str = option("text", "Column of the text.")
    text_pair_column: str | None = option(None, "Column of the second text of a pair.")
    label_column: str = option("label", "Column of the label.")
    id_column: str | None = option(None, "Column of the examples' ids; by default they are numbered.")
    class_names: list[str] | None = option(None, "Names of integer labels in ascending order.")
    problem_type: str | None = option(
        None,
        "single_label_classification, regression or multi_label_classification; by default from the labels: floats "
        "mean regression, lists several labels a text.",
    )
    validation_fraction: float = option(0.3, "Share split from training where there is no validation file.")
    group_column: str | None = option(None, "Text column whose equal values stay on one side of a split.")
    report_on_selection: bool = option(
        True,
        "Without test data, report on the validation data that chose the checkpoint; False reports on them and cuts "
        "others from training to choose on.",
    )
    split_seed: int = option(42, "Seed of that split and of --max_*_samples, the same for every run.")
    folds: int | None = option(None, "Cross-validate over that many parts of the training data.")
    fold_split: str | None = option(
        None,
        "stratified_group keeps equal values of --group_column in one fold; stratified does not. By default grouped "
        "where there is a --group_column.",
    )
    max_seq_length: int | None = option(40, "Tokens a text is cut to (GRUBERT: 40).")
    truncation: str = option(
        "longest_first", "Which text of a pair is cut: longest_first, only_first or only_second."
    )
    pad_to_max_length: bool = option(False, "Pad to that length instead of the batch's longest text.")
    preprocessing: str = option(
        "paper", "none, light (BERTweet's conventions) or paper (GRUBERT, section 2.1)."
    )
    preprocessing_steps: list[str] | None = option(
        None, "The steps themselves, in place of a preset: users, links, spelling, whitespace, hashtags, …"
    )
    remove_duplicates: bool = option(True, "Keep the first of equal texts; --duplicates_in says of which.")
    duplicates_in: str = option(
        "train",
        "train: equal training texts, after cleaning, so that every text of the other splits is answered. all: those "
        "of every split with labels by itself, before cleaning (GRUBERT, section 2.1).",
    )
    spelling_language: str = option("en", "Language of pyspellchecker's dictionary.")
    spelling_dictionary: str | None = option(None, "A word frequency file in place of that dictionary.")
    train_on_all: bool = option(False, "Train on training and validation examples together, for all epochs.")
    skip_incomplete: bool = option(
        False,
        "Leave out rows without a text or label, with a warning that counts them, instead of refusing the file.",
    )
    max_train_samples: int | None = option(None, "Train on a random part of that many examples.")
    max_unlabelled_samples: int | None = option(
        None, "Take a random part of that many texts of --unlabelled_file."
    )
    max_eval_samples: int | None = option(None, "Validate on a random part of that many examples.")
    max_predict_samples: int | None = option(None, "Test on the first that many examples.")
    prediction_format: str = option(
        "standard",
        "standard; spreadsheet, in which no text is run as a formula; or kaggle for the competition's Id,Prediction.",
    )
    class_scores: bool = option(False, "Write one column of scores for each class into predictions.csv too.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_prediction_format(self.prediction_format, PREDICTION_FORMATS)
        check_least(
            self, 1,
            "max_seq_length", "max_train_samples", "max_unlabelled_samples", "max_eval_samples", "max_predict_samples",
        )  # fmt: skip
        check_least(self, 2, "folds")
        check_seed("--split_seed", self.split_seed)
        check_fraction(self.validation_fraction)
        names = [name.strip() for name in self.class_names or ()]
        if repeated := [name for name, count in Counter(names).items() if count > 1]:
            raise UserError(f"--class_names must name each class once, found {repeated[0]!r} more than once.")


CHOOSING = (
    "What makes a checkpoint the best on validation data: a metric of the task, loss, or main (accuracy; of several "
    "labels f1_micro, of numbers pearsonr)"
)


@dataclass
class RunTrainingArguments(LayerFusionTrainingArguments):
    """The Trainer's arguments, with the seeds of a run. Each script's recipe sets other defaults."""

    PAPER: ClassVar[dict[str, Any]] = {}
    """Options that `--recipe paper` sets where the defaults of a script are not its paper's."""

    recipe: str = option(
        "default",
        "default; paper: what the script's paper does where the defaults differ; frozen: a linear head on all layers "
        "of a frozen encoder, started from a probe; or tuned: the same start, after which the encoder is trained too "
        "(docs/training.md). Options that are given win.",
    )
    output_dir: str = option("", "Folder of the run; must not hold another one.")
    seeds: list[int] | None = option(
        None, "Train once with each seed and report mean and standard deviation."
    )
    lr_scheduler_type: str = option("constant", "Schedule of the rate besides --epoch_decay.")
    per_device_eval_batch_size: int = option(256, "Texts a step and device in evaluation.")
    eval_strategy: str = option("epoch", "When to validate.")
    save_strategy: str = option("epoch", "When to save a checkpoint.")
    save_total_limit: int | None = option(1, "Checkpoints kept besides the best.")
    logging_strategy: str = option("epoch", "When to log.")
    load_best_model_at_end: bool = option(True, "End with the best checkpoint.")
    train_sampling_strategy: str = option("group_by_length", "Batches of texts of like length.")
    decoupled_weight_decay: bool = option(
        True, "False makes weight_decay Adam's L2, added to the gradient, in place of AdamW's decay."
    )
    report_to: str = option("none", "Where to report, such as tensorboard.")
    hub_strategy: str = option(
        "end",
        "With --push_to_hub: end pushes once, when all is written; every_save, checkpoint and all_checkpoints push in "
        "the background too while training goes on.",
    )
    dry_run: bool = option(
        False,
        "Print the groups of parameters with their rates and, with --push_to_hub, the files that would be pushed, and "
        "stop before training; nothing is written.",
    )
    plot_layers: list[int] | None = option(
        None,
        "Epochs at whose ends the validation texts' states at the last six layers are drawn on two principal "
        "components (Song et al. 2020, Figure 2), such as 1 3 5.",
    )
    plot_layers_beside: str | None = option(
        None,
        "Folder of another run with --plot_layers, such as the baseline's, to draw beside this one.",
    )
    hp_search: str | None = option(
        None,
        "Search the best settings before the run, by optuna, ray or wandb; see docs/hyperparameter-search.md.",
    )
    hp_space: str | None = option(
        None, "What is searched: a .json file, such as examples/search_extrabert.json."
    )
    hp_trials: int = option(20, "Trials of the search.")
    hp_sampler: str = option(
        "tpe", "How Optuna draws them: tpe or random; W&B's sweep is then bayes or random."
    )
    hp_prune: bool = option(
        False, "Stop a trial whose evaluations fall behind the median of the trials before (Optuna)."
    )

    def __post_init__(self) -> None:
        check_whole_model(self)
        super().__post_init__()
        for seed in self.seeds or ():
            check_seed("--seeds", seed)
        if len(set(self.seeds or ())) < len(self.seeds or ()):
            raise UserError(
                f"--seeds must name each seed once, found {self.seeds}; leave out what is repeated."
            )


@dataclass
class TweetTrainingArguments(RunTrainingArguments):
    """GRUBERT's recipe as defaults (sections 2.3 and 2.4), but for what `--recipe paper` sets: there all 15 epochs are
    trained, the optimizer is Adam whatever its weight decay, and repeated texts leave every split, before cleaning."""

    PAPER: ClassVar[dict[str, Any]] = {
        "early_stopping_patience": None,
        "decoupled_weight_decay": False,
        "duplicates_in": "all",
    }

    learning_rate: float = option(1e-5, "Rate of the encoder.")
    epoch_decay: float = option(0.9, "Factor on every rate after each epoch.")
    weight_decay: float = option(0.0, "Weight decay; with 0 AdamW is Adam.")
    num_train_epochs: float = option(15.0, "Most epochs.")
    per_device_train_batch_size: int = option(64, "Texts a step and device.")
    max_grad_norm: float = option(0.0, "Clipping norm; 0 does not clip.")
    metric_for_best_model: str | None = option("loss", f"{CHOOSING} (GRUBERT: loss).")
    early_stopping_patience: int | None = option(
        3,
        "Epochs without a better checkpoint before the run stops; GRUBERT trains all 15 (--recipe paper).",
    )


@dataclass
class PoolingModelArguments(ModelArguments):
    """`ModelArguments` with BERT-LSTM (Song et al. 2020) as the default."""

    architecture: str = option(
        "layer_pooling",
        "layer_pooling (BERT-LSTM and its kin), gru_fusion (GRUBERT) or plain (transformers' own classifier).",
    )


FIRST_TEXT = "first_text"
"""A `--group_column` that means that of `--text_column`, whatever its name."""


@dataclass
class PairDataArguments(DataArguments):
    """Pairs of texts without cleaning. The data that select a checkpoint are never those that are reported."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.group_column == FIRST_TEXT:
            self.group_column = self.text_column

    validation_fraction: float = option(0.1, "Share split from training where there is no validation data.")
    report_on_selection: bool = option(
        False,
        "Without test data, report on the validation data that chose the checkpoint; False reports on them and cuts "
        "others from training to choose on.",
    )
    max_seq_length: int | None = option(128, "Tokens a pair is cut to.")
    preprocessing: str = option(
        "none", "none, light (BERTweet's conventions) or paper (GRUBERT, section 2.1)."
    )
    remove_duplicates: bool = option(False, "Keep the first of equal pairs; --duplicates_in says of which.")


@dataclass
class AbsaDataArguments(PairDataArguments):
    """Sentences and their aspects; all aspects of a sentence stay on one side of a split."""

    pair_is_aspect: ClassVar[bool] = True

    text_column: str = option("sentence", "Column of the sentence.")
    text_pair_column: str | None = option("aspect", "Column of the aspect.")
    sentence_only: bool = option(False, "Leave the aspect out of the model's input.")
    keep_conflict: bool = option(
        False, "Keep aspects of polarity conflict as a class; the papers leave them out."
    )
    group_column: str | None = option(
        FIRST_TEXT,
        "Text column whose equal values stay on one side of a split; first_text is that of the sentence.",
    )
    truncation: str = option(
        "only_first", "Which text is cut: only_first (the sentence), only_second or longest_first."
    )
    folds: int | None = option(
        None, "Cross-validate over that many parts of the training data (the paper: 10)."
    )
    fold_split: str | None = option(
        "stratified_group",
        "stratified_group keeps equal values of --group_column in one fold; stratified does not, as is often done, "
        "and so tests on sentences that were trained on.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sentence_only:
            self.text_pair_column = None

    @property
    def dropped_labels(self) -> tuple[str, ...]:
        """Polarity conflict, unless it is kept as a class."""
        return () if self.keep_conflict else (CONFLICT,)


@dataclass
class NliDataArguments(PairDataArguments):
    """Premise and hypothesis, by default in SNLI's columns; all pairs of a premise stay on one side of a split."""

    text_column: str = option("sentence1", "Column of the premise.")
    text_pair_column: str | None = option("sentence2", "Column of the hypothesis.")
    group_column: str | None = option(
        FIRST_TEXT,
        "Text column whose equal values stay on one side of a split; first_text is that of the premise.",
    )


@dataclass
class AbsaTrainingArguments(RunTrainingArguments):
    """The recipe of Song et al. (2020, section 3.2) as defaults; batch, schedule and clipping are not in the paper.
    With `--recipe paper` L2 is on all parameters, as in the public code."""

    PAPER: ClassVar[dict[str, Any]] = {"decay_all": True}

    learning_rate: float = option(2e-5, "Rate of the encoder.")
    weight_decay: float = option(1e-5, "L2, or AdamW's decay with --decoupled_weight_decay True.")
    decoupled_weight_decay: bool = option(
        False, "False makes weight_decay Adam's L2, added to the gradient, in place of AdamW's decay."
    )
    num_train_epochs: float = option(10.0, "Most epochs.")
    per_device_train_batch_size: int = option(32, "Texts a step and device.")
    metric_for_best_model: str | None = option(MAIN_METRIC, f"{CHOOSING}.")


@dataclass
class NliTrainingArguments(AbsaTrainingArguments):
    """`AbsaTrainingArguments` with the 5 epochs of section 3.2."""

    num_train_epochs: float = option(5.0, "Most epochs.")


@dataclass
class TextModelArguments(PoolingModelArguments):
    """`PoolingModelArguments` with a learned mix of the layers and the mean over tokens as the default."""

    NEW_MODEL: ClassVar[dict[str, dict[str, Any]]] = {
        "layer_pooling": {"pooling": "scalar_mix", "token_pooling": "mean"}
    }

    pooling: str | None = option(
        None,
        "layer_pooling: lstm, attention, last, max, mean, scalar_mix, concat, attentive or layer_graph over the layers "
        "(default scalar_mix).",
    )
    token_pooling: str | None = option(
        None,
        "layer_pooling: cls, mean, cls_mean (both) or last of the tokens of a layer (default mean).",
    )


@dataclass
class TextDataArguments(DataArguments):
    """Texts of any kind, or pairs, without cleaning."""

    validation_fraction: float = option(0.1, "Share split from training where there is no validation file.")
    max_seq_length: int | None = option(
        None,
        "Tokens a text or pair is cut to (default: the length that 99 % of the training texts stay below, at most what "
        "the encoder takes).",
    )
    preprocessing: str = option(
        "none", "none, light (BERTweet's conventions) or paper (GRUBERT, section 2.1)."
    )
    remove_duplicates: bool = option(False, "Keep the first of equal texts; --duplicates_in says of which.")


@dataclass
class TextTrainingArguments(RunTrainingArguments):
    """Usual fine-tuning settings as defaults: AdamW, and warm-up over a tenth of the steps followed by linear decay."""

    learning_rate: float = option(3e-5, "Peak rate of the encoder; 2e-5 to 5e-5 are usual.")
    fusion_learning_rate: float | None = option(
        1e-3, "Peak rate of all that is not the pretrained encoder: fuser and head."
    )
    lr_scheduler_type: str = option("linear", "Schedule of the rate after the warm-up.")
    warmup_steps: float = option(0.1, "Steps to warm up, below 1 a share of all steps.")
    weight_decay: float = option(0.01, "AdamW's decay.")
    max_grad_norm: float = option(1.0, "Clipping norm; 0 does not clip.")
    num_train_epochs: float = option(4.0, "Epochs; 3 to 5 are usual.")
    per_device_train_batch_size: int = option(16, "Texts a step and device.")
    per_device_eval_batch_size: int = option(64, "Texts a step and device in evaluation.")
    metric_for_best_model: str | None = option(MAIN_METRIC, f"{CHOOSING}.")


@dataclass
class SearchTrainingArguments(TextTrainingArguments):
    """`TextTrainingArguments` with a search before the run."""

    hp_search: str | None = option(
        "optuna", "What searches: optuna, ray or wandb; see docs/hyperparameter-search.md."
    )
