"""Predictions of a model that is trained already: `--do_predict True` without `--do_train True`."""

import dataclasses
import logging
from pathlib import Path
from typing import Any, TypeVar

from transformers import PreTrainedModel

from hf_layerfusion.data.labels import LabelSchema
from hf_layerfusion.ensembling.member_models import label_values
from hf_layerfusion.errors import UserError
from hf_layerfusion.evaluation.metrics import compute_metrics_for
from hf_layerfusion.recipes.data_preparation import check_length, load_splits, tokenize
from hf_layerfusion.recipes.model_setup import load_tokenizer, load_trained, resolve_path
from hf_layerfusion.recipes.recipe_arguments import DataArguments, ModelArguments, RunTrainingArguments
from hf_layerfusion.recipes.run_folder import (
    RESULTS_FILE,
    SETTINGS_FILE,
    open_run,
    run_settings,
    staged_outputs,
)
from hf_layerfusion.recipes.run_report import split_metrics
from hf_layerfusion.recipes.split_predictions import write_split_predictions
from hf_layerfusion.storage import finite_or_none, read_json, writable, write_json
from hf_layerfusion.training.collators import PaddingCollator
from hf_layerfusion.training.trainer import LayerFusionTrainer

logger = logging.getLogger(__name__)

# What makes a model's input of a text: as in training, or the model reads another language.
PREPARATION = (
    "preprocessing", "preprocessing_steps", "spelling_language", "spelling_dictionary", "max_seq_length",
    "truncation", "pad_to_max_length",
)  # fmt: skip

AnyDataArguments = TypeVar("AnyDataArguments", bound=DataArguments)


def is_prediction_only(arguments: RunTrainingArguments) -> bool:
    """Whether the script is asked to predict and not to train."""
    return arguments.do_predict and not arguments.do_train


def training_settings(name_or_path: str) -> dict[str, Any] | None:
    """What a run of ours wrote beside the model: in its folder, or above that of a seed, a fold or a checkpoint; `None`
    for a model of another origin.

    Raises:
        UserError: if the file is no JSON.
    """
    folder = Path(name_or_path)
    for place in (folder, *folder.absolute().parents[:2]):
        path = place / SETTINGS_FILE
        if folder.is_dir() and path.is_file():
            content = read_json(path, "delete it to prepare texts by the options")
            if isinstance(content, dict) and "preprocessing" in content:
                return content
    return None


def prepared_as_trained(arguments: AnyDataArguments, stored: dict[str, Any]) -> AnyDataArguments:
    """The arguments with the preparation of texts that the model was trained with.

    Args:
        arguments: the user's.
        stored: `training_settings`.

    Raises:
        UserError: a preparation that differs from both the model's and the script's default, so that the user meant it;
            single texts for a model of pairs, or the other way round.
    """
    defaults = {
        field.name: field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        for field in dataclasses.fields(arguments)
    }
    changes = {name: stored[name] for name in PREPARATION if name in stored}
    for name, value in changes.items():
        asked = getattr(arguments, name)
        if asked not in (value, defaults[name]):
            raise UserError(
                f"--{name} {asked}: the model was trained with {value}, as its {SETTINGS_FILE} says; leave it out."
            )
    pair = arguments.text_pair_column
    if "text_pair_column" in stored and (stored["text_pair_column"] is None) != (pair is None):
        kinds = ("single texts", "pairs") if pair else ("pairs", "single texts")
        raise UserError(
            f"--text_pair_column {pair}: the model was trained on {kinds[0]} and would be given {kinds[1]}; "
            "name the columns that it was trained with."
        )
    return dataclasses.replace(arguments, **changes)


def schema_of(model: PreTrainedModel) -> LabelSchema:
    """The labels that a model's configuration names, and the raw labels that it was trained on.

    Raises:
        UserError: if two have one name.
    """
    config = model.config
    guessed = "regression" if config.num_labels == 1 else "single_label_classification"
    problem_type: Any = config.problem_type or guessed
    names = tuple(str(config.id2label[index]) for index in range(config.num_labels))
    return LabelSchema(problem_type, names, label_values(config))


def predict_only(
    model_arguments: ModelArguments, data_arguments: DataArguments, training_arguments: RunTrainingArguments
) -> dict[str, Any]:
    """Predicts `--test_file` by the model of `--model_name_or_path` and writes `predictions.csv`, `logits.csv` and
    `all_results.json` into `--output_dir`; metrics and a figure too where the file has labels. Nothing is trained.

    Labels are those that the model names. Texts are prepared as in the model's training where its `run.json` lies
    beside it, else by the options.

    Returns:
        The contents of `all_results.json`.

    Raises:
        UserError: for whatever the user can mend.
    """
    if data_arguments.test_file is None:
        raise UserError("--do_predict without --do_train needs --test_file, found none; name the texts.")
    for name in ("hp_search", "push_to_hub"):
        if getattr(training_arguments, name):
            raise UserError(
                f"--{name} is for training and excludes --do_predict without --do_train; leave it out."
            )
    stored = training_settings(resolve_path(model_arguments.model_name_or_path))
    if stored is None:
        logger.info("no %s beside the model: texts are prepared as the options say", SETTINGS_FILE)
    else:
        data_arguments = prepared_as_trained(data_arguments, stored)
    settings = run_settings(model_arguments, data_arguments, training_arguments)
    with open_run(training_arguments, settings):
        model = load_trained(model_arguments)
        if getattr(model.config, "tasks", None):
            raise UserError(
                f"--model_name_or_path {model_arguments.model_name_or_path}: must be a model of one task, found one of "
                "several; ask it by MultitaskPipeline."
            )
        tokenizer = load_tokenizer(model_arguments)
        check_length(tokenizer, data_arguments)
        with training_arguments.main_process_first(desc="preparing the texts"):
            data = load_splits(data_arguments, schema_of(model))
            separate = getattr(model.config, "pair_features", None) is not None
            encoded = tokenize(data, tokenizer, data_arguments, separate_pairs=separate)
        for note in data.notes:
            logger.info(note)
        changes: dict[str, Any] = {
            "eval_strategy": "no",
            "load_best_model_at_end": False,
            "early_stopping_patience": None,
        }
        trainer = LayerFusionTrainer(
            model=model,
            args=dataclasses.replace(training_arguments, **changes),
            processing_class=tokenizer,
            data_collator=PaddingCollator(tokenizer),
            compute_metrics=compute_metrics_for(data.schema.problem_type),
        )
        output = trainer.predict(encoded["test"], metric_key_prefix="test")
        metrics = {} if output.label_ids is None else split_metrics(output, "test")
        results = {f"test_{name}": value for name, value in metrics.items()}
        if training_arguments.process_index == 0:
            logits = output.predictions[0] if isinstance(output.predictions, tuple) else output.predictions
            place = Path(str(training_arguments.output_dir))
            with writable(f"--output_dir {place}"):
                # First, as the folder is known by it to be this run's.
                write_json(place / SETTINGS_FILE, settings)
            with staged_outputs(place) as folder:
                write_split_predictions(folder, data, "test", logits, output.label_ids, data_arguments)
                write_json(folder / RESULTS_FILE, results)
        trainer.accelerator.wait_for_everyone()
        return dict(finite_or_none(results))
