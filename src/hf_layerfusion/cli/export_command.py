"""The command `export`: a trained classifier as an ONNX graph with its tokenizer."""

from pathlib import Path
from typing import Any

from hf_layerfusion.cli.recipe_command import RecipeCommand


def run(arguments: Any) -> None:
    """Export the classifier and print how far the graph's logits are from the model's."""
    from hf_layerfusion.cli.script import print_outputs
    from hf_layerfusion.recipes.export_run import export_model

    print_outputs(export_model(arguments), Path(arguments.output_dir))


RECIPE = RecipeCommand(
    "export",
    "export a trained classifier to ONNX",
    ("hf_layerfusion.recipes.export_run:ExportArguments",),
    run,
)
