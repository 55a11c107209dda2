"""Benchmark of LoRA against full fine-tuning: trained parameters, memory and time of a training step, size on disk.

A step consists of the forward and backward passes and AdamW's first update on one task's batch. Memory is the peak
that it allocates beyond the model: activations, gradients and AdamW's two moments. All variants are timed in turn in
every round, and ratios to the full fine-tuning of the same architecture are medians over rounds. CerBERTus has three
tasks, with two layers of their own (full) or an adapter each on the shared encoder; its file size covers all tasks.

```
python benchmarks/bench_adapters.py
python benchmarks/bench_adapters.py --encoder random-bert-base --repeats 3
```
"""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import (
    add_encoder,
    argument_parser,
    encoder_folder,
    in_turns,
    machine,
    prepare,
    ratio,
    ratios,
    record,
)
from memory import peak_bytes
from peft import LoraConfig

from hf_layerfusion import BertForGRUFusionClassification, CerbertusForMultitask, add_adapters

TASKS = {
    "sst5": {"labels": ["--", "-", "0", "+", "++"]},
    "quora": {"pair": True, "labels": ["no", "yes"], "loss": "binary_cross_entropy"},
    "sts": {"pair": True, "problem_type": "regression", "value_range": [0, 5]},
}


def grubert(encoder: str) -> Any:
    """Return a GRUBERT classifier on the encoder."""
    return BertForGRUFusionClassification.from_pretrained(encoder, fusion="share", num_groups=3, num_labels=5)


def cerbertus(encoder: str, num_task_layers: int) -> Any:
    """Return a model of three tasks on the encoder."""
    return CerbertusForMultitask.from_pretrained(encoder, tasks=TASKS, num_task_layers=num_task_layers)


def variants(encoder: str) -> dict[str, Callable[[], Any]]:
    """Return functions that create the models; each full fine-tuning is followed by those compared with it."""
    every = LoraConfig(target_modules="all-linear")
    return {
        "grubert-share-3, full": partial(grubert, encoder),
        "grubert-share-3, LoRA": lambda: add_adapters(grubert(encoder)),
        "grubert-share-3, LoRA all-linear": lambda: add_adapters(grubert(encoder), every),
        "cerbertus-2, full": partial(cerbertus, encoder, 2),
        "cerbertus, LoRA a task": lambda: add_adapters(cerbertus(encoder, 0)),
    }


def step(model: Any, inputs: dict[str, torch.Tensor]) -> None:
    """Perform one training step."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model(**inputs).loss.backward()
    torch.optim.AdamW(trained).step()
    model.zero_grad()


def saved_bytes(model: Any) -> int:
    """Return the size of the saved model or adapter."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return sum(path.stat().st_size for path in Path(folder).rglob("*.safetensors"))


def main() -> None:
    """Run the benchmark."""
    parser = argument_parser(__doc__ or "", repeats=7)
    add_encoder(parser)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--length", type=int, default=32, help="tokens of a row")
    arguments = parser.parse_args()
    prepare(arguments.threads)
    ids = torch.randint(1000, 20000, (arguments.rows, arguments.length))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.arange(len(ids)) % 5}

    with encoder_folder(arguments.encoder) as encoder:
        models = {name: make().train() for name, make in variants(encoder).items()}
    calls = {name: partial(step, model, inputs) for name, model in models.items()}
    seconds = in_turns(calls, arguments.repeats)
    print(f"{arguments.rows} x {arguments.length} tokens, fp32, {machine()}")
    print(f"{'':34}{'trained':>12}{'memory':>8}{'MB':>7}{'time':>7}{'file':>8}{'MB':>7}")
    full = ""
    memory, size = {}, {}
    for name, model in models.items():
        full = name if name.endswith("full") else full
        memory[name], size[name] = peak_bytes(calls[name]), saved_bytes(model)
        trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        print(
            f"{name:34}{trained:12,}{memory[name] / memory[full]:8.2f}{memory[name] / 1e6:7.0f}"
            f"{ratio(seconds[name], seconds[full]):7.2f}{size[name] / size[full]:8.3f}{size[name] / 1e6:7.1f}"
        )
        if name != full:
            record(f"training step, {name}", ratios(seconds[name], seconds[full]), peer=full)
            record(f"memory of a training step, {name}", [memory[name] / memory[full]], peer=full)
            record(f"size of the file, {name}", [size[name] / size[full]], peer=full)


if __name__ == "__main__":
    main()
