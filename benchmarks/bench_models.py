"""Benchmark of fused and pooled models: time relative to the plain classifier on the same encoder.

It times forward and backward passes without optimizer, and forward passes alone, without padding. All models are
timed in turn in every round, and each ratio is the median over rounds. For comparison it prints the arithmetic bound,
the ratio of multiply-adds, and the target: 0.05 above the bound for GRUBERT, 1.03 for pooled models.

```
python benchmarks/bench_models.py
python benchmarks/bench_models.py --encoder random-bert-base --repeats 5
```
"""

from functools import partial
from statistics import median
from typing import Any

import torch
from common import add_encoder, argument_parser, encoder_folder, in_turns, machine, prepare, ratio
from public_loop import PublicModel
from torch import nn
from transformers import AutoModelForSequenceClassification

from hf_layerfusion import BertForGRUFusionClassification, BertWithPoolingModule

FUSED = {
    "grubert-share-3": {"fusion": "share"},
    "grubert-cat-3": {"fusion": "cat"},
    "grubert-share-3-lstm": {"fusion_cell": "lstm"},
    "grubert-share-3-linear": {"fusion_cell": "linear"},
}
POOLED = {"bert-lstm": {"pooling": "lstm"}, "bert-attention": {"pooling": "attention"}}
GATES = {nn.GRU: 3, nn.LSTM: 4}


def multiply_adds(model: nn.Module, inputs: dict[str, torch.Tensor]) -> int:
    """Return the multiply-adds of a forward pass: dense and recurrent layers, and the attention of a BERT-like
    encoder."""
    total = 0

    def count(module: nn.Module, args: tuple[torch.Tensor, ...], output: Any) -> None:
        nonlocal total
        rows = args[0].numel() // args[0].shape[-1]
        if isinstance(module, nn.Linear):
            total += rows * module.in_features * module.out_features
        else:
            directions = 2 if module.bidirectional else 1
            width = module.input_size + module.hidden_size
            total += rows * directions * GATES[type(module)] * width * module.hidden_size

    kinds = (nn.Linear, *GATES)
    handles = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, kinds)]
    with torch.no_grad():
        model(**inputs)
    for handle in handles:
        handle.remove()
    config = getattr(model, "config", None) or model.encoder.config
    batch, length = inputs["input_ids"].shape
    return total + 2 * config.num_hidden_layers * batch * length**2 * config.hidden_size


def one_pass(model: nn.Module, inputs: dict[str, torch.Tensor], train: bool, bf16: bool) -> None:
    """Perform a forward pass or, with `train`, a forward and a backward pass."""
    model.train(train)
    model.zero_grad()
    with torch.set_grad_enabled(train), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        output = model(**inputs)
        logits = output if isinstance(output, torch.Tensor) else output.logits
        loss = nn.functional.cross_entropy(logits.float(), torch.zeros(len(logits), dtype=torch.long))
    if train:
        loss.backward()


def compare(
    models: dict[str, nn.Module], targets: dict[str, float], length: int, repeats: int, bf16: bool
) -> None:
    """Measure `models`, the first of which is the plain classifier, and print their ratios."""
    ids = torch.randint(1000, 20000, (32, length))
    inputs = {
        name: {"input_ids": ids} if isinstance(model, PublicModel) else
        {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        for name, model in models.items()
    }  # fmt: skip
    plain = next(iter(models))
    work = {name: multiply_adds(model.eval(), inputs[name]) for name, model in models.items()}
    calls = {
        (name, train): partial(one_pass, model, inputs[name], train, bf16)
        for train in (True, False)
        for name, model in models.items()
    }
    seconds = in_turns(calls, repeats, warm_up=2)
    print(f"\n32 x {length} tokens, {'bf16' if bf16 else 'fp32'}, {machine()}")
    print(f"{'':26}{'bound':>7}{'target':>8}{'train':>8}{'forward':>9}   train ms, forward ms")
    for name in models:
        ratios = [ratio(seconds[name, t], seconds[plain, t]) for t in (True, False)]
        bound = work[name] / work[plain]
        target = targets[name] if name in targets else bound + 0.05
        verdict = "" if name == plain or max(ratios) <= target else "  above the target"
        times = ", ".join(f"{1000 * median(seconds[name, t]):.0f}" for t in (True, False))
        print(f"{name:26}{bound:7.2f}{target:8.2f}{ratios[0]:8.2f}{ratios[1]:9.2f}   {times}{verdict}")


def main() -> None:
    """Run the benchmark."""
    parser = argument_parser(__doc__, repeats=9)
    add_encoder(parser)
    parser.add_argument("--bf16", action="store_true", help="bf16 autocast beside fp32")
    arguments = parser.parse_args()
    prepare(arguments.threads)

    with encoder_folder(arguments.encoder) as encoder:
        plain = AutoModelForSequenceClassification.from_pretrained(encoder, num_labels=2)
        fused = {n: BertForGRUFusionClassification.from_pretrained(encoder, **s) for n, s in FUSED.items()}
        pooled = {n: BertWithPoolingModule.from_pretrained(encoder, **s) for n, s in POOLED.items()}
        public = {
            "public code, share-3": PublicModel(encoder),
            "public code, cat-3": PublicModel(encoder, shared=False),
        }
        for bf16 in (False, True) if arguments.bf16 else (False,):
            compare({"plain": plain, **fused, **public}, {}, 40, arguments.repeats, bf16)
            compare({"plain": plain, **pooled}, dict.fromkeys(POOLED, 1.03), 64, arguments.repeats, bf16)


if __name__ == "__main__":
    main()
