"""Arguments of the ensemble recipe."""

from dataclasses import dataclass

from hf_layerfusion.recipes.recipe_arguments import (
    DataCardArguments,
    check_least,
    check_prediction_format,
    option,
    secret,
)


@dataclass
class EnsembleArguments:
    """Arguments of the members and of how they are combined."""

    members: list[str] | None = option(
        None,
        "Models or ensembles: folders or Hub ids, [TASK=]MEMBER[@REVISION]; with TASK, the member is used for this "
        "task only.",
    )
    combiners: list[str] | None = option(
        None,
        "Combiners to try: majority_vote, average_logits, average_probabilities, task_based, greedy, "
        "greedy_replacement, stacked; by default all that the tasks allow.",
    )
    combiner: str | None = option(
        None,
        "Combiner of the saved ensemble; by default the one with the best validation score.",
    )
    weights: list[float] | None = option(None, "Weights of the members in votes and averages.")
    metric: str | None = option(
        None, "Metric to maximize: accuracy (default), f1_macro or recall_macro; pearsonr for a regression."
    )
    out_of_fold: list[str] | None = option(
        None,
        "Out-of-fold predictions of the validation data to use instead of the members' own, one for each member: a csv "
        "file of predictions or the folder of a cross-validation.",
    )
    unverified_members: bool = option(
        False, "Accept members whose training texts are unknown; the card mentions them."
    )
    skip_seen_texts: bool = option(
        False,
        "Leave out validation texts that a member was trained or selected on, instead of refusing them.",
    )
    soup: bool = option(
        False,
        "Also average the members' weights; they must share the architecture and the weights that training started "
        "from.",
    )
    carry_members: bool = option(False, "Copy the members into the ensemble's folder.")
    output_dir: str | None = option(None, "Folder of the ensemble; must be new or empty.")
    prediction_cache: str | None = option(
        None, "Folder that caches each member's predictions; by default prediction_cache beside --output_dir."
    )
    max_loaded_members: int | None = option(None, "Members in memory at a time; by default all.")
    batch_size: int = option(64, "Texts per batch.")
    max_seq_length: int | None = option(
        None, "Tokens that a text or pair is truncated to; by default as many as each member takes."
    )
    device: str | None = option(None, "Where members run; by default a GPU if there is one.")
    trust_remote_code: bool = option(False, "Run code that comes with a member on the Hub. Read it first.")
    push_to_hub: bool = option(
        False, "Push the ensemble to the Hub; members in folders need --carry_members True."
    )
    hub_model_id: str | None = option(None, "Repository to push to; by default the name of --output_dir.")
    hub_private_repo: bool | None = option(None, "Make a new repository private.")
    hub_revision: str | None = option(None, "Branch to push to.")
    dry_run: bool = option(False, "List what --push_to_hub would push of a finished ensemble, and stop.")
    hub_token: str | None = secret("Token for pushing; by default the one stored by `hf auth login`.")

    def __post_init__(self) -> None:
        check_least(self, 1, "max_loaded_members", "batch_size", "max_seq_length")


@dataclass
class EnsembleDataArguments(DataCardArguments):
    """Arguments of the texts that an ensemble is fitted and tested on."""

    validation_file: str | None = option(
        None,
        "Labelled texts that combiners are fitted and selected on; no member may have been trained on them.",
    )
    test_file: str | None = option(None, "Texts to report on, with or without labels.")
    tasks_file: str | None = option(
        None, "For several tasks, instead of these files: a .json file of the tasks, see docs/multitask.md."
    )
    data_dir: str | None = option(
        None, "Folder that the tasks' files are relative to; by default tasks_file's own."
    )
    text_column: str = option("text", "Column of the text.")
    text_pair_column: str | None = option(None, "Column of the second text of a pair.")
    label_column: str = option("label", "Column of the label.")
    id_column: str | None = option(None, "Column of the examples' ids; by default they are numbered.")
    class_names: list[str] | None = option(None, "Names of integer labels in ascending order.")
    preprocessing: str = option(
        "none", "Preparation of the members' training texts: none, light or paper (see run_tweets.py)."
    )
    preprocessing_steps: list[str] | None = option(None, "Cleaning steps, instead of a preset.")
    prediction_format: str = option(
        "standard", "standard, or spreadsheet, which escapes texts that would run as formulas."
    )
    spelling_language: str = option("en", "Language of pyspellchecker's dictionary.")
    spelling_dictionary: str | None = option(None, "Word frequency file to use instead of that dictionary.")
    skip_incomplete: bool = option(
        False, "Leave out rows without a text or label instead of refusing the file."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_prediction_format(self.prediction_format, ("standard", "spreadsheet"))
