"""Benchmark of peak memory in inference: fused models and their frozen copies relative to the plain classifier.

It reports what a pass allocates, without and with the weights. The target for copies is 1.1.

    python benchmarks/bench_inference.py
    python benchmarks/bench_inference.py --layers 12 --width 768
"""

import argparse
from typing import Any

import torch
from common import record
from memory import peak_bytes
from transformers import AutoModelForSequenceClassification, BertConfig
from transformers.utils import logging

from hf_layerfusion import (
    BertForGRUFusionClassification,
    BertWithPoolingModule,
    CerbertusConfig,
    CerbertusForMultitask,
    GRUFusionConfig,
    LayerPoolingConfig,
)
from hf_layerfusion.export import inference_copy

FUSED = {
    "grubert-share-3": {"fusion": "share"},
    "grubert-cat-3": {"fusion": "cat"},
    "grubert-share-1": {"num_groups": 1},
    "grubert-share-6": {"num_groups": 6},
    "grubert-share-3-depth": {"fusion": "share_depth"},
    "grubert-scalar-mix": {"fusion": "scalar_mix"},
    "grubert-last-4": {"fusion": "last_concat"},
}
POOLED = {"bert-lstm": {"pooling": "lstm"}, "bert-attention": {"pooling": "attention"}}
TARGET = 1.1


def weights(model: Any) -> int:
    """Return the size of the weights in bytes."""
    return sum(parameter.nbytes for parameter in model.parameters())


def peak(model: Any, batch: dict[str, torch.Tensor]) -> int:
    """Return the peak memory of a pass in bytes."""

    def step() -> Any:
        with torch.no_grad():
            return model(**batch)

    step()
    return peak_bytes(step)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", help="some of the models below (default: all)")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--length", type=int, default=64)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    logging.set_verbosity_error()

    encoder = BertConfig(
        num_hidden_layers=arguments.layers,
        hidden_size=arguments.width,
        num_attention_heads=arguments.width // 32,
        intermediate_size=4 * arguments.width,
    )
    ids = torch.randint(1000, 20000, (arguments.rows, arguments.length))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    batch["attention_mask"][::2, arguments.length // 2 :] = 0
    plain = AutoModelForSequenceClassification.from_config(encoder).eval()
    base, total = peak(plain, batch), peak(plain, batch) + weights(plain)
    models: dict[str, Any] = {
        name: lambda s=s: BertForGRUFusionClassification(GRUFusionConfig(encoder_config=encoder, **s))
        for name, s in FUSED.items()
    }
    models |= {
        name: lambda s=s: BertWithPoolingModule(LayerPoolingConfig(encoder_config=encoder, **s))
        for name, s in POOLED.items()
    }
    tasks = {"one": {"labels": ["no", "yes"]}}
    models["cerbertus-2, one task"] = lambda: CerbertusForMultitask(
        CerbertusConfig(encoder_config=encoder, tasks=tasks, num_task_layers=2)
    )
    print(
        f"{arguments.rows} x {arguments.length} tokens, {arguments.layers} layers of width {arguments.width}; plain: "
        f"{base / 1e6:.1f} MB, with weights {total / 1e6:.1f}"
    )
    print(f"{'':26}{'model':>8}{'copy':>8}{'copy, with weights':>20}")
    for name in arguments.models or models:
        model = models[name]().eval()
        before = peak(model, batch) / base
        frozen = inference_copy(model)
        del model
        found = peak(frozen, batch)
        record(f"memory of inference, copy of {name}", [found / base], TARGET, peer="plain classifier")
        verdict = "" if found / base <= TARGET else "  above the target"
        with_weights = (found + weights(frozen)) / total
        print(f"{name:26}{before:8.2f}{found / base:8.2f}{with_weights:20.2f}{verdict}")


if __name__ == "__main__":
    main()
