"""A trained classifier as an ONNX graph."""

import copy
import os
import tempfile
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_layerfusion.errors import UserError
from hf_layerfusion.export.onnx_recurrence import replace_recurrences

MODEL_FILE = "model.onnx"
QUANTIZED_FILE = "model_quantized.onnx"
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
LARGEST_DIFFERENCE = 1e-4
# Batches (texts, tokens of the longest) on which the graph is held against the model; the first is exported.
SHAPES = ((3, 8), (1, 5), (4, 13))


class Logits(nn.Module):
    """A classifier that puts out its logits alone."""

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        return self.model(**{name: value for name, value in inputs.items() if value is not None}).logits


def export_onnx(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: str | os.PathLike[str],
    quantize: bool = False,
) -> float:
    """Writes a classifier as ONNX graph, with its configuration and tokenizer: what `OnnxClassifier` opens. Batch and
    length are free, and padding may stand on either side. The graph is fp32, whatever the model is.

    Args:
        model: a classifier of the package or of transformers; of a CerBERTus model its default task, so that
            `model.task("sst5")` exports sst5.
        tokenizer: its tokenizer, which says what the graph's inputs are.
        folder: where to; must be new or empty.
        quantize: writes `model_quantized.onnx` beside `model.onnx`, see `quantize_onnx`.

    Returns:
        The largest difference between the graph's logits and the model's, on batches of several sizes with padding.

    Raises:
        UserError: if packages are missing, the folder holds files, the tokenizer puts out what the graph has no place
            for, or graph and model differ by more than 1e-4, as they do where an encoder takes an example's length for
            every text's. Nothing is written then.
    """
    require("onnx", "onnxscript", "onnxruntime")
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"folder {target}: must be new or empty, found files there; name another.")
    if unknown := sorted(set(tokenizer.model_input_names) - set(INPUTS)):
        raise UserError(
            f"tokenizer: must put out no other inputs than {list(INPUTS)}, found {unknown}; use another."
        )
    exported = Logits(copy.deepcopy(model).cpu().float().eval())
    batches = [example(model, tokenizer, *shape) for shape in SHAPES]
    with torch.no_grad():
        expected = [exported(**batch).numpy() for batch in batches]
    replace_recurrences(exported)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as beside:
        unfinished = Path(beside, target.name)
        unfinished.mkdir()
        write_graph(exported, batches[0], unfinished / MODEL_FILE)
        found = [run(unfinished / MODEL_FILE, batch) for batch in batches]
        difference = max(float(np.abs(a - b).max()) for a, b in zip(found, expected, strict=True))
        if not difference <= LARGEST_DIFFERENCE:
            raise UserError(
                f"model: must give the same logits as its graph to {LARGEST_DIFFERENCE}, found a difference of "
                f"{difference:.1e} with '{model.config.get_text_config().model_type}'; use another encoder."
            )
        if quantize:
            quantize_onnx(unfinished)
        model.config.save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)
        if target.exists():
            target.rmdir()
        unfinished.rename(target)
    return difference


def quantize_onnx(folder: str | os.PathLike[str]) -> Path:
    """Writes `model_quantized.onnx` beside `model.onnx`: weights of dense layers and embeddings in int8, a scale for
    each channel, activations quantised as they come (onnxruntime's dynamic quantisation). Recurrences stay as they are.

    Returns:
        The new file.

    Raises:
        UserError: if packages are missing, there is no `model.onnx`, or the new file is there already.
    """
    require("onnx", "onnxruntime")
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    source, target = Path(folder, MODEL_FILE), Path(folder, QUANTIZED_FILE)
    if not source.is_file():
        raise UserError(f"folder {folder}: must hold {MODEL_FILE}, found none; export a model there.")
    if target.exists():
        raise UserError(f"file {target}: must not be there yet, found it; remove it.")
    graph = onnx.load(source)
    # onnxruntime transposes weights and then takes offence at the shapes that stood there for them.
    del graph.graph.value_info[:]
    quantize_dynamic(graph, target, weight_type=QuantType.QInt8, per_channel=True)
    return target


def example(
    model: Any, tokenizer: PreTrainedTokenizerBase, rows: int, length: int
) -> dict[str, torch.Tensor]:
    """A batch `[B, T]`, of siamese pairs `[B, 2, T]`, of ids without meaning; rows differ in length, the last is full,
    and padding stands where the tokenizer puts it."""
    task = getattr(model.config, "task_configs", {}).get(getattr(model.config, "default_task", None))
    siamese = task is not None and task.is_siamese
    count = 2 * rows if siamese else rows
    real = torch.arange(length) < torch.linspace(max(2, length // 3), length, count).ceil()[:, None]
    if tokenizer.padding_side == "left":
        real = real.flip(1)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(len(tokenizer), real.shape, generator=generator)
    values = {
        "input_ids": ids.where(real, tokenizer.pad_token_id or 0),
        "attention_mask": real.long(),
        "token_type_ids": torch.zeros_like(ids),
    }
    names = [name for name in INPUTS if name in tokenizer.model_input_names]
    return {name: values[name].view(rows, 2, length) if siamese else values[name] for name in names}


def write_graph(model: nn.Module, batch: dict[str, torch.Tensor], path: Path) -> None:
    """Exports `model` with batch and length free."""
    dimensions = {name: {0: "batch", value.dim() - 1: "length"} for name, value in batch.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, about itself
        program: Any = torch.onnx.export(
            model.eval(),
            kwargs=batch,
            dynamo=True,
            dynamic_shapes=dimensions,
            input_names=list(batch),
            output_names=["logits"],
            verbose=False,
        )
    program.save(path)


def run(path: Path, batch: dict[str, torch.Tensor]) -> np.ndarray[Any, Any]:
    """The logits of the graph at `path`."""
    from onnxruntime import InferenceSession

    session = InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {name: value.numpy() for name, value in batch.items()})[0]


def require(*packages: str) -> None:
    """Raises `UserError` if a package is not installed."""
    if missing := [name for name in packages if find_spec(name) is None]:
        raise UserError(
            f"ONNX needs {', '.join(packages)}, found no {missing[0]}; pip install 'hf_layerfusion[onnx]'."
        )
