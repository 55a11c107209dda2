"""The prediction recipe: a trained model's predictions, by `--do_predict True` without `--do_train True`."""

import dataclasses
import logging
from pathlib import Path
from typing import Any, TypeVar

from transformers import PreTrainedConfig, PreTrainedModel

from hf_layerfusion.data.labels import LabelSchema
from hf_layerfusion.ensembling.member_models import label_values
from hf_layerfusion.errors import UserError
from hf_layerfusion.evaluation.metrics import compute_metrics_for
from hf_layerfusion.recipes.best_metric import WITHOUT_EVALUATION
from hf_layerfusion.recipes.data_preparation import check_length, load_splits, tokenize
from hf_layerfusion.recipes.model_setup import load_tokenizer, load_trained, resolve_path
from hf_layerfusion.recipes.recipe_arguments import DataArguments, ModelArguments, RunTrainingArguments
from hf_layerfusion.recipes.run_folder import open_run, run_settings, staged_outputs
from hf_layerfusion.recipes.run_report import split_metrics
from hf_layerfusion.recipes.split_predictions import write_split_predictions
from hf_layerfusion.run_layout import RESULTS_FILE, SETTINGS_FILE, find, run_of
from hf_layerfusion.storage import finite_or_none, read_json, writable, write_json
from hf_layerfusion.training.collators import PaddingCollator
from hf_layerfusion.training.trainer import LayerFusionTrainer

logger = logging.getLogger(__name__)

# Settings that turn a text into model inputs, which must be those of training.
PREPARATION = (
    "preprocessing", "preprocessing_steps", "spelling_language", "spelling_dictionary", "max_seq_length",
    "truncation", "pad_to_max_length",
)  # fmt: skip

AnyDataArguments = TypeVar("AnyDataArguments", bound=DataArguments)


def is_prediction_only(arguments: RunTrainingArguments) -> bool:
    """Return whether the arguments ask to predict without training."""
    return arguments.do_predict and not arguments.do_train


def training_settings(name_or_path: str) -> dict[str, Any] | None:
    """Return the settings that a run stored with its model, None for a model of other origin.

    They lie in the records of the model's folder, or above it for the model of a seed, a fold or a checkpoint.

    Raises:
        UserError: The file is not JSON.
    """
    for place in run_of(name_or_path) if Path(name_or_path).is_dir() else ():
        path = find(place, SETTINGS_FILE)
        if path.is_file():
            content = read_json(path, "delete it to prepare texts by the options")
            if isinstance(content, dict) and "preprocessing" in content:
                return content
    return None


def prepared_as_trained(arguments: AnyDataArguments, stored: dict[str, Any]) -> AnyDataArguments:
    """Return the arguments with the text preparation that the model was trained with.

    Args:
        arguments: the user's arguments.
        stored: the result of `training_settings`.

    Raises:
        UserError: The user explicitly set another preparation, or gave single texts to a model of pairs or the
            reverse.
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
    """Return the labels of a model with the raw labels that it was trained on; see `config_schema`."""
    return config_schema(model.config)


def config_schema(config: PreTrainedConfig) -> LabelSchema:
    """Return the labels of a model's configuration with the raw labels that it was trained on.

    Raises:
        UserError: Two labels have the same name.
    """
    guessed = "regression" if config.num_labels == 1 else "single_label_classification"
    problem_type: Any = config.problem_type or guessed
    names = tuple(str(config.id2label[index]) for index in range(config.num_labels))
    return LabelSchema(problem_type, names, label_values(config))


def predict_only(
    model_arguments: ModelArguments, data_arguments: DataArguments, training_arguments: RunTrainingArguments
) -> dict[str, Any]:
    """Predict `--test_file` with a trained model and write `predictions.csv`, `logits.csv` and `all_results.json`.

    Where the file has labels, metrics and a figure are written too. Labels are the model's. Texts are prepared as in
    training if the model's `run.json` is there, else as the options say.

    Returns:
        The content of `all_results.json`.

    Raises:
        UserError: An argument or the data are invalid, or the model cannot be loaded.
    """
    if data_arguments.test_file is None:
        raise UserError(
            "--do_predict without --do_train needs --test_file, found none; name the file of the texts."
        )
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
                "several; use `hf-layerfusion predict`."
            )
        tokenizer = load_tokenizer(model_arguments)
        check_length(tokenizer, data_arguments)
        with training_arguments.main_process_first(desc="preparing the texts"):
            data = load_splits(data_arguments, schema_of(model))
            separate = getattr(model.config, "pair_features", None) is not None
            encoded = tokenize(data, tokenizer, data_arguments, separate_pairs=separate)
        for note in data.notes:
            logger.info(note)
        trainer = LayerFusionTrainer(
            model=model,
            args=dataclasses.replace(training_arguments, **WITHOUT_EVALUATION),
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
                # Written first, because it marks the folder as this run's.
                write_json(place / SETTINGS_FILE, settings)
            # This folder holds no model from which records would have to be kept apart.
            with staged_outputs(place, last=RESULTS_FILE) as folder:
                write_split_predictions(folder, data, "test", logits, output.label_ids, data_arguments)
                write_json(folder / RESULTS_FILE, results)
        trainer.accelerator.wait_for_everyone()
        return dict(finite_or_none(results))
