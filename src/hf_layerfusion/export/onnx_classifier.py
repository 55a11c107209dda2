"""Text classification pipeline on an exported ONNX classifier."""

import os
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from hf_layerfusion.data.length_batches import LengthBatchedPipeline
from hf_layerfusion.data.text_preparation import clean_inputs, cleaner_of, saved_preparation
from hf_layerfusion.data.truncation import encode, encode_input
from hf_layerfusion.errors import UserError, check_characters
from hf_layerfusion.export.onnx_export import MODEL_FILE, read_settings, require


class OnnxModel(PreTrainedModel):
    """ONNX graph with the interface of a transformers classifier.

    Args:
        config: Configuration of the exported model.
        session: An `onnxruntime.InferenceSession`.
    """

    config_class = PreTrainedConfig

    def __init__(self, config: PreTrainedConfig, session: Any):
        super().__init__(config)
        self.session = session
        self.input_names = {node.name for node in session.get_inputs()}

    @property
    def device(self) -> torch.device:
        """Device of the inputs; onnxruntime moves them to its own."""
        return torch.device("cpu")

    def forward(self, **inputs: torch.Tensor) -> SequenceClassifierOutput:
        """Classify texts, `[B, T]` or `[B, 2, T]`, with the inputs of the exported model."""
        if inputs["input_ids"].shape[-1] == 0:
            # Of texts without a token onnxruntime ends the process: they get one that is masked.
            inputs = {name: F.pad(value, (0, 1)) for name, value in inputs.items()}
        feed = {name: value.cpu().numpy() for name, value in inputs.items() if name in self.input_names}
        return SequenceClassifierOutput(logits=torch.from_numpy(self.session.run(["logits"], feed)[0]))


class OnnxClassifier(LengthBatchedPipeline):
    """transformers' text classification pipeline on a folder written by `export_onnx`.

    Texts, pairs `{"text": …, "text_pair": …}`, lists of them, `top_k`, `function_to_apply`, `batch_size` and the
    tokenizer's options work as in the pipeline; with a `batch_size`, lists are batched by length. Raw texts are
    prepared as the model's training texts were. Texts longer than the tokenizer's limit are truncated. The texts of
    siamese pairs are encoded separately, one pair at a time.

    Args:
        folder: The folder.
        file_name: `"model.onnx"`, or `"model_quantized.onnx"` for int8.
        session_options: `onnxruntime.SessionOptions`, for instance for the number of threads.
        providers: Providers of onnxruntime, of which the first available one is used; by default the CPU.
        kwargs: Arguments of the pipeline.

    Raises:
        UserError: If onnxruntime is missing, or the folder is not an export.

    Example:
        ```python
        classify = OnnxClassifier("outputs/onnx")
        classify("what a day!")  # [{"label": "positive", "score": 0.98}]
        ```
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        file_name: str = MODEL_FILE,
        session_options: Any = None,
        providers: list[str] | None = None,
        **kwargs: Any,
    ):
        require("onnxruntime")
        from onnxruntime import InferenceSession

        path = Path(folder, file_name)
        if not path.is_file():
            raise UserError(f"folder {folder}: must hold {file_name}, found none; export a model there.")
        session = InferenceSession(path, session_options, providers or ["CPUExecutionProvider"])
        config, tokenizer = read_settings(folder)
        self.is_siamese = len(session.get_inputs()[0].shape) == 3
        kwargs.setdefault("truncation", True)
        self._preparation = saved_preparation(tokenizer) or {}
        self._clean = cleaner_of(tokenizer, getattr(config, "default_task", None))
        super().__init__(model=OnnxModel(config, session), tokenizer=tokenizer, device="cpu", **kwargs)

    def check_model_type(self, supported_models: Any) -> None:
        """Accept the model: every exported model is a classifier."""

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        """Classify like transformers' pipeline.

        Raises:
            UserError: If a text contains half a surrogate pair, with its number.
        """
        for number, item in enumerate(inputs if isinstance(inputs, list | tuple) else [inputs], start=1):
            for text in item.values() if isinstance(item, dict) else [item]:
                if isinstance(text, str):
                    check_characters(text, f"input {number}: the text")
        return super().__call__(inputs, **kwargs)

    def get_iterator(self, inputs: Any, num_workers: int, batch_size: int, *args: Any) -> Any:
        """Return the iterator over the answers; siamese pairs, `[1, 2, T]`, go one at a time."""
        return super().get_iterator(inputs, num_workers, 1 if self.is_siamese else batch_size, *args)

    def preprocess(self, inputs: Any, **tokenizer_kwargs: Any) -> Any:
        """Prepare an input as the training texts were and tokenize it; the texts of siamese pairs separately."""
        inputs = clean_inputs(inputs, self._clean)
        if isinstance(inputs, dict) and tokenizer_kwargs.get("truncation") is True and not self.is_siamese:
            tokenizer_kwargs["truncation"] = self._preparation.get("truncation", True)
        cut = self._preparation.get("cut", "tail") if tokenizer_kwargs.get("truncation") else "tail"
        most = tokenizer_kwargs.get("max_length")
        if cut != "tail" and not self.is_siamese and not isinstance(inputs, list):
            return encode_input(self.tokenizer, inputs, max_length=most, cut=cut)
        if not self.is_siamese:
            return super().preprocess(inputs, **tokenizer_kwargs)
        if not isinstance(inputs, dict) or set(inputs) != {"text", "text_pair"}:
            raise UserError(
                'an input must be a pair {"text": …, "text_pair": …} for this model, found something else; correct it.'
            )
        texts = [inputs["text"], inputs["text_pair"]]
        if cut == "tail":
            batch = self.tokenizer(texts, padding=True, return_tensors="pt", **tokenizer_kwargs)
        else:
            limit = most or self.tokenizer.model_max_length
            encoded = encode(self.tokenizer, texts, max_length=limit, cut=cut)
            batch = self.tokenizer.pad(encoded, return_tensors="pt")
        return {name: value.unsqueeze(0) for name, value in batch.items()}
