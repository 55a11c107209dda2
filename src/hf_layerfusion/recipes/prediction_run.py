"""The prediction recipe: a trained model's predictions, by `--do_predict True` without `--do_train True`."""

import dataclasses
import logging
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.tokenization_utils_base import LARGE_INTEGER
from transformers.utils import cached_file

from hf_layerfusion.data.labels import LabelSchema
from hf_layerfusion.data.text_preparation import saved_dictionary, saved_preparation
from hf_layerfusion.data.tweets import PRESETS, SPELLING
from hf_layerfusion.ensembling.member_models import label_values
from hf_layerfusion.errors import LOADING_ERRORS, UserError
from hf_layerfusion.evaluation.metrics import compute_metrics_for
from hf_layerfusion.recipes.best_metric import WITHOUT_EVALUATION
from hf_layerfusion.recipes.data_preparation import check_length, load_splits, tokenize
from hf_layerfusion.recipes.model_setup import load_tokenizer, load_trained, resolve_path
from hf_layerfusion.recipes.recipe_arguments import DataArguments, ModelArguments, RunTrainingArguments
from hf_layerfusion.recipes.run_folder import open_run, run_settings, staged_outputs
from hf_layerfusion.recipes.run_report import split_metrics
from hf_layerfusion.recipes.split_predictions import check_split_predictions, write_split_predictions
from hf_layerfusion.run_layout import RESULTS_FILE, RUN, SETTINGS_FILE, find, run_of
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


def settings_files(name_or_path: str) -> Iterator[Path]:
    """Yield the files of settings that a run may have stored with its model.

    They lie in the records of the model's folder, or above it for the model of a seed, a fold or a checkpoint. Those of
    a model of the Hub are downloaded.

    Args:
        name_or_path: Folder or Hub id.
    """
    if Path(name_or_path).is_dir():
        yield from filter(Path.is_file, (find(place, SETTINGS_FILE) for place in run_of(name_or_path)))
        return
    for name in (f"{RUN}/{SETTINGS_FILE}", SETTINGS_FILE):
        with suppress(*LOADING_ERRORS):  # no such file; or no such model, which its loading reports
            yield Path(str(cached_file(name_or_path, name)))
            return


def training_settings(name_or_path: str) -> dict[str, Any] | None:
    """Return the settings that a run stored with its model, None for a model of other origin; see `settings_files`.

    Raises:
        UserError: The file is not JSON.
    """
    for path in settings_files(name_or_path):
        content = read_json(path, "delete it to prepare texts by the options")
        if isinstance(content, dict) and "preprocessing" in content:
            return content
    return None


def tokenizer_settings(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Return the preparation that is saved with a trained model's tokenizer as settings of a run, empty if it has none.

    Args:
        tokenizer: With its preparation.
    """
    saved = saved_preparation(tokenizer)
    if saved is None or "steps" not in saved:  # those of several tasks are named by task
        return {}
    steps = tuple(saved["steps"])
    preset = next((name for name, of_preset in PRESETS.items() if of_preset == steps), None)
    settings: dict[str, Any] = {
        "preprocessing": preset or "none",
        "preprocessing_steps": list(steps) if preset is None else None,
        "truncation": saved["truncation"],
    }
    if SPELLING in steps:
        settings["spelling_language"] = saved["spelling_language"]
        settings["spelling_dictionary"] = saved_dictionary(tokenizer)
    if tokenizer.model_max_length < LARGE_INTEGER:
        settings["max_seq_length"] = tokenizer.model_max_length
    return settings


def prepared_as_trained(
    arguments: AnyDataArguments, stored: dict[str, Any], source: str = SETTINGS_FILE
) -> AnyDataArguments:
    """Return the arguments with the text preparation that the model was trained with.

    Args:
        arguments: the user's arguments.
        stored: the result of `training_settings` or `tokenizer_settings`.
        source: what they were read from, for messages.

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
                f"--{name} {asked}: the model was trained with {value}, as its {source} says; leave it out."
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
    training if the model's `run.json` is there or its tokenizer has their preparation, else as the options say.

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
    prepared = load_tokenizer(model_arguments, keep_preparation=True)
    if stored is not None:
        data_arguments = prepared_as_trained(data_arguments, stored)
    elif saved := tokenizer_settings(prepared):
        data_arguments = prepared_as_trained(data_arguments, saved, source="tokenizer")
    else:
        logger.info("no %s beside the model: texts are prepared as the options say", SETTINGS_FILE)
    if (dictionary := saved_dictionary(prepared)) is not None:  # that of training may have moved since
        data_arguments = dataclasses.replace(data_arguments, spelling_dictionary=dictionary)
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
        check_split_predictions(
            data.splits["test"],
            data.schema.problem_type,
            data.schema.names,
            data.text_columns,
            data_arguments,
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
