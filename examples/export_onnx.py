"""Export a trained classifier to ONNX: graph, configuration and tokenizer in one folder.

python examples/export_onnx.py --model_name_or_path outputs/grubert-share-3 --output_dir outputs/onnx --quantize True

`OnnxClassifier("outputs/onnx")` predicts with it as a pipeline does; see docs/export.md.
"""

from hf_layerfusion.cli.export_command import RECIPE

main = RECIPE.main

if __name__ == "__main__":
    RECIPE.call()
