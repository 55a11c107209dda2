"""Cross-validation: one run for each fold, each in a folder of its own."""

import logging
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from hf_layerfusion.data.arrow_tables import column_values, select_rows
from hf_layerfusion.errors import UserError, nearest
from hf_layerfusion.evaluation.cross_validation import Fold, stratified_folds, stratified_group_folds
from hf_layerfusion.recipes.best_metric import with_metric
from hf_layerfusion.recipes.data_preparation import (
    PreparedData,
    cut_validation,
    load_splits,
    row_keys,
    shared_groups,
    tokenize,
)
from hf_layerfusion.recipes.data_record import DATA, check_record, data_record
from hf_layerfusion.recipes.model_setup import encodes_pairs_separately
from hf_layerfusion.recipes.prediction_run import is_prediction_only
from hf_layerfusion.recipes.recipe_arguments import DataArguments, ModelArguments, RunTrainingArguments
from hf_layerfusion.recipes.run_folder import Experiment, run_once, write_summary
from hf_layerfusion.recipes.teaching import refuse_teacher
from hf_layerfusion.recipes.token_limit import with_token_limit
from hf_layerfusion.recipes.training_run import Classification, begin_run, classify, warn_of_findings

logger = logging.getLogger(__name__)

GROUPED = "stratified_group"
FOLD_SPLITS = (GROUPED, "stratified")


def is_grouped(arguments: DataArguments) -> bool:
    """Return whether equal values of `--group_column` stay in one fold: as `--fold_split` says or, without it, if there
    is a `--group_column`.

    Raises:
        UserError: `--fold_split` is unknown, or there is no column to group by.
    """
    split = arguments.fold_split
    if split is None:
        return arguments.group_column is not None
    if split not in FOLD_SPLITS:
        raise UserError(
            f"--fold_split must be one of {', '.join(FOLD_SPLITS)}, found {split!r}; {nearest(split, FOLD_SPLITS)}"
        )
    if split == GROUPED and arguments.group_column is None:
        raise UserError("--fold_split stratified_group needs --group_column, found none; name it.")
    return split == GROUPED


def make_folds(data: PreparedData, arguments: DataArguments) -> list[Fold]:
    """Split the training data into folds by `--fold_split`, seeded by `--split_seed` and stratified by class where
    there are classes.

    Raises:
        UserError: As `is_grouped`, or as the functions of `evaluation.cross_validation`.
    """
    number, seed = arguments.folds or 0, arguments.split_seed
    labels = column_values(data.splits["train"], "label")
    if not is_stratified(data):
        labels = [0] * len(labels)
    if not is_grouped(arguments):
        return stratified_folds(labels, number, seed)
    groups = column_values(data.splits["train"], str(arguments.group_column))
    return stratified_group_folds(labels, groups, number, seed)


def is_stratified(data: PreparedData) -> bool:
    """Return whether each text has exactly one class, so that folds can be stratified."""
    return data.schema.problem_type == "single_label_classification"


def prepare_folds(arguments: DataArguments) -> list[PreparedData]:
    """Return the data of each fold's run: `test` is the fold, `train` the other folds.

    Checkpoints are selected on `validation`: the given validation data, the same for each fold, or a share split off
    `train` with the same grouping.

    Raises:
        UserError: `--fold_split` is unknown, or there are test data, which folds replace; or as `load_splits`,
            `make_folds` and `cut_validation`.
    """
    grouped = is_grouped(arguments)
    if arguments.max_predict_samples is not None:
        raise UserError(
            "--folds reports on every text of the training data and excludes --max_predict_samples; leave it out, or "
            "name --max_train_samples."
        )
    data = load_splits(arguments)
    if "test" in data.splits:
        raise UserError(
            "--folds reports on the folds of the training data, found test data too; leave it out."
        )
    folds = make_folds(data, arguments)
    # Ungrouped folds imply an ungrouped validation split.
    cut = arguments if grouped else replace(arguments, group_column=None)
    how = "stratified and " if is_stratified(data) else ""
    how += f"grouped by {arguments.group_column}" if grouped else "not grouped"
    prepared = []
    for number, (rest, fold) in enumerate(folds, start=1):
        splits = {
            **data.splits,
            "train": select_rows(data.splits["train"], rest),
            "test": select_rows(data.splits["train"], fold),
        }
        note = f"test: {len(fold):,} texts, fold {number} of {len(folds)}, {how}"
        held_out = row_keys(splits["test"])
        run = cut_validation(replace(data, splits=splits, notes=[*data.notes, note], held_out=held_out), cut)
        if not grouped and arguments.group_column is not None:
            run.notes.extend(shared_groups(run.splits, "test", arguments.group_column))
        prepared.append(run)
    return prepared


