"""Predictions of a trained model of several tasks for a file of texts."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from datasets import Dataset

from hf_layerfusion import TaskConfig
from hf_layerfusion.data.arrow_tables import column_values
from hf_layerfusion.data.files import read_examples
from hf_layerfusion.data.labels import REGRESSION_NAME, LabelSchema
from hf_layerfusion.ensembling.member_models import task_label_values
from hf_layerfusion.errors import UserError, nearest
from hf_layerfusion.evaluation.predictions import write_predictions
from hf_layerfusion.recipes.best_metric import WITHOUT_EVALUATION
from hf_layerfusion.recipes.data_preparation import limit_first, text_columns
from hf_layerfusion.recipes.model_setup import load_tokenizer, load_trained, resolve_path
from hf_layerfusion.recipes.prediction_run import settings_files
from hf_layerfusion.recipes.recipe_arguments import DataArguments, ModelArguments, RunTrainingArguments
from hf_layerfusion.recipes.run_folder import open_run, run_settings, staged_outputs
from hf_layerfusion.recipes.run_report import split_metrics
from hf_layerfusion.recipes.split_predictions import check_split_predictions, prediction_ids
from hf_layerfusion.run_layout import PREDICTIONS, RESULTS_FILE, SETTINGS_FILE
from hf_layerfusion.storage import finite_or_none, read_object, writable, write_json
from hf_layerfusion.training.raw_texts import TEXT, TEXT_PAIR
from hf_layerfusion.training.trainer import LayerFusionTrainer


def task_entry(name_or_path: str, task: str) -> dict[str, Any]:
    """Return the entry of the tasks file that a task of a trained model was declared by, empty if it is unknown.

    Raises:
        UserError: The run's settings are damaged.
    """
    for path in settings_files(resolve_path(name_or_path)):
        entries = read_object(path, "delete it to name the columns yourself").get("tasks")
        return dict(entries.get(task) or {}) if isinstance(entries, dict) else {}
    return {}


def select_tasks(configs: dict[str, TaskConfig], asked: Sequence[str] | None, is_pair: bool) -> list[str]:
    """Return the tasks to predict: those asked for, or all that take texts of this kind.

    Raises:
        UserError: A task is unknown, or takes single texts where there are pairs or the reverse; or no task is left.
    """
    for name in asked or ():
        if name not in configs:
            raise UserError(
                f"--task must be of the model's tasks {', '.join(configs)}, found {name!r}; {nearest(name, configs)}"
            )
        if configs[name].pair != is_pair:
            wanted = (
                "pairs of texts, whose second column --text_pair_column names"
                if not is_pair
                else "single texts"
            )
            raise UserError(f"--task {name}: takes {wanted}; name the columns that it was trained with")
    found = list(asked or (name for name, task in configs.items() if task.pair == is_pair))
    if not found:
        raise UserError(
            "--text_pair_column must name the second texts of pairs, which all tasks of the model take, found none"
            if not is_pair
            else "--text_pair_column must be left out, as all tasks of the model take single texts"
        )
    return found


def predict_tasks(
    model_arguments: ModelArguments,
    data_arguments: DataArguments,
    training_arguments: RunTrainingArguments,
    asked: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Predict `--test_file` by tasks of a trained model, and write `predictions/TASK.csv` and `all_results.json`.

    Texts are prepared as the model's tokenizer says, which was saved with the preparation of the training texts. Labels
    are read for a single task only.

    Args:
        model_arguments: The model.
        data_arguments: The file and its columns.
        training_arguments: The folder, device and batch size.
        asked: The tasks; None for all that take such texts.

    Returns:
        The metrics, `test_TASK_METRIC`, empty without labels.

    Raises:
        UserError: An argument or the data are invalid, or the model cannot be loaded.
    """
    columns = text_columns(data_arguments)
    settings = run_settings(model_arguments, data_arguments, training_arguments) | {"tasks": asked}
    with open_run(training_arguments, settings):
        model = load_trained(model_arguments)
        configs = model.config.task_configs
        tasks = select_tasks(configs, asked, is_pair=len(columns) == 2)
        tokenizer = load_tokenizer(model_arguments, keep_preparation=True)
        rows = read_examples(
            str(data_arguments.test_file),
            text_columns=columns,
            label_column=data_arguments.label_column if len(tasks) == 1 else None,
            label_required=False,
            id_column=data_arguments.id_column,
        )
        if data_arguments.max_predict_samples is not None:
            rows = limit_first(rows, data_arguments.max_predict_samples)
        given = {
            name: _inputs(
                rows,
                columns,
                configs[name],
                task_label_values(model.config, name),
                str(data_arguments.test_file),
            )
            for name in tasks
        }
        trainer = LayerFusionTrainer(
            model, replace(training_arguments, **WITHOUT_EVALUATION), processing_class=tokenizer
        )
        for name in tasks:
            check_split_predictions(
                rows, configs[name].problem_type, configs[name].labels, columns, data_arguments
            )
        outputs = trainer.predict(given)
        results: dict[str, Any] = {}
        for output in outputs.values():
            if output.label_ids is not None:
                results |= {f"test_{name}": value for name, value in split_metrics(output, "test").items()}
        if training_arguments.process_index == 0:
            place = Path(str(training_arguments.output_dir))
            with writable(f"--output_dir {place}"):
                write_json(place / SETTINGS_FILE, settings)  # first: it marks the folder as this run's
            with staged_outputs(place, last=RESULTS_FILE) as folder:
                (folder / PREDICTIONS).mkdir()
                for name, output in outputs.items():
                    write_predictions(
                        folder / PREDICTIONS / f"{name}.csv",
                        ids=prediction_ids(rows, data_arguments),
                        texts={column: column_values(rows, column) for column in columns},
                        logits=output.predictions,
                        problem_type=configs[name].problem_type,
                        label_names=configs[name].labels,
                        format=data_arguments.prediction_format,  # type: ignore[arg-type]
                        id_name=data_arguments.id_column or "id",
                        class_scores=data_arguments.class_scores,
                    )
                write_json(folder / RESULTS_FILE, results)
        trainer.accelerator.wait_for_everyone()
        return dict(finite_or_none(results))


def _inputs(
    rows: Dataset, columns: Sequence[str], task: TaskConfig, values: tuple[str, ...], where: str
) -> Dataset:
    """Return the texts, and the labels if there are any, as the Trainer takes them."""
    schema = LabelSchema(task.problem_type, tuple(task.labels) or (REGRESSION_NAME,), values)
    encoded = schema.with_numeric_labels(rows, where).encode(rows, where)
    kept = [*columns, *(["label"] if "label" in encoded.column_names else [])]
    return encoded.select_columns(kept).rename_columns(dict(zip(columns, (TEXT, TEXT_PAIR), strict=False)))
