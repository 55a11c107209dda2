"""Benchmark of fused and pooled models: time relative to the plain classifier on the same encoder.

It times forward and backward passes without optimizer, and forward passes alone, without padding, and measures the
peak of what a step allocates. All models are timed in turn in every round, and each ratio is the median over rounds.
For comparison it prints the arithmetic bound, the ratio of multiply-adds, and the targets: of both times for GRUBERT as
in `TARGETS`, or 0.05 above the bound; 1.03 for pooled models; 1.05 for memory.

```
python benchmarks/bench_models.py
python benchmarks/bench_models.py --models grubert-share-3 grubert-share-3-mingru --rows 16 --length 512 --repeats 3
python benchmarks/bench_models.py --encoder random-bert-base --repeats 5
```
"""

from functools import partial
from statistics import median
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
from public_loop import PublicModel
from torch import nn
from transformers import AutoModelForSequenceClassification

from hf_layerfusion import BertForGRUFusionClassification, BertWithPoolingModule
from hf_layerfusion.modeling.fusion_grouped import GroupedFuser
from hf_layerfusion.modeling.recurrence import TokenCell

FUSED: dict[str, dict[str, Any]] = {
    "grubert-share-3": {"fusion": "share"},
    "grubert-cat-3": {"fusion": "cat"},
    "grubert-share-3-lstm": {"fusion_cell": "lstm"},
    "grubert-share-3-linear": {"fusion_cell": "linear"},
    "grubert-share-3-mingru": {"fusion_cell": "mingru", "downstream_cell": "mingru"},
    "grubert-share-3-minlstm": {"fusion_cell": "minlstm", "downstream_cell": "minlstm"},
}
PUBLIC = {"public code, share-3": True, "public code, cat-3": False}
POOLED: dict[str, dict[str, Any]] = {
    "bert-lstm": {"pooling": "lstm"},
    "bert-attention": {"pooling": "attention"},
}
GATES = {nn.GRU: 3, nn.LSTM: 4}
# Of a training step and of a forward pass.
TARGETS = {
    "grubert-share-3": (1.23, 1.24),
    "grubert-cat-3": (1.25, 1.24),
    "grubert-share-3-mingru": (1.19, 1.17),
}
MEMORY_TARGET = 1.05


