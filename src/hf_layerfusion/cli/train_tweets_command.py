"""The command `train-tweets`, GRUBERT's recipe: raw tweets in, a model with its card out."""

from typing import Any

from hf_layerfusion.cli.recipe_command import RecipeCommand

SENTENCES = (
    "what a lovely morning, thank you all!",
    "my phone died again and i missed the train",
    "finally friday!! cant wait to see you guys",
    "i hate mondays so much, feeling sick",
    "the meeting is at ten",
)


def run(model_arguments: Any, data_arguments: Any, training_arguments: Any) -> None:
    """Train, and show what the model says to five sentences."""
    from hf_layerfusion.cli.answers import print_run
    from hf_layerfusion.recipes.fold_runs import train_one_task

    results = train_one_task(model_arguments, data_arguments, training_arguments)
    shown = SENTENCES if data_arguments.text_pair_column is None else ()
    print_run(results, training_arguments, shown)


RECIPE = RecipeCommand(
    "train-tweets",
    "train a classifier of tweets by GRUBERT's recipe: cleaned texts, all layers, 15 epochs",
    (
        "hf_layerfusion.recipes.recipe_arguments:ModelArguments",
        "hf_layerfusion.recipes.recipe_arguments:DataArguments",
        "hf_layerfusion.recipes.recipe_arguments:TweetTrainingArguments",
    ),
    run,
)