def check_fold_options(arguments: RunTrainingArguments) -> None:
    """Check that a cross-validation has options of a single run only.

    Raises:
        UserError: Names the option that `--folds` excludes.
    """
    if arguments.seeds is not None:
        raise UserError(
            "--folds and --seeds exclude each other; give one --seed, or run once with each of them."
        )
    if is_prediction_only(arguments):
        raise UserError(
            "--do_predict without --do_train predicts --test_file and excludes --folds; leave out one."
        )
    if arguments.hp_search is not None:
        raise UserError("--hp_search is for a single run and excludes --folds; search without folds first.")
    if arguments.dry_run:
        raise UserError("--dry_run shows one run's groups of parameters and excludes --folds; leave one out.")


def run_folds(experiments: Sequence[Experiment], arguments: RunTrainingArguments) -> dict[str, Any]:
    """Run the experiment of each fold once, in `fold-1`, `fold-2`, … below `--output_dir`, and write a summary above
    them.

    Of a finished fold's checkpoints only the selected one is kept, as the model.

    Returns:
        Mean and standard deviation over the folds of each result.

    Raises:
        UserError: As `run_once`.
    """
    top = Path(str(arguments.output_dir))
    runs = []
    for number, experiment in enumerate(experiments, start=1):
        folder = top / f"fold-{number}"
        runs.append(run_once(experiment, replace(arguments, output_dir=str(folder)), top))
        if arguments.process_index == 0:
            for checkpoint in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
                shutil.rmtree(checkpoint)
    return write_summary(top, {"folds": len(experiments)}, runs, arguments)


def cross_validate(
    model_arguments: ModelArguments,
    data_arguments: DataArguments,
    training_arguments: RunTrainingArguments,
) -> dict[str, Any]:
    """Cross-validate a script of one task: run each fold in a folder of its own and write a summary above them.

    With `--resume_from_checkpoint True` an interrupted cross-validation resumes where it stopped. Finished folds are
    not run again.

    Returns:
        Mean and standard deviation over the folds of each result.

    Raises:
        UserError: An argument or the data are invalid.
    """
    check_fold_options(training_arguments)
    refuse_teacher(
        data_arguments,
        training_arguments,
        "excludes --folds, which tests on training texts that a teacher knows",
    )
    with begin_run(model_arguments, data_arguments, training_arguments, several=True) as (
        tokenizer,
        settings,
    ):
        with training_arguments.main_process_first(desc="preparing the folds"):
            folds = prepare_folds(data_arguments)
            separate = encodes_pairs_separately(model_arguments)
            # One limit for all folds, so that they differ in nothing but their texts.
            data_arguments = with_token_limit(folds[0], tokenizer, data_arguments, separate_pairs=separate)
            encoded = [tokenize(data, tokenizer, data_arguments, separate_pairs=separate) for data in folds]
        training_arguments = with_metric(training_arguments, folds[0].schema.problem_type)
        record = data_record(folds[0])  # holds all rows, which determine the other folds
        check_record(Path(str(training_arguments.output_dir)), record, vars(data_arguments))
        settings |= {DATA: record, "max_seq_length": data_arguments.max_seq_length}
        for note in dict.fromkeys(note for data in folds for note in data.notes):
            logger.info(note)
        warn_of_findings(data_arguments, folds[0])
        experiments = [
            Classification(data, inputs, tokenizer, model_arguments, data_arguments, settings)
            for data, inputs in zip(folds, encoded, strict=True)
        ]
        return run_folds(experiments, training_arguments)


def train_one_task(
    model_arguments: ModelArguments,
    data_arguments: DataArguments,
    training_arguments: RunTrainingArguments,
) -> dict[str, Any]:
    """Run a script of one task: `cross_validate` with `--folds`, `classify` without."""
    fit = classify if data_arguments.folds is None else cross_validate
    return fit(model_arguments, data_arguments, training_arguments)