def multiply_adds(model: nn.Module, inputs: dict[str, torch.Tensor]) -> int:
    """Return the multiply-adds of a forward pass: dense and recurrent layers, and the attention of a BERT-like
    encoder."""
    batch, length = inputs["input_ids"].shape
    total = 0
    cells: dict[nn.Module, int] = {}
    for module in model.modules():
        if isinstance(module, TokenCell):
            cells.setdefault(module, 1)
        elif isinstance(module, GroupedFuser):
            cells |= dict.fromkeys(module.cells, len(module.groups) // len(module.cells))
    for cell, runs in cells.items():
        total += (
            runs * batch * length * sum(weight.numel() for weight in cell.parameters() if weight.dim() == 2)
        )
    counted = {module for cell in cells for module in cell.modules()}

    def count(module: Any, args: tuple[torch.Tensor, ...], output: Any) -> None:
        nonlocal total
        rows = args[0].numel() // args[0].shape[-1]
        if isinstance(module, nn.Linear):
            total += rows * module.in_features * module.out_features
        else:
            directions = 2 if module.bidirectional else 1
            width = module.input_size + module.hidden_size
            total += rows * directions * GATES[type(module)] * width * module.hidden_size

    kinds = (nn.Linear, *GATES)
    others = [m for m in model.modules() if isinstance(m, kinds) and m not in counted]
    handles = [m.register_forward_hook(count) for m in others]
    with torch.no_grad():
        model(**inputs)
    for handle in handles:
        handle.remove()
    config: Any = (model.encoder if isinstance(model, PublicModel) else model).config
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
    models: dict[str, nn.Module],
    targets: dict[str, tuple[float, float]],
    shape: tuple[int, int],
    repeats: int,
    bf16: bool,
) -> None:
    """Measure `models`, the first of which is the plain classifier, on texts of a shape, and print their ratios."""
    ids = torch.randint(1000, 20000, shape)
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
    peaks = {}
    for name, model in models.items():
        model.zero_grad()
        peaks[name] = peak_bytes(calls[name, True])
        model.zero_grad()
    print(f"\n{shape[0]} x {shape[1]} tokens, {'bf16' if bf16 else 'fp32'}, {machine()}")
    print(
        f"{'':26}{'bound':>7}{'train':>8}{'target':>8}{'forward':>9}{'target':>8}{'memory':>8}   ms, ms, MB"
    )
    for name in models:
        medians = [ratio(seconds[name, t], seconds[plain, t]) for t in (True, False)]
        bound, memory = work[name] / work[plain], peaks[name] / peaks[plain]
        wanted = targets.get(name, (bound + 0.05, bound + 0.05))
        missed = [
            what
            for what, found, most in zip(
                ("train", "forward", "memory"), (*medians, memory), (*wanted, MEMORY_TARGET), strict=True
            )
            if found > most
        ]
        verdict = "" if name == plain or not missed else f"  above the target: {', '.join(missed)}"
        if name != plain:
            size, peer = (
                f"{name}, {shape[0]} x {shape[1]} tokens{', bf16' if bf16 else ''}",
                "plain classifier",
            )
            for what, train, target in (
                ("training step", True, wanted[0]),
                ("forward pass", False, wanted[1]),
            ):
                rounds = ratios(seconds[name, train], seconds[plain, train])
                record(f"{what} of {size}", rounds, target, bound=bound, peer=peer)
            record(f"memory of a training step of {size}", [memory], MEMORY_TARGET, peer=peer)
        times = ", ".join(f"{1000 * median(seconds[name, t]):.0f}" for t in (True, False))
        print(
            f"{name:26}{bound:7.2f}{medians[0]:8.2f}{wanted[0]:8.2f}{medians[1]:9.2f}{wanted[1]:8.2f}{memory:8.2f}   "
            f"{times}, {peaks[name] / 1e6:.0f}{verdict}"
        )


def main() -> None:
    """Run the benchmark."""
    parser = argument_parser(__doc__, repeats=9)
    add_encoder(parser)
    parser.add_argument("--bf16", action="store_true", help="bf16 autocast beside fp32")
    parser.add_argument("--models", nargs="+", help="some of the models below, but plain (default: all)")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--length", type=int, help="tokens of a text (default: 40, and 64 for pooled models)")
    arguments = parser.parse_args()
    prepare(arguments.threads)
    asked = arguments.models or [*FUSED, *PUBLIC, *POOLED]

    with encoder_folder(arguments.encoder) as encoder:
        plain = AutoModelForSequenceClassification.from_pretrained(encoder, num_labels=2)
        build = {
            **{
                n: partial(BertForGRUFusionClassification.from_pretrained, encoder, **s)
                for n, s in FUSED.items()
            },
            **{n: partial(PublicModel, encoder, shared=shared) for n, shared in PUBLIC.items()},
            **{n: partial(BertWithPoolingModule.from_pretrained, encoder, **s) for n, s in POOLED.items()},
        }
        models = {name: build[name]() for name in asked}
        pooled = {name: model for name, model in models.items() if name in POOLED}
        fused = {name: model for name, model in models.items() if name not in POOLED}
        for bf16 in (False, True) if arguments.bf16 else (False,):
            for group, targets, length in (
                (fused, TARGETS, 40),
                (pooled, dict.fromkeys(POOLED, (1.03, 1.03)), 64),
            ):
                if group:
                    shape = (arguments.rows, arguments.length or length)
                    compare({"plain": plain, **group}, targets, shape, arguments.repeats, bf16)


if __name__ == "__main__":
    main()
