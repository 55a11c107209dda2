"""Script that each process runs in test_two_processes.py: half of each batch, under DDP."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from hf_layerfusion.gradient_surgery.gramian import TaskGradients
from hf_layerfusion.gradient_surgery.registry import task_weights
from hf_layerfusion.regularizers.regularizer import regularized_pass
from hf_layerfusion.regularizers.smart import Smart
from tests.regularizers.small import batch, classifier

ROWS = 6


def smart(low_memory: bool) -> Smart:
    return Smart(weight=20.0, epsilon=0.05, sigma=0.02, layer=0 if low_memory else 1)


def model_and_batches() -> tuple[torch.nn.Module, dict[str, dict[str, torch.Tensor]]]:
    torch.manual_seed(0)
    return classifier().double(), {task: batch(ROWS) for task in ("a", "b", "c")}


def same_noise_on_every_row() -> None:
    torch.randn_like = lambda values: torch.linspace(-1, 1, values.shape[-1]).to(values).expand_as(values)


def projected(model: Any, batches: dict[str, dict[str, torch.Tensor]], micro_batches: int) -> torch.Tensor:
    """Leaves PCGrad's gradient, each task's loss with SMART, in the parameters; returns the Gram matrix."""
    gradients = TaskGradients(model.parameters())
    for part in range(micro_batches):
        for task, inputs in batches.items():
            inputs = {name: value[part::micro_batches] for name, value in inputs.items()}
            loss = regularized_pass(model, inputs, [smart(low_memory=True)]).losses[""]
            with gradients.of(task):
                (loss / micro_batches).backward()
    gradients.reduce()
    gramian = gradients.gramian()
    gradients.combine(task_weights("pcgrad", gramian, torch.Generator().manual_seed(5)))
    return gramian


def reduced(bucket: Any) -> Any:
    return allreduce_hook(distributed.group.WORLD, bucket)


def main(folder: Path, rank: int) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    same_noise_on_every_row()
    found: dict[Any, Any] = {}
    for low_memory in (False, True):
        model, batches = model_and_batches()
        inputs = {name: value[rank::2] for name, value in batches["a"].items()}
        wrapped = DistributedDataParallel(model, find_unused_parameters=low_memory)
        # The second backward shows whether the first left DDP in order.
        for _ in range(2):
            model.zero_grad()
            result = regularized_pass(wrapped, inputs, [smart(low_memory)], low_memory=low_memory)
            result.losses[""].backward()
        found[low_memory] = {name: each.grad for name, each in model.named_parameters()}

    model, batches = model_and_batches()
    wrapped = DistributedDataParallel(model, find_unused_parameters=True)
    found["plain bytes"] = counted = []
    wrapped.register_comm_hook(
        None, lambda _, bucket: counted.append(bucket.buffer().nbytes) or reduced(bucket)
    )
    wrapped(**{name: value[rank::2] for name, value in batches["a"].items()}).loss.backward()
    model.zero_grad()
    halves = {task: {name: value[rank::2] for name, value in each.items()} for task, each in batches.items()}
    found["surgery bytes"] = sent = []
    reduce = distributed.all_reduce
    distributed.all_reduce = lambda tensor, **kwargs: sent.append(tensor.nbytes) or reduce(tensor, **kwargs)
    with wrapped.no_sync():
        found["gramian"] = projected(wrapped, halves, micro_batches=1)
    distributed.all_reduce = reduce
    found["projected"] = {name: each.grad for name, each in model.named_parameters()}
    torch.save(found, folder / f"found-{rank}.pt")
    distributed.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), int(sys.argv[2]))
