"""Benchmark of trying combiners on stored predictions, in CPU seconds of one core.

CPU seconds do not depend on how busy the machine is.

- 100 combiners on 10 members and 10,000 texts of 3 classes: votes and averages with different weights, task-based,
  greedy and stacked; each fitted, combined and measured. Target: 5 s.
- Greedy, with and without replacement, over 50 members. Target: 10 s.

    python benchmarks/bench_ensembling.py
    python benchmarks/bench_ensembling.py --rows 100000
"""

import argparse
import time
from collections.abc import Callable
from functools import partial

import numpy as np
from common import record

from hf_layerfusion.ensembling.batched_metrics import accuracy
from hf_layerfusion.ensembling.registry import make_combiner

CLASSES = 3
# How many of each make up the 100.
TRIED = {"majority_vote": 30, "average_logits": 30, "average_probabilities": 30, "task_based": 4, "greedy": 3,
         "greedy_replacement": 2, "stacked": 1}  # fmt: skip


def members(count: int, rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and the logits of members that are right about 60 % of the time, with partly common errors."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, CLASSES, rows)
    shared = generator.normal(size=(rows, CLASSES))
    noise = generator.normal(size=(count, rows, CLASSES))
    return (np.eye(CLASSES)[labels] + shared + noise).astype(np.float32), labels


def report(name: str, target: float, call: Callable[[], object]) -> None:
    """Time a call, and print it beside its target."""
    start = time.process_time()
    call()
    record(f"CPU seconds, {name}", [time.process_time() - start], target)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000)
    arguments = parser.parse_args()
    generator = np.random.default_rng(0)
    predictions, labels = members(10, arguments.rows, seed=1)
    many, many_labels = members(50, arguments.rows, seed=2)

    def try_all() -> None:
        for name, times in TRIED.items():
            for _ in range(times):
                learns = make_combiner(name).learns
                weights = {} if learns else {"weights": tuple(generator.random(len(predictions)))}
                combiner = make_combiner(name, **weights).fit(predictions, labels, accuracy)
                accuracy(combiner(predictions)[None], labels)

    report(f"{sum(TRIED.values())} combiners, 10 members, {arguments.rows:,} texts", 5, try_all)
    for name in ("greedy", "greedy_replacement"):
        fit = partial(make_combiner(name).fit, many, many_labels, accuracy)
        report(f"{name}, 50 members, {arguments.rows:,} texts", 10, fit)


if __name__ == "__main__":
    main()
