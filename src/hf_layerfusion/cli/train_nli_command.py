"""The command `train-nli`, BERT-LSTM's recipe for premise and hypothesis."""

from typing import Any

from hf_layerfusion.cli.recipe_command import RecipeCommand

PAIRS = (
    ("Two dogs run along the beach.", "Animals are outside."),
    ("Two dogs run along the beach.", "The dogs are asleep."),
    ("Two dogs run along the beach.", "The dogs chase a ball."),
)


def run(model_arguments: Any, data_arguments: Any, training_arguments: Any) -> None:
    """Train, and show what the model says to three pairs."""
    from hf_layerfusion.cli.answers import print_run
    from hf_layerfusion.recipes.fold_runs import train_one_task

    print_run(train_one_task(model_arguments, data_arguments, training_arguments), training_arguments, PAIRS)


RECIPE = RecipeCommand(
    "train-nli",
    "train a classifier of premise and hypothesis by BERT-LSTM's recipe",
    (
        "hf_layerfusion.recipes.recipe_arguments:PoolingModelArguments",
        "hf_layerfusion.recipes.recipe_arguments:NliDataArguments",
        "hf_layerfusion.recipes.recipe_arguments:NliTrainingArguments",
    ),
    run,
)
