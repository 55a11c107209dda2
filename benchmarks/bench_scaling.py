"""Benchmark of cost against the length of texts, 16 to 2,048 tokens, and against the number of tasks, 1 to 16.

- Training steps of share-3 with GRUs and with minGRUs, against the plain classifier, on random encoders of six layers
  of width 384. A batch has 1,024 tokens, or one text if that is longer.
- Prediction of several tasks on the same texts by one CerBERTus model, against one task, without task layers (k = 0)
  and with two of six (k = 2). Target at k = 0: three tasks for at most 1.1 of one.

    python benchmarks/bench_scaling.py
"""

import json
import os
from functools import partial
from statistics import median
from typing import Any

import torch
from common import argument_parser, in_turns, machine, prepare, ratios, record
from transformers import AutoModelForSequenceClassification, BertConfig

from hf_layerfusion import (
    BertForGRUFusionClassification,
    CerbertusConfig,
    CerbertusForMultitask,
    GRUFusionConfig,
)

LENGTHS, TASKS, TOKENS = (16, 64, 256, 512, 1024, 2048), (1, 2, 3, 4, 8, 16), 1024
PLAIN, GRU, MINGRU = "plain classifier", "share-3", "share-3, minGRU"
SERIES = "BENCHMARK_SERIES"
"""Environment variable with the file that the figure's numbers are written to."""


def step(model: Any, inputs: dict[str, torch.Tensor]) -> None:
    """Run a forward and a backward pass."""
    model.zero_grad()
    model(**inputs).loss.backward()


def encoder_config(positions: int = 2048) -> BertConfig:
    """Return the configuration of an encoder of MiniLM's size."""
    return BertConfig(
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=1536,
        max_position_embeddings=positions,
    )


def cost_of_length(repeats: int) -> dict[str, list[float]]:
    """Return the training steps of fused models, by length, relative to the plain classifier's."""
    encoder = encoder_config()
    cells = {GRU: "gru", MINGRU: "mingru"}
    models = {PLAIN: AutoModelForSequenceClassification.from_config(encoder)}
    for name, cell in cells.items():
        config = GRUFusionConfig(encoder_config=encoder, fusion_cell=cell, downstream_cell=cell)
        models[name] = BertForGRUFusionClassification(config)
    found: dict[str, list[float]] = {name: [] for name in cells}
    for length in LENGTHS:
        rows = max(1, TOKENS // length)
        ids = torch.randint(1000, 20000, (rows, length))
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.arange(rows) % 2}
        seconds = in_turns({name: partial(step, each, inputs) for name, each in models.items()}, repeats)
        for name in cells:
            times = ratios(seconds[name], seconds[PLAIN])
            found[name].append(median(times))
            record(f"training step of {name}, {rows} x {length} tokens", times, peer=PLAIN)
    return found


def cost_of_tasks(repeats: int) -> dict[str, list[float]]:
    """Return the prediction of several tasks on the same texts relative to one task, by number of tasks."""
    names = [f"task{number}" for number in range(1, max(TASKS) + 1)]
    ids = torch.randint(1000, 20000, (16, 64))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    found: dict[str, list[float]] = {}
    for own in (0, 2):
        config = CerbertusConfig(
            encoder_config=encoder_config(512),
            tasks={name: {"labels": ["no", "yes"]} for name in names},
            num_task_layers=own,
        )
        model = CerbertusForMultitask(config).eval()
        depth = encoder_config(512).num_hidden_layers
        with torch.no_grad():
            calls = {number: partial(model, tasks=dict.fromkeys(names[:number], inputs)) for number in TASKS}
            seconds = in_turns(calls, repeats)
        found[f"k = {own}"] = [median(ratios(seconds[number], seconds[1])) for number in TASKS]
        for number in TASKS[1:]:
            target = 1.1 if (own, number) == (0, 3) else None
            bound = 1 + (number - 1) * own / depth
            times = ratios(seconds[number], seconds[1])
            record(f"{number} tasks, k = {own}", times, target, bound=bound, peer="one task")
    return found


def main() -> None:
    """Run the benchmark."""
    parser = argument_parser(__doc__, repeats=3)
    arguments = parser.parse_args()
    prepare(arguments.threads)
    print(machine())
    series = {
        "length": {"x": LENGTHS, **cost_of_length(arguments.repeats)},
        "tasks": {"x": TASKS, **cost_of_tasks(arguments.repeats)},
    }
    if SERIES in os.environ:
        with open(os.environ[SERIES], "w", encoding="utf-8") as file:
            json.dump(series, file)


if __name__ == "__main__":
    main()
