"""The command `search`: as `train`, by the settings that a search before it finds best."""

from hf_layerfusion.cli.recipe_command import RecipeCommand
from hf_layerfusion.cli.train_command import run

RECIPE = RecipeCommand(
    "search",
    "search the best settings that a space file allows, and train a model with them",
    (
        "hf_layerfusion.recipes.recipe_arguments:TextModelArguments",
        "hf_layerfusion.recipes.recipe_arguments:TextDataArguments",
        "hf_layerfusion.recipes.recipe_arguments:SearchTrainingArguments",
    ),
    run,
)
