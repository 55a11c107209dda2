"""The command `train`: a model for any text classification, regression or multi-label data, single texts or pairs."""

import csv
from pathlib import Path
from typing import Any

from hf_layerfusion.cli.recipe_command import RecipeCommand
from hf_layerfusion.run_layout import PREDICTIONS_FILE, find

NUM_SHOWN = 3


def run(model_arguments: Any, data_arguments: Any, training_arguments: Any) -> None:
    """Train, and show what the model says to three texts of the user's that it was not trained on."""
    from hf_layerfusion.cli.answers import print_run
    from hf_layerfusion.recipes.fold_runs import train_one_task

    results = train_one_task(model_arguments, data_arguments, training_arguments)
    columns = [data_arguments.text_column, *filter(None, [data_arguments.text_pair_column])]
    folder = Path(str(training_arguments.output_dir))
    print_run(results, training_arguments, own_texts(find(folder, PREDICTIONS_FILE), columns))


def own_texts(predictions: Path, columns: list[str]) -> list[Any]:
    """Return the first texts, or pairs of texts, of a file of predictions; none where there is no such file."""
    if not predictions.is_file():
        return []
    from hf_layerfusion.evaluation.predictions import long_fields

    with predictions.open(encoding="utf-8", newline="") as file, long_fields():
        rows = [row for _, row in zip(range(NUM_SHOWN), csv.DictReader(file), strict=False)]
    return [
        row[columns[0]] if len(columns) == 1 else tuple(row[column] for column in columns)
        for row in rows
        if all(column in row for column in columns)
    ]


RECIPE = RecipeCommand(
    "train",
    "train a model for any text classification, regression or multi-label data, single texts or pairs",
    (
        "hf_layerfusion.recipes.recipe_arguments:TextModelArguments",
        "hf_layerfusion.recipes.recipe_arguments:TextDataArguments",
        "hf_layerfusion.recipes.recipe_arguments:TextTrainingArguments",
    ),
    run,
)
