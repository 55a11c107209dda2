"""Time of one multi-task model as a multiple of separate models', measured in one run, one after the other each round.

- Three tasks answered on the same texts, by one model with k task layers and by three separate classifiers: the bound
  is the ratio of the layers that are run, (L - k + 3k) / 3L, and the target 1.1 times that.
- A training step on the sum of three tasks' losses, the shared layers run once over the joined batch, and three steps,
  one for each task's batch: forward, backward and AdamW. The target is 1.

    python benchmarks/bench_multitask.py
    python benchmarks/bench_multitask.py --width 768 --rows 32 --repeats 10
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from transformers import AutoModelForSequenceClassification, BertConfig
from transformers.utils import logging

from hf_layerfusion import CerbertusConfig, CerbertusForMultitask

TASKS = {
    "sst5": {"labels": ["--", "-", "0", "+", "++"]},
    "quora": {"pair": True, "labels": ["no", "yes"], "loss": "binary_cross_entropy"},
    "sts": {"pair": True, "problem_type": "regression", "value_range": [0, 5]},
}


def texts(rows: int, length: int) -> dict[str, torch.Tensor]:
    ids = torch.randint(1000, 20000, (rows, length))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def ratio(one: Callable[[], None], other: Callable[[], None], repeats: int) -> tuple[float, float, float]:
    """Median ratio of the seconds that `one` and `other` take, and the median of each."""
    seconds: list[tuple[float, float]] = []
    for turn in range(repeats + 1):
        marks = [time.perf_counter()]
        for call in (one, other):
            call()
            marks.append(time.perf_counter())
        if turn:  # the first round warms up
            seconds.append((marks[1] - marks[0], marks[2] - marks[1]))
    return median(a / b for a, b in seconds), median(a for a, _ in seconds), median(b for _, b in seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--task-layers", type=int, default=2)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument(
        "--lengths", type=int, nargs=3, default=[64, 64, 64], help="of the tasks' training texts"
    )
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    logging.set_verbosity_error()

    encoder = BertConfig(
        num_hidden_layers=arguments.layers,
        hidden_size=arguments.width,
        num_attention_heads=arguments.width // 32,
        intermediate_size=4 * arguments.width,
    )
    config = CerbertusConfig(encoder_config=encoder, tasks=TASKS, num_task_layers=arguments.task_layers)
    model = CerbertusForMultitask(config).eval()
    separate = [AutoModelForSequenceClassification.from_config(encoder).eval() for _ in TASKS]

    batch = texts(arguments.rows, arguments.lengths[0])
    with torch.no_grad():
        found, joined, apart = ratio(
            lambda: model(tasks=dict.fromkeys(TASKS, batch)),
            lambda: [each(**batch) for each in separate],
            arguments.repeats,
        )
    bound = (arguments.layers + 2 * arguments.task_layers) / (3 * arguments.layers)
    print(
        f"{arguments.rows} texts, {arguments.layers} layers of width {arguments.width}, {arguments.threads} thread(s)"
    )
    print(f"{'':44}{'ratio':>7}{'bound':>7}{'target':>8}   ms")
    report(
        f"3 tasks, k = {arguments.task_layers}, to 3 separate models",
        found,
        bound,
        1.1 * bound,
        joined,
        apart,
    )

    model.train()
    optimizer = torch.optim.AdamW(model.parameters())
    labels = {"sst5": torch.zeros(arguments.rows, dtype=torch.long), "sts": torch.zeros(arguments.rows)}
    labels["quora"] = labels["sst5"]
    batches = {
        task: texts(arguments.rows, length) | {"labels": labels[task]}
        for task, length in zip(TASKS, arguments.lengths, strict=True)
    }

    def step(**inputs: object) -> None:
        optimizer.zero_grad()
        model(**inputs).loss.backward()
        optimizer.step()

    found, joined, apart = ratio(
        lambda: step(tasks=batches),
        lambda: [step(task=task, **each) for task, each in batches.items()],
        arguments.repeats,
    )
    report("one step on the sum of losses, to 3 steps", found, 1.0, 1.0, joined, apart)


def report(name: str, found: float, bound: float, target: float, joined: float, apart: float) -> None:
    verdict = "" if found <= target else "  above the target"
    print(
        f"{name:44}{found:7.3f}{bound:7.3f}{target:8.3f}   {1000 * joined:.0f} to {1000 * apart:.0f}{verdict}"
    )


if __name__ == "__main__":
    main()
