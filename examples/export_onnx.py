"""Exports a trained classifier to ONNX: graph, configuration and tokenizer in one folder.

python examples/export_onnx.py --model_name_or_path outputs/grubert-share-3 --output_dir outputs/onnx --quantize True

`OnnxClassifier("outputs/onnx")` answers from it as a pipeline does; docs/export.md says more.
"""

from pathlib import Path

from hf_layerfusion.cli.script import parse_arguments, print_outputs, run_script
from hf_layerfusion.recipes.export_run import ExportArguments, export_model


def main() -> None:
    (arguments,) = parse_arguments(ExportArguments)
    print_outputs(export_model(arguments), Path(arguments.output_dir))


if __name__ == "__main__":
    run_script(main)
