"""The whole of the script that exports a model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoModelForSequenceClassification

from hf_layerfusion.errors import LOADING_ERRORS, UserError, one_line
from hf_layerfusion.experiments.arguments import EncoderArguments, option
from hf_layerfusion.experiments.models import load_tokenizer, loading_options, resolve_path
from hf_layerfusion.export import export_onnx


@dataclass
class ExportArguments(EncoderArguments):
    """Which trained classifier, and what is written."""

    task: str | None = option(None, "Task of a model of several tasks; by default its default task.")
    quantize: bool = option(False, "Write model_quantized.onnx, int8, beside model.onnx.")
    output_dir: str | None = option(None, "Folder of the export; must be new or empty.")


def export_model(arguments: ExportArguments) -> dict[str, Any]:
    """Exports a trained classifier to ONNX.

    Returns:
        The largest difference between the graph's logits and the model's, and the megabytes of each graph.

    Raises:
        UserError: for whatever the user can mend.
    """
    if not arguments.output_dir:
        raise UserError("--output_dir must name the folder of the export, found none; name one.")
    model = load_classifier(arguments)
    tokenizer = load_tokenizer(arguments)
    folder = Path(arguments.output_dir)
    difference = export_onnx(model, tokenizer, folder, arguments.quantize)
    sizes = {path.name: round(path.stat().st_size / 1e6, 1) for path in sorted(folder.glob("*.onnx"))}
    return {"largest_difference": difference, "megabytes": sizes}


def load_classifier(arguments: ExportArguments) -> Any:
    """The trained classifier, with the named task as its default.

    Raises:
        UserError: if it cannot be loaded, weights are missing, or it has no such task.
    """
    name = f"--model_name_or_path {arguments.model_name_or_path}"
    try:
        model, info = AutoModelForSequenceClassification.from_pretrained(
            resolve_path(arguments.model_name_or_path),
            use_safetensors=None if arguments.allow_pickle else True,
            output_loading_info=True,
            **loading_options(arguments),
        )
    except LOADING_ERRORS as error:
        raise UserError(f"{name}: {one_line(error)}") from error
    if missing := sorted(info["missing_keys"]):
        raise UserError(
            f"{name}: must be a trained classifier, found no weights of {missing[0]}; train it first."
        )
    if arguments.task is None:
        return model
    if not hasattr(model, "task"):
        raise UserError(f"--task {arguments.task}: must be left out for a model of one task, as {name} is.")
    try:
        return model.task(arguments.task)
    except ValueError as error:
        raise UserError(f"--task {arguments.task}: {one_line(error)}") from error
