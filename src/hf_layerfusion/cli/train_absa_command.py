"""The command `train-absa`, BERT-LSTM's recipe for the sentiment of aspects, once or in cross-validation."""

from typing import Any

from hf_layerfusion.cli.recipe_command import RecipeCommand

PAIRS = (
    ("The food was wonderful but the waiter was rude.", "food"),
    ("The food was wonderful but the waiter was rude.", "waiter"),
    ("The battery lasts four hours.", "battery"),
)


def run(model_arguments: Any, data_arguments: Any, training_arguments: Any) -> None:
    """Train or cross-validate, and show what the model says to three pairs."""
    from hf_layerfusion.cli.answers import print_run
    from hf_layerfusion.recipes.fold_runs import train_one_task

    results = train_one_task(model_arguments, data_arguments, training_arguments)
    print_run(results, training_arguments, () if data_arguments.sentence_only else PAIRS)


RECIPE = RecipeCommand(
    "train-absa",
    "train a classifier of aspect sentiment by BERT-LSTM's recipe, once or in cross-validation",
    (
        "hf_layerfusion.recipes.recipe_arguments:PoolingModelArguments",
        "hf_layerfusion.recipes.recipe_arguments:AbsaDataArguments",
        "hf_layerfusion.recipes.recipe_arguments:AbsaTrainingArguments",
    ),
    run,
)
