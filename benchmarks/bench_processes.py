"""Benchmark of several processes: rows a second of DDP, plain and with gradient surgery, relative to one process.

The model is a BERT of MiniLM's size with random weights and a head for each of three tasks, with 8 x 32 tokens of each
task in each process and one thread a process. One process and two are measured in turn, and the result is the median
over rounds. On a machine with fewer idle cores than processes, two processes show what sharing costs, not what they
gain. It also prints the bytes that each process hands to all-reduce in a step, counted, beside those of the formula:
4 P for P trained parameters in fp32, and for surgery the sum over the tasks of what each uses.

```
python benchmarks/bench_processes.py
```
"""

import argparse
import json
import os
import subprocess
import sys
import time
from statistics import median
from typing import Any

import torch
from common import ratios, record
from torch import Tensor, distributed, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel
from transformers import BertConfig, BertModel

from hf_layerfusion.gradient_surgery.gramian import TaskGradients
from hf_layerfusion.gradient_surgery.registry import task_weights

TASKS = ("sst", "quora", "sts")
ROWS, LENGTH, STEPS = 8, 32, 3


class TasksModel(nn.Module):
    """An encoder with a head for each task."""

    def __init__(self) -> None:
        super().__init__()
        size = {
            "hidden_size": 384,
            "num_hidden_layers": 6,
            "num_attention_heads": 12,
            "intermediate_size": 1536,
        }
        self.encoder = BertModel(BertConfig(**size), add_pooling_layer=False)
        self.heads = nn.ModuleDict({task: nn.Linear(384, 2) for task in TASKS})

    def forward(self, batches: dict[str, Tensor]) -> Tensor:
        """Return the sum of the tasks' losses."""
        total = torch.zeros(())
        for task, ids in batches.items():
            states = self.encoder(ids, attention_mask=torch.ones_like(ids)).last_hidden_state
            total = total + nn.functional.cross_entropy(
                self.heads[task](states[:, 0]), torch.arange(len(ids)) % 2
            )
        return total


def plain_step(model: Any, batches: dict[str, Tensor]) -> None:
    """Add the tasks' losses up and run one backward pass."""
    model(batches).backward()


def surgery_step(model: Any, batches: dict[str, Tensor]) -> None:
    """Apply PCGrad to the tasks' gradients."""
    gradients = TaskGradients(model.parameters())
    for task, ids in batches.items():
        with gradients.of(task):
            if isinstance(model, DistributedDataParallel):
                with model.no_sync():
                    model({task: ids}).backward()
            else:
                model({task: ids}).backward()
    gradients.reduce()
    gradients.combine(task_weights("pcgrad", gradients.gramian(), torch.Generator().manual_seed(0)))


def count_bytes(model: Any, counted: list[int]) -> None:
    """Add the bytes of every all-reduce to `counted`, those of DDP too."""
    reduce = distributed.all_reduce

    def counting(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        counted.append(tensor.nbytes)
        return reduce(tensor, *args, **kwargs)

    distributed.all_reduce = counting
    # DDP's own reduction is not seen from Python; this hook does the same by `distributed.all_reduce`.
    model.register_comm_hook(distributed.group.WORLD, allreduce_hook)


def work() -> None:
    """Measure in one of the processes; the first prints the result as JSON."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model: Any = TasksModel()
    trained = sum(parameter.numel() for parameter in model.parameters())
    counted: list[int] = []
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes > 1:
        distributed.init_process_group("gloo")
        model = DistributedDataParallel(model, find_unused_parameters=True)
        count_bytes(model, counted)
    batches = {task: torch.randint(1000, 20000, (ROWS, LENGTH)) for task in TASKS}
    found: dict[str, Any] = {"processes": processes, "parameters": trained}
    for step in (plain_step, surgery_step):
        for turn in range(STEPS + 1):
            if turn == 1:
                counted.clear()
                start = time.perf_counter()
            step(model, batches)
            model.zero_grad()
        rows = STEPS * processes * ROWS * len(TASKS)
        found[step.__name__] = {
            "rows_per_second": rows / (time.perf_counter() - start),
            "bytes": sum(counted) / STEPS,
        }
    if processes == 1 or distributed.get_rank() == 0:
        print(json.dumps(found))
    if processes > 1:
        distributed.destroy_process_group()


def launched(processes: int) -> dict[str, Any]:
    """Return what so many processes measure."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [sys.executable, *(launcher if processes > 1 else []), __file__, "--work"]
    output = subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    found: dict[str, Any] = json.loads(output.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3, help="measured rounds")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work()
        return
    rounds = [(launched(1), launched(2)) for _ in range(arguments.repeats)]
    parameters = rounds[0][0]["parameters"]
    print(f"{parameters:,} parameters, load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    heads = parameters - sum(p.numel() for p in TasksModel().encoder.parameters())
    formulas = {"plain_step": 4 * parameters, "surgery_step": 4 * (len(TASKS) * (parameters - heads) + heads)}
    for name, formula in formulas.items():
        one, two = ([each[i][name]["rows_per_second"] for each in rounds] for i in range(2))
        what = name.replace("_", " ")
        print(f"{what}: {median(one):.1f} rows a second in one process, {median(two):.1f} in two")
        record(f"rows a second in two processes, {what}", ratios(two, one), peer="one process")
        sent = rounds[0][1][name]["bytes"]
        record(f"MB that each process sends, {what}", [sent / 1e6], bound=formula / 1e6)


if __name__ == "__main__":
    main()
