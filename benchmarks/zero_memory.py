"""Memory of a model's training state on each GPU, by the stage that shards it.

By formula, for mixed precision with Adam (Rajbhandari et al. 2020, "ZeRO", section 3.1): P parameters take 2 bytes each
for the weights and for the gradients in bf16, and 12 for the optimizer's state (weights, mean and variance in fp32). On
N GPUs, ZeRO-1 shards the state, ZeRO-2 also the gradients, ZeRO-3 and FSDP2 also the weights. accelerate's FSDP2 keeps
weights and gradients in fp32 shards, 16 bytes in all too, and gathers a layer at a time in bf16. accelerate's DDP under
autocast has 16 bytes as well, all in fp32. Activations, which depend on batch and length, come on top.

```
python benchmarks/zero_memory.py
```
"""

from collections.abc import Sequence

PARAMETERS = {"BERT-large": 335_141_888, "Qwen3-0.6B": 596_049_920, "Qwen3-8B": 7_568_405_504}
"""Parameters of each encoder without a head for words; a fuser adds a few per cent."""

STAGES = ("DDP", "ZeRO-1", "ZeRO-2", "ZeRO-3, FSDP2")
WEIGHTS, GRADIENTS, STATE = 2, 2, 12
GIB = 2**30


def bytes_per_gpu(parameters: int, stage: str, gpus: int) -> float:
    """Return the bytes that weights, gradients and the optimizer's state take on each GPU."""
    place = STAGES.index(stage)
    parts = (STATE, GRADIENTS, WEIGHTS)  # in the order in which the stages shard them
    return parameters * sum(part / gpus if place > i else part for i, part in enumerate(parts))


def table(gpus: Sequence[int] = (1, 8, 64)) -> list[str]:
    """Return the rows of a table in Markdown: GiB on each GPU."""
    names = [f"{stage}, {count} GPUs" for stage in STAGES[1:] for count in gpus if count > 1]
    rows = [f"| model | DDP | {' | '.join(names)} |", "|---" * (len(names) + 2) + "|"]
    for model, parameters in PARAMETERS.items():
        cells = [bytes_per_gpu(parameters, "DDP", 1)]
        cells += [
            bytes_per_gpu(parameters, stage, count) for stage in STAGES[1:] for count in gpus if count > 1
        ]
        rows.append(f"| {model} | {' | '.join(f'{cell / GIB:.1f}' for cell in cells)} |")
    return rows


if __name__ == "__main__":
    print("\n".join(table()))
