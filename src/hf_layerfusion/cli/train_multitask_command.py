"""The command `train-multitask`, SerBERTus' recipe: one model for several tasks."""

from typing import Any

from hf_layerfusion.cli.recipe_command import RecipeCommand


def run(model_arguments: Any, data_arguments: Any, training_arguments: Any) -> None:
    """Train; with `--dry_run`, show the parameters of every architecture."""
    from hf_layerfusion.cli.answers import print_run
    from hf_layerfusion.recipes.multitask.multitask_run import train_tasks

    results = train_tasks(model_arguments, data_arguments, training_arguments)
    if training_arguments.dry_run and training_arguments.process_index == 0:
        for variant, counts in results["architectures"].items():
            parts = {"shared": counts["shared"], "frozen": counts["frozen"], **counts["tasks"]}
            listed = ", ".join(f"{name} {number:,}" for name, number in parts.items())
            print(f"{variant:16} {counts['total']:>13,}: {listed}")
    print_run(results, training_arguments)


RECIPE = RecipeCommand(
    "train-multitask",
    "train one model for several tasks by SerBERTus' recipe",
    (
        "hf_layerfusion.recipes.multitask.multitask_arguments:MultitaskModelArguments",
        "hf_layerfusion.recipes.multitask.multitask_arguments:MultitaskDataArguments",
        "hf_layerfusion.recipes.multitask.multitask_arguments:MultitaskTrainingArguments",
    ),
    run,
)
