"""Check of the package on a GPU, in under eight minutes: parity with the CPU, and speed.

Parity compares logits and gradients of every fuser in fp32, and under autocast in bf16 and in fp16 with a gradient
scaler, with those of the CPU in fp32; then gradient surgery, SMART and torch.compile. Speed is the time of a training
step relative to the plain classifier at 64 x 40 and 64 x 128 tokens, and the share that GRUBERT's recurrences take of
it. All models have random weights, so nothing is downloaded. The exit code is 1 where a parity check fails.

Without a GPU the script says so and ends. `--device cpu --quick` runs the same code on tiny models, to test the script.

```
python benchmarks/gpu_check.py
```
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any, cast

import torch
from common import in_turns, prepare, ratio
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

from hf_layerfusion import (
    BertForGRUFusionClassification,
    BertWithPoolingModule,
    GRUFusionConfig,
    LayerPoolingConfig,
)
from hf_layerfusion.gradient_surgery.gramian import TaskGradients
from hf_layerfusion.gradient_surgery.registry import task_weights
from hf_layerfusion.modeling.fusion_pooling import SENTENCE_FUSERS
from hf_layerfusion.modeling.fusion_registry import TOKEN_FUSERS
from hf_layerfusion.modeling.recurrence import BidirectionalRNN
from hf_layerfusion.regularizers.regularizer import regularized_pass
from hf_layerfusion.regularizers.smart import Smart

LIMIT_SECONDS = 8 * 60
TOLERANCES = {torch.float32: 1e-3, torch.bfloat16: 0.2, torch.float16: 2e-2}
"""Largest difference to the CPU's fp32, relative to the largest value."""

Batch = dict[str, Tensor]


class Report:
    """Printed checks, and whether all of them have passed."""

    def __init__(self) -> None:
        self.passed = True
        self._start = time.perf_counter()

    def check(self, name: str, difference: float, tolerance: float) -> None:
        """Print a comparison, which fails above its tolerance or where it is not a number."""
        holds = difference <= tolerance
        self.passed &= holds
        print(
            f"{'ok  ' if holds else 'FAIL'} {name:52} {difference:9.1e} (at most {tolerance:.0e})", flush=True
        )

    def time_is_left(self) -> bool:
        """Return whether there is time for another part; it says so where there is none."""
        left = time.perf_counter() - self._start < LIMIT_SECONDS - 60
        if not left:
            print("Out of time: the remaining parts are left out.")
        return left


def encoder(quick: bool, layers: int | None = None) -> BertConfig:
    """Return the configuration of a BERT-base, or of a tiny one, without dropout."""
    size = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64} if quick else {}
    return BertConfig(
        num_hidden_layers=layers or (4 if quick else 12),
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        **size,
    )


def fused_models(quick: bool) -> Iterator[tuple[str, nn.Module]]:
    """Yield a classifier of four layers for each row of the tables of fusers."""
    config, sizes = encoder(quick, layers=4), {"fusion_hidden_size": 32, "downstream_hidden_size": 32}
    for fusion in TOKEN_FUSERS:
        for cell in ("gru", "lstm"):
            settings = GRUFusionConfig(
                encoder_config=config.to_dict(),
                fusion=fusion,
                fusion_cell=cell,
                num_groups=2,
                num_last_layers=2,
                classifier_dropout=0.0,
                **sizes,
            )
            yield f"{fusion}-{cell}", BertForGRUFusionClassification(settings)
    for pooling in SENTENCE_FUSERS:
        pooled = LayerPoolingConfig(
            encoder_config=config.to_dict(), pooling=pooling, token_pooling="mean", classifier_dropout=0.0
        )
        yield f"{pooling} pooling", BertWithPoolingModule(pooled)


