"""Benchmark of one multitask model against separate models, timed in turn in every round.

- Prediction of three tasks on the same texts, by one model with k task layers and by three separate classifiers. The
  bound is the ratio of executed layers, (L - k + 3k) / 3L, and the target 1.1 times that.
- A training step on the summed loss of three tasks, with the shared layers run once on the joined batch, against
  three steps with one task's batch each. A step has forward and backward passes and AdamW. The target is 1.

```
python benchmarks/bench_multitask.py
python benchmarks/bench_multitask.py --width 768 --rows 32 --repeats 10
```
"""

from statistics import median

import torch
from common import argument_parser, in_turns, machine, prepare, ratio, ratios, record
from transformers import AutoModelForSequenceClassification, BertConfig

from hf_layerfusion import CerbertusConfig, CerbertusForMultitask

JOINED, APART = "one model", "separate"
TASKS = {
    "sst5": {"labels": ["--", "-", "0", "+", "++"]},
    "quora": {"pair": True, "labels": ["no", "yes"], "loss": "binary_cross_entropy"},
    "sts": {"pair": True, "problem_type": "regression", "value_range": [0, 5]},
}


def texts(rows: int, length: int) -> dict[str, torch.Tensor]:
    """Return random texts as model inputs."""
    ids = torch.randint(1000, 20000, (rows, length))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def main() -> None:
    """Run the benchmark."""
    parser = argument_parser(__doc__, repeats=7, threads=1)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--task-layers", type=int, default=2)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument(
        "--lengths", type=int, nargs=3, default=[64, 64, 64], help="of the tasks' training texts"
    )
    arguments = parser.parse_args()
    prepare(arguments.threads)

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
        answers = in_turns(
            {
                JOINED: lambda: model(tasks=dict.fromkeys(TASKS, batch)),
                APART: lambda: [each(**batch) for each in separate],
            },
            arguments.repeats,
        )
    bound = (arguments.layers + 2 * arguments.task_layers) / (3 * arguments.layers)
    print(f"{arguments.rows} texts, {arguments.layers} layers of width {arguments.width}, {machine()}")
    print(f"{'':44}{'ratio':>7}{'bound':>7}{'target':>8}   ms")
    report(f"3 tasks, k = {arguments.task_layers}, to 3 separate models", answers, bound, 1.1 * bound)

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

    def apart() -> None:
        for task, each in batches.items():
            step(task=task, **each)

    steps = in_turns(
        {
            JOINED: lambda: step(tasks=batches),
            APART: apart,
        },
        arguments.repeats,
    )
    report("one step on the sum of losses, to 3 steps", steps, 1.0, 1.0)


def report(name: str, seconds: dict[str, list[float]], bound: float, target: float) -> None:
    """Print the ratio of the joined to the separate times beside bound and target."""
    record(name, ratios(seconds[JOINED], seconds[APART]), target, bound=bound, peer="one model a task")
    found = ratio(seconds[JOINED], seconds[APART])
    joined, apart = (1000 * median(seconds[way]) for way in (JOINED, APART))
    verdict = "" if found <= target else "  above the target"
    print(f"{name:44}{found:7.3f}{bound:7.3f}{target:8.3f}   {joined:.0f} to {apart:.0f}{verdict}")


if __name__ == "__main__":
    main()
