"""The command `search-multitask`: as `train-multitask`, by the settings that a search before it finds best."""

from hf_layerfusion.cli.recipe_command import RecipeCommand
from hf_layerfusion.cli.train_multitask_command import run

RECIPE = RecipeCommand(
    "search-multitask",
    "search the best settings that a space file allows, and train a model for several tasks with them",
    (
        "hf_layerfusion.recipes.multitask.multitask_arguments:MultitaskModelArguments",
        "hf_layerfusion.recipes.multitask.multitask_arguments:MultitaskDataArguments",
        "hf_layerfusion.recipes.multitask.multitask_arguments:MultitaskSearchArguments",
    ),
    run,
)
