"""The export recipe: a trained classifier to ONNX."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_layerfusion.errors import UserError, one_line
from hf_layerfusion.export import export_onnx
from hf_layerfusion.recipes.model_setup import load_tokenizer, load_trained
from hf_layerfusion.recipes.recipe_arguments import CheckpointArguments, option


@dataclass
class ExportArguments(CheckpointArguments):
    """Arguments of an export: the trained classifier and what is written."""

    task: str | None = option(None, "Task of a model of several tasks; by default its default task.")
    quantize: bool = option(False, "Write model_quantized.onnx, int8, beside model.onnx.")
    output_dir: str | None = option(None, "Folder of the export; must be new or empty.")


def export_model(arguments: ExportArguments) -> dict[str, Any]:
    """Export a trained classifier to ONNX.

    Returns:
        The largest difference between the logits of graph and model, and the size of each graph in megabytes.

    Raises:
        UserError: An argument is invalid, or the model cannot be loaded or exported.
    """
    if not arguments.output_dir:
        raise UserError("--output_dir must name the folder of the export, found none; name one.")
    model = load_classifier(arguments)
    tokenizer = load_tokenizer(arguments, keep_preparation=True)
    folder = Path(arguments.output_dir)
    difference = export_onnx(model, tokenizer, folder, arguments.quantize)
    sizes = {path.name: round(path.stat().st_size / 1e6, 1) for path in sorted(folder.glob("*.onnx"))}
    return {"largest_difference": difference, "megabytes": sizes}


def load_classifier(arguments: ExportArguments) -> Any:
    """Return a trained classifier, set to the task that the arguments name.

    Raises:
        UserError: As `load_trained`; or the model has no such task.
    """
    model = load_trained(arguments)
    if arguments.task is None:
        return model
    if not hasattr(model, "task"):
        raise UserError(
            f"--task {arguments.task}: must be left out for a model of one task, found "
            f"{arguments.model_name_or_path}."
        )
    try:
        return model.task(arguments.task)
    except ValueError as error:
        raise UserError(f"--task {arguments.task}: {one_line(error)}") from error
