"""Predictions of a split as files and a figure."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from datasets import Dataset

from hf_layerfusion.evaluation.plots.run_plots import plot_confusion_matrix, plot_regression
from hf_layerfusion.evaluation.predictions import check_predictions, write_predictions
from hf_layerfusion.recipes.data_preparation import PreparedData, as_read
from hf_layerfusion.recipes.ensemble_artifacts import write_split_logits
from hf_layerfusion.recipes.recipe_arguments import DataArguments
from hf_layerfusion.run_layout import PLOTS, PREDICTIONS_FILE, figure


def prediction_ids(rows: Dataset, arguments: DataArguments) -> list[str]:
    """Return the ids to write predictions with: those of the data, or row numbers from 1 for Kaggle's format without
    ids."""
    ids = list(rows["id"])
    numbered = arguments.id_column is None and not str(arguments.test_file).endswith(".txt")
    if arguments.prediction_format == "kaggle" and numbered:
        return [str(int(id_) + 1) for id_ in ids]
    return ids


def check_split_predictions(
    rows: Dataset | None,
    problem_type: str,
    label_names: Sequence[str],
    text_columns: Sequence[str],
    arguments: DataArguments,
) -> None:
    """Check before there are predictions that those of a split can be written.

    Args:
        rows: The split; None where the run has none to predict.
        problem_type, label_names, text_columns: As for `write_predictions`.
        arguments: The format of the predictions and the column of the ids.

    Raises:
        UserError: As `check_predictions`.
    """
    check_predictions(
        problem_type,
        label_names,
        text_columns,
        arguments.prediction_format,
        arguments.id_column or "id",
        arguments.class_scores,
        () if rows is None else prediction_ids(rows, arguments),
    )


def write_split_predictions(
    folder: Path,
    data: PreparedData,
    split: str,
    logits: np.ndarray,
    labels: np.ndarray | None,
    arguments: DataArguments,
) -> list[tuple[str, str]]:
    """Write the predictions and logits of a split into a folder of records and, where there are labels, plot both.

    Returns:
        The caption and path of the figure, in a list that is empty without labels.
    """
    rows, schema = data.splits[split], data.schema
    write_predictions(
        folder / PREDICTIONS_FILE,
        ids=prediction_ids(rows, arguments),
        texts={column: as_read(rows, column) for column in data.text_columns},
        logits=logits,
        problem_type=schema.problem_type,
        label_names=schema.names,
        format=arguments.prediction_format,  # type: ignore[arg-type]
        id_name=arguments.id_column or "id",
        class_scores=arguments.class_scores,
    )
    write_split_logits(folder, data, rows, logits)
    plots = folder / PLOTS
    plots.mkdir(exist_ok=True)
    if labels is None or schema.problem_type == "multi_label_classification":
        return []
    if schema.problem_type == "regression":
        plot_regression(labels, logits, plots / "regression.png")
        return [
            (f"Predicted against true values on the {len(rows):,} {split} texts.", figure("regression.png"))
        ]
    plot_confusion_matrix(labels, logits.argmax(axis=1), schema.names, plots / "confusion_matrix.png")
    return [(f"Confusion matrix on the {len(rows):,} {split} texts.", figure("confusion_matrix.png"))]
