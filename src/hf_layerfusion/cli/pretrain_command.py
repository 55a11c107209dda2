"""The command `pretrain`, which trains an encoder further on texts without labels."""

from typing import Any

from hf_layerfusion.cli.recipe_command import RecipeCommand


def run(model_arguments: Any, data_arguments: Any, training_arguments: Any) -> None:
    """Train the encoder; every other command takes it by `--model_name_or_path`."""
    from hf_layerfusion.cli.answers import print_run
    from hf_layerfusion.recipes.pretraining.pretraining_run import pretrain

    print_run(pretrain(model_arguments, data_arguments, training_arguments), training_arguments)


RECIPE = RecipeCommand(
    "pretrain",
    "train an encoder further on texts without labels, by masked tokens, next or adjacent sentences, or SimCSE",
    (
        "hf_layerfusion.recipes.recipe_arguments:EncoderArguments",
        "hf_layerfusion.recipes.pretraining.pretraining_arguments:PretrainingDataArguments",
        "hf_layerfusion.recipes.pretraining.pretraining_arguments:PretrainingArguments",
    ),
    run,
)
