"""Benchmark of gradient surgery: time and peak memory relative to three passes with summed gradients.

The model is MiniLM with a head for each of three tasks, with 16 x 64 tokens for each, in fp32 and without optimizer.
All variants are timed in turn in every round, and each ratio is the median over rounds. `public class` is the known
public class, reconstructed from its description: flattened gradients of each task with masks and copies, and
projections on whole vectors. Memory is the peak of activations and gradients that a step allocates, also given as the
number of whole-model gradients beyond the first variant, which holds one; the target is one for each task.

```
python benchmarks/bench_surgery.py
python benchmarks/bench_surgery.py --tasks 8
```
"""

import copy
import random
from collections.abc import Callable
from functools import partial
from statistics import median

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
from torch import nn
from torch.nn import functional as F
from transformers import AutoModel, PreTrainedModel

from hf_layerfusion.gradient_surgery.gramian import TaskGradients
from hf_layerfusion.gradient_surgery.registry import task_weights

TARGET = 1.10


Way = Callable[["TasksModel", dict[str, torch.Tensor]], None]


class TasksModel(nn.Module):
    """An encoder with a head for each task."""

    def __init__(self, encoder: PreTrainedModel, tasks: list[str]):
        super().__init__()
        self.encoder = encoder
        self.heads = nn.ModuleDict({task: nn.Linear(encoder.config.hidden_size, 3) for task in tasks})

    def loss(self, task: str, ids: torch.Tensor) -> torch.Tensor:
        """Return the loss of a task."""
        states = self.encoder(ids, attention_mask=torch.ones_like(ids)).last_hidden_state
        return F.cross_entropy(self.heads[task](states[:, 0]), torch.arange(len(ids)) % 3)


def added(model: TasksModel, batches: dict[str, torch.Tensor]) -> None:
    """Perform one pass after the other and sum the gradients."""
    for task, ids in batches.items():
        model.loss(task, ids).backward()


def pcgrad(model: TasksModel, batches: dict[str, torch.Tensor]) -> None:
    """Apply this package's PCGrad."""
    gradients = TaskGradients(model.parameters())
    for task, ids in batches.items():
        loss = model.loss(task, ids)
        with gradients.of(task):
            loss.backward()
    gradients.combine(task_weights("pcgrad", gradients.gramian(), torch.Generator().manual_seed(0)))


def public_class(model: TasksModel, batches: dict[str, torch.Tensor]) -> None:
    """Apply PCGrad as the public class does: all losses first, a backward pass for each with the graph retained, then
    flat vectors."""
    losses = [model.loss(task, ids) for task, ids in batches.items()]
    parameters = list(model.parameters())
    flat, present = [], []
    for loss in losses:
        model.zero_grad()
        loss.backward(retain_graph=True)
        found = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters]
        there = [torch.zeros_like(p) if p.grad is None else torch.ones_like(p) for p in parameters]
        flat.append(torch.cat([each.flatten() for each in found]))
        present.append(torch.cat([each.flatten() for each in there]))
    shared = torch.stack(present).prod(0).bool()
    projected = copy.deepcopy(flat)
    for gradient in projected:
        random.shuffle(flat)
        for other in flat:
            product = torch.dot(gradient, other)
            if product < 0:
                gradient -= product * other / other.norm() ** 2
    merged = torch.zeros_like(flat[0])
    merged[shared] = torch.stack([each[shared] for each in projected]).sum(dim=0)
    merged[~shared] = torch.stack([each[~shared] for each in projected]).sum(dim=0)
    model.zero_grad()
    for parameter, values in zip(parameters, merged.split([p.numel() for p in parameters]), strict=True):
        parameter.grad = values.view_as(parameter).clone()


def from_no_gradients(way: Way, model: TasksModel, batches: dict[str, torch.Tensor]) -> None:
    """Clear the gradients, then perform the step."""
    model.zero_grad()
    way(model, batches)


def main() -> None:
    """Run the benchmark."""
    parser = argument_parser(__doc__, repeats=9)
    add_encoder(parser)
    parser.add_argument("--rows", type=int, default=16, help="of a task")
    parser.add_argument("--length", type=int, default=64, help="tokens of a row")
    parser.add_argument("--tasks", type=int, default=3, help="number of tasks")
    arguments = parser.parse_args()
    prepare(arguments.threads)

    with encoder_folder(arguments.encoder) as folder:
        encoder = AutoModel.from_pretrained(folder, add_pooling_layer=False)
    tasks = [f"task {number}" for number in range(1, arguments.tasks + 1)]
    model = TasksModel(encoder, tasks).train()
    batches = {task: torch.randint(1000, 20000, (arguments.rows, arguments.length)) for task in tasks}

    ways = {"gradients added": added, "pcgrad": pcgrad, "public class": public_class}
    calls = {name: partial(from_no_gradients, way, model, batches) for name, way in ways.items()}
    seconds = in_turns(calls, arguments.repeats)
    peaks = {}
    for name, way in ways.items():
        model.zero_grad()
        peaks[name] = peak_bytes(partial(way, model, batches))

    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    print(
        f"{arguments.rows} x {arguments.length} tokens a task, fp32, {size / 4e6:.1f} M parameters, {machine()}"
    )
    print(f"{'':18}{'target':>8}{'time':>7}{'ms':>8}{'MB':>7}{'target':>8}{'gradients more':>16}")
    for name in ways:
        time = ratio(seconds[name], seconds["gradients added"])
        more = (peaks[name] - peaks["gradients added"]) / size
        ours = name == "pcgrad"
        if ours:
            record(
                "step with PCGrad",
                ratios(seconds[name], seconds["gradients added"]),
                TARGET,
                peer="gradients added",
            )
            record("memory of PCGrad, gradients more", [more], arguments.tasks, peer="gradients added")
        targets = (f"{TARGET:8.2f}", f"{arguments.tasks:8.2f}") if ours else (" " * 8, " " * 8)
        missed = ours and (time > TARGET or more > arguments.tasks)
        print(
            f"{name:18}{targets[0]}{time:7.2f}{1000 * median(seconds[name]):8.0f}{peaks[name] / 1e6:7.0f}{targets[1]}"
            f"{more:16.2f}{'  above the target' if missed else ''}"
        )


if __name__ == "__main__":
    main()