def batch_of(rows: int, length: int, device: torch.device, padded: bool = True) -> Batch:
    """Return a batch of random ids with labels, the same on every device."""
    generator = torch.Generator().manual_seed(7)
    mask = torch.ones(rows, length, dtype=torch.long)
    if padded:
        for row, count in enumerate(torch.linspace(length // 3, length, rows).long()):
            mask[row, count:] = 0
    ids = torch.randint(1000, 20000, (rows, length), generator=generator) * mask
    batch = {"input_ids": ids, "attention_mask": mask, "labels": torch.arange(rows) % 2}
    return {name: value.to(device) for name, value in batch.items()}


def gradients(model: nn.Module) -> Tensor:
    """Return all gradients as one vector in fp32 on the CPU."""
    return torch.cat([p.grad.float().cpu().reshape(-1) for p in model.parameters() if p.grad is not None])


def difference(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference relative to the largest expected value."""
    return float((found.float().cpu() - expected).abs().max() / expected.abs().max().clamp(min=1e-12))


def trained(model: nn.Module, batch: Batch, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return logits and gradients of a training pass under autocast to `dtype`; in fp16 with a gradient scaler."""
    device = batch["input_ids"].device.type
    scaler = torch.amp.GradScaler(device, enabled=dtype == torch.float16, init_scale=2.0**10)
    model.zero_grad()
    with torch.autocast(device, dtype, enabled=dtype != torch.float32):
        output = model(**batch)
    scaler.scale(output.loss).backward()
    if scaler.is_enabled():
        scaler.unscale_(torch.optim.SGD(model.parameters()))
    return output.logits.detach(), gradients(model)


def check_fusers(report: Report, device: torch.device, quick: bool) -> None:
    """Compare every fuser in every precision with the CPU in fp32."""
    for name, model in fused_models(quick):
        model.train()
        expected = trained(model, batch_of(6, 24, torch.device("cpu")), torch.float32)
        model.to(device)
        for dtype, tolerance in TOLERANCES.items():
            if device.type == "cpu" and dtype == torch.float16 and "lstm" in name:
                continue  # torch has no such LSTM on the CPU
            found = trained(model, batch_of(6, 24, device), dtype)
            worst = max(difference(*pair) for pair in zip(found, expected, strict=True))
            report.check(f"{name}, {str(dtype).removeprefix('torch.')}", worst, tolerance)


@contextmanager
def same_noise() -> Iterator[None]:
    """Make `torch.randn_like` the same on every device while the block runs."""
    drawn = torch.randn_like
    torch.randn_like = lambda x: torch.linspace(-1, 1, x.shape[-1]).to(x).expand_as(x)  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.randn_like = drawn


def smart_step(model: nn.Module, batch: Batch) -> Tensor:
    """Return the gradients of a loss with SMART."""
    model.zero_grad()
    smart = Smart(weight=5.0, sigma=0.02, epsilon=0.05)
    regularized_pass(model, batch, [smart]).losses[""].backward()
    return gradients(model)


def surgery_step(model: nn.Module, batch: Batch) -> Tensor:
    """Return PCGrad's gradient of three tasks, which are the rows of a batch by threes with labels of their own."""
    found = TaskGradients(model.parameters())
    for task in range(3):
        part = {name: value[task::3] for name, value in batch.items()}
        part["labels"] = (part["labels"] + task) % 2
        with found.of(str(task)):
            model(**part).loss.backward()
    found.combine(task_weights("pcgrad", found.gramian(), torch.Generator().manual_seed(5)))
    combined = gradients(model)
    model.zero_grad()
    return combined


def check_methods(report: Report, device: torch.device, quick: bool) -> None:
    """Compare surgery, SMART and a compiled model with the CPU."""
    tolerance = 10 * TOLERANCES[torch.float32]
    name, model = next(fused_models(quick))
    model.train()
    cpu = batch_of(6, 24, torch.device("cpu"))
    with same_noise():
        expected = {step: step(model, cpu) for step in (surgery_step, smart_step)}
        logits = trained(model, cpu, torch.float32)[0]
        model.to(device)
        on_device = batch_of(6, 24, device)
        for step, gradient in expected.items():
            report.check(
                f"{step.__name__} of {name}", difference(step(model, on_device), gradient), tolerance
            )
    if not quick:
        compiled = cast(nn.Module, torch.compile(model))
        report.check(
            f"compiled {name}", difference(trained(compiled, on_device, torch.float32)[0], logits), tolerance
        )


def training_step(model: nn.Module, batch: Batch) -> Callable[[], None]:
    """Return a function that runs a training pass in bf16 and waits for the device."""
    device = batch["input_ids"].device.type

    def step() -> None:
        model.zero_grad()
        with torch.autocast(device, torch.bfloat16):
            loss = model(**batch).loss
        loss.backward()
        synchronize(device)

    return step


def synchronize(device: str) -> None:
    """Wait until a device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


@contextmanager
def timed_recurrences(model: nn.Module, seconds: list[float]) -> Iterator[None]:
    """Add the seconds of each recurrence's forward pass to `seconds` in the block; a fuser's count as one."""
    fuser: Any = model.base_model.fuser  # type: ignore[union-attr]
    device = next(model.parameters()).device.type
    starts: list[float] = []

    def start(module: nn.Module, args: Any) -> None:
        synchronize(device)
        starts.append(time.perf_counter())

    def end(module: nn.Module, args: Any, output: Any) -> None:
        synchronize(device)
        seconds.append(time.perf_counter() - starts.pop())

    handles = []
    for module in model.modules():
        # A fuser may run its recurrences without calling them as modules.
        is_other = isinstance(module, BidirectionalRNN) and module not in set(fuser.modules())
        if module is fuser or is_other:
            handles += [module.register_forward_pre_hook(start), module.register_forward_hook(end)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def measure(device: torch.device, quick: bool) -> None:
    """Print the time of fused models relative to the plain classifier, and the recurrences' share."""
    config, repeats = encoder(quick), 1 if quick else 10
    models: dict[str, nn.Module] = {"plain": BertForSequenceClassification(config)}
    for fusion in ("share", "cat"):
        models[f"grubert-{fusion}-2"] = BertForGRUFusionClassification(
            GRUFusionConfig(encoder_config=config.to_dict(), fusion=fusion, num_groups=2)
        )
    for pooling in ("attention", "concat"):
        models[f"{pooling} pooling"] = BertWithPoolingModule(
            LayerPoolingConfig(encoder_config=config.to_dict(), pooling=pooling)
        )
    for model in models.values():
        model.to(device).train()
    for rows, length in ((4, 10),) if quick else ((64, 40), (64, 128)):
        batch = batch_of(rows, length, device)
        seconds = in_turns(
            {n: training_step(m, batch) for n, m in models.items()}, repeats, warm_up=1 if quick else 3
        )
        print(f"\ntraining step in bf16, {rows} x {length} tokens, padded")
        for name in models:
            times = f"{1000 * median(seconds[name]):8.1f} ms"
            print(f"{name:20}{times}  {ratio(seconds[name], seconds['plain']):5.2f} of plain")
        for name in list(models)[1:3]:
            forward: list[float] = []
            with timed_recurrences(models[name], forward):
                training_step(models[name], batch)()
            share = sum(forward) / median(seconds[name])
            print(
                f"{name}: {len(forward)} recurrences, forward {1000 * sum(forward):.1f} ms, {share:.0%} of a step"
            )


def main() -> int:
    """Run the check and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", help="the device to check (default: cuda)")
    parser.add_argument(
        "--quick", action="store_true", help="tiny models and few repeats, to test this script"
    )
    arguments = parser.parse_args()
    if arguments.device is None and not torch.cuda.is_available():
        print("No GPU was found, so nothing was checked.")
        return 0
    device = torch.device(arguments.device or "cuda")
    prepare(torch.get_num_threads())
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    print(f"{where}, torch {torch.__version__}")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    report = Report()
    check_fusers(report, device, arguments.quick)
    if report.time_is_left():
        check_methods(report, device, arguments.quick)
    if report.time_is_left():
        measure(device, arguments.quick)
    return 0 if report.passed else 1


if __name__ == "__main__":
    sys.exit(main())
