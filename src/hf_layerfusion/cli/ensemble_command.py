"""The command `ensemble`: each member predicts once, then combiners are compared in seconds."""

from pathlib import Path
from typing import Any

from hf_layerfusion.cli.recipe_command import RecipeCommand
from hf_layerfusion.run_layout import TABLE_FILE, find


def run(arguments: Any, data_arguments: Any) -> None:
    """Compare the combiners and write the ensemble of the best."""
    from hf_layerfusion.cli.script import print_dry_run, print_outputs
    from hf_layerfusion.recipes.ensembles.ensemble_run import make_ensemble

    results = make_ensemble(arguments, data_arguments)
    if arguments.dry_run:
        print_dry_run(results)
        return
    folder = Path(arguments.output_dir)
    print(find(folder, TABLE_FILE).read_text(encoding="utf-8"))
    print_outputs(results, folder)


RECIPE = RecipeCommand(
    "ensemble",
    "try the combiners of trained models, and write the ensemble of the best",
    (
        "hf_layerfusion.recipes.ensembles.ensemble_arguments:EnsembleArguments",
        "hf_layerfusion.recipes.ensembles.ensemble_arguments:EnsembleDataArguments",
    ),
    run,
)
