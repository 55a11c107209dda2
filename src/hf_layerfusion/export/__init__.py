"""Export of models for serving: ONNX graphs, int8 quantization, and a frozen copy that keeps no hidden states."""

from hf_layerfusion.export.inference import inference_copy
from hf_layerfusion.export.onnx_classifier import OnnxClassifier
from hf_layerfusion.export.onnx_export import export_onnx, quantize_onnx

__all__ = ["OnnxClassifier", "export_onnx", "inference_copy", "quantize_onnx"]
