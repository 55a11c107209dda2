"""Export of a trained classifier as an ONNX graph."""

import copy
import os
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from hf_layerfusion.data.text_preparation import copy_dictionaries
from hf_layerfusion.errors import LOADING_ERRORS, UserError, one_line
from hf_layerfusion.export.onnx_recurrence import replace_recurrences
from hf_layerfusion.hub.manifest import add_to_manifest, write_model_manifest
from hf_layerfusion.storage import check_new, new_folder, replacing

MODEL_FILE = "model.onnx"
QUANTIZED_FILE = "model_quantized.onnx"
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
LARGEST_DIFFERENCE = 1e-4
QUANTIZED = ["MatMul", "Gather"]  # and Gemm, which onnxruntime makes a MatMul
# Relative to the norm of the logits. A working int8 graph differs by a few percent, a broken one by about 100 %.
LARGEST_QUANTIZED_DIFFERENCE = 0.5
# Batch shapes (texts, tokens of the longest text); see `examples`.
SHAPES = ((3, 8), (1, 5), (4, 13))


class Logits(nn.Module):
    """Wrapper of a classifier that returns only its logits."""

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return logits `[B, num_labels]`."""
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        return self.model(**{name: value for name, value in inputs.items() if value is not None}).logits


def export_onnx(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: str | os.PathLike[str],
    quantize: bool = False,
) -> float:
    """Write a classifier as an ONNX graph, with its configuration, its tokenizer and a manifest of checksums.

    `OnnxClassifier` opens the folder, and `verify_saved` checks its manifest. Batch size and length are dynamic, and
    padding may be on either side. The graph is in fp32, whatever the model's precision.

    Args:
        model: Classifier of this package or of transformers. Of a CerBERTus model the default task is exported, so that
            `model.task("sst5")` exports sst5.
        tokenizer: Tokenizer of the model, which determines the inputs of the graph.
        folder: Output folder; must be new or empty.
        quantize: Whether to write `model_quantized.onnx` in addition to `model.onnx`; see `quantize_onnx`.

    Returns:
        The largest difference between the logits of the graph and the model, on batches of several sizes with padding.

    Raises:
        UserError: If packages are missing, the folder contains files, the tokenizer returns inputs that the graph does
            not have, the logits of graph and model differ by more than 1e-4 (as with encoders that fix the length of
            the example), torch cannot export the encoder, or quantization fails. Nothing is written then.
    """
    require("onnx", "onnxscript", "onnxruntime")
    target = Path(folder)
    check_new(target)
    if extra := getattr(model.config, "extra_inputs", ()):
        raise UserError(
            f"model: must read ids alone, found '{model.config.get_text_config().model_type}', which reads "
            f"{', '.join(extra)} in a loop over words that no graph holds; export a model of another encoder."
        )
    if size := getattr(model.config, "window_size", None):
        raise UserError(
            f"model: must read texts whole, found window_size={size}, whose number of windows depends on the text; "
            "export a model without windows."
        )
    if unknown := sorted(set(tokenizer.model_input_names) - set(INPUTS)):
        raise UserError(
            f"tokenizer: must return no other inputs than {list(INPUTS)}, found {unknown}; use another."
        )
    exported = Logits(copy.deepcopy(model).cpu().float().eval())
    batches = examples(tokenizer, is_siamese(model.config))
    with torch.no_grad():
        expected = [exported(**batch).numpy() for batch in batches]
    replace_recurrences(exported)
    with new_folder(target) as unfinished:
        write_graph(exported, batches[0], unfinished / MODEL_FILE)
        found = run(unfinished / MODEL_FILE, batches)
        difference = max(float(np.abs(a - b).max()) for a, b in zip(found, expected, strict=True))
        if not difference <= LARGEST_DIFFERENCE:
            raise UserError(
                f"model: must give the same logits as its graph to {LARGEST_DIFFERENCE}, found a difference of "
                f"{difference:.1e} with '{model.config.get_text_config().model_type}'; use another encoder."
            )
        if hasattr(model, "save_configuration"):
            model.save_configuration(unfinished)  # with one file of code
        else:
            model.config.save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)
        if quantize:
            quantize_onnx(unfinished)
        copy_dictionaries(tokenizer, unfinished)
        write_model_manifest(unfinished)
    return difference


def quantize_onnx(folder: str | os.PathLike[str]) -> Path:
    """Write `model_quantized.onnx` next to `model.onnx`, with int8 weights of dense layers and embeddings.

    Each channel has its own scale, and activations are quantized at run time (onnxruntime's dynamic quantization).
    Weights use seven of the eight bits, so that the graph gives the same logits on CPUs without VNNI instructions.
    Recurrences and products with weights that are not matrices, such as the query vector of an attention, stay in fp32.

    Returns:
        The new file.

    Raises:
        UserError: If packages are missing, the folder is not an export, the new file exists already, onnxruntime cannot
            open it, or its logits are far from those of `model.onnx`. Nothing is written then.
    """
    require("onnx", "onnxruntime")
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    source, target = Path(folder, MODEL_FILE), Path(folder, QUANTIZED_FILE)
    if not source.is_file():
        raise UserError(f"folder {folder}: must hold {MODEL_FILE}, found none; export a model there.")
    if target.exists():
        raise UserError(f"file {target}: must not be there yet, found it; remove it.")
    config, tokenizer = read_settings(folder)
    graph = onnx.load(source)
    # onnxruntime transposes weights and then rejects the shapes recorded for them.
    del graph.graph.value_info[:]
    # Per-channel scales work for matrices only; with other weights the graph cannot be opened.
    other = {weight.name for weight in graph.graph.initializer if len(weight.dims) != 2}
    kept = [
        node.name for node in graph.graph.node if node.op_type in QUANTIZED and other.intersection(node.input)
    ]
    with replacing(target) as unchecked:
        quantize_dynamic(
            graph,
            unchecked,
            op_types_to_quantize=QUANTIZED,
            nodes_to_exclude=kept,
            per_channel=True,
            # Without VNNI, sums of two products of 8-bit numbers saturate at 16 bits; 7-bit weights keep them below.
            reduce_range=True,
            weight_type=QuantType.QInt8,
        )
        check_quantized(source, unchecked, examples(tokenizer, is_siamese(config)), target.name)
    add_to_manifest(target)
    return target


def check_quantized(source: Path, quantized: Path, batches: list[dict[str, torch.Tensor]], name: str) -> None:
    """Raise `UserError` if onnxruntime cannot open a quantized graph, or its logits are far from those of `source`.

    `name` is the final name of the file, for the error message.
    """
    expected = np.concatenate(run(source, batches))
    try:
        found = np.concatenate(run(quantized, batches))
    except Exception as error:  # onnxruntime's errors have no other base
        raise UserError(
            f"{name}: onnxruntime must open and run it, found {one_line(error)}; use {MODEL_FILE}, or "
            "another version of onnxruntime."
        ) from error
    difference = float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
    if not difference <= LARGEST_QUANTIZED_DIFFERENCE:
        raise UserError(
            f"{name}: its logits must be those of {MODEL_FILE} to {LARGEST_QUANTIZED_DIFFERENCE:.0%} of "
            f"their norm, found a difference of {difference:.0%}; use {MODEL_FILE}."
        )


def read_settings(folder: str | os.PathLike[str]) -> tuple[PreTrainedConfig, Any]:
    """Return the configuration and the tokenizer of an export.

    Raises:
        UserError: If the folder lacks them.
    """
    try:
        return AutoConfig.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    except LOADING_ERRORS as error:
        raise UserError(
            f"folder {folder}: must hold the export's configuration and tokenizer, found {one_line(error)}; export the "
            "model again."
        ) from error


def is_siamese(config: Any) -> bool:
    """Return whether a classifier, or its default task, is of pairs whose texts are encoded separately."""
    if isinstance(getattr(type(config), "is_siamese", None), property):
        return bool(config.is_siamese)
    task = getattr(config, "task_configs", {}).get(getattr(config, "default_task", None))
    return task is not None and task.is_siamese


def examples(tokenizer: PreTrainedTokenizerBase, siamese: bool) -> list[dict[str, torch.Tensor]]:
    """Return the batches on which graphs are compared with each other and with the model; the first one is used for
    export.
    """
    return [example(tokenizer, siamese, *shape) for shape in SHAPES]


def example(
    tokenizer: PreTrainedTokenizerBase, siamese: bool, rows: int, length: int
) -> dict[str, torch.Tensor]:
    """Return a batch of random ids `[B, T]`, or `[B, 2, T]` for siamese pairs.

    Rows differ in length, the last is full, and padding is on the tokenizer's side.
    """
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
    """Export `model` with dynamic batch size and length."""
    dimensions = {name: {0: "batch", value.dim() - 1: "length"} for name, value in batch.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's warnings about its own code
        try:
            program: Any = torch.onnx.export(
                model.eval(),
                kwargs=batch,
                dynamo=True,
                dynamic_shapes=dimensions,
                input_names=list(batch),
                output_names=["logits"],
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            # Its message is a page of advice on torch's own code; the cause says what could not be translated.
            reason = next(iter(str(error.__cause__ or error).strip().splitlines()), type(error).__name__)
            raise UserError(
                f"model: must be one that torch {torch.__version__} can export, found that it cannot ({reason[:200]}); "
                "use another encoder."
            ) from error
    program.save(path)


def run(path: Path, batches: list[dict[str, torch.Tensor]]) -> list[np.ndarray[Any, Any]]:
    """Return the logits of each batch from the graph at `path`."""
    from onnxruntime import InferenceSession

    session = InferenceSession(path, providers=["CPUExecutionProvider"])
    return [session.run(None, {name: value.numpy() for name, value in batch.items()})[0] for batch in batches]


def require(*packages: str) -> None:
    """Raise `UserError` if a package is not installed."""
    if missing := [name for name in packages if find_spec(name) is None]:
        raise UserError(
            f'ONNX needs {", ".join(packages)}, found no {missing[0]}; run `pip install "hf_layerfusion[onnx]"`.'
        )
