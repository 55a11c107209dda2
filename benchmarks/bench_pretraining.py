"""Benchmark of masked-language-model training whose head sees only masked tokens, relative to one that sees all.

It also measures the step with a frozen encoder, as while a new head is trained. A step has forward and backward
passes without optimizer, in fp32: MiniLM with a new head, 32 x 32 tokens without padding, 15 % of them masked. All
variants are timed in turn in every round, and each ratio is the median over rounds.

```
python benchmarks/bench_pretraining.py
python benchmarks/bench_pretraining.py --encoder random-bert-base --repeats 3
```
"""

from collections.abc import Callable

import torch
from common import add_encoder, argument_parser, encoder_folder, in_turns, prepare, ratios, record
from torch import Tensor
from transformers import AutoModelForMaskedLM

from hf_layerfusion.training.objectives import MaskedLanguageModeling

ROWS, TOKENS = 32, 32


def main() -> None:
    """Run the benchmark."""
    parser = argument_parser(__doc__, repeats=7)
    add_encoder(parser)
    arguments = parser.parse_args()
    prepare(arguments.threads)
    with encoder_folder(arguments.encoder) as folder:
        model = AutoModelForMaskedLM.from_pretrained(folder).train()
    tokens = torch.randint(1000, 30000, (ROWS, TOKENS))
    batch = {
        "input_ids": tokens,
        "attention_mask": torch.ones_like(tokens),
        "labels": torch.where(torch.rand(tokens.shape) < 0.15, tokens, -100),
    }
    objective = MaskedLanguageModeling()

    def step(loss: Callable[[], Tensor], trains_encoder: bool = True) -> None:
        model.zero_grad()
        model.base_model.requires_grad_(trains_encoder)
        loss().backward()

    def masked_alone() -> Tensor:
        return objective.loss(model, batch)

    seconds = in_turns(
        {
            "model's own pass": lambda: step(lambda: model(**batch).loss),
            "masked tokens alone": lambda: step(masked_alone),
            "encoder frozen": lambda: step(masked_alone, trains_encoder=False),
        },
        arguments.repeats,
    )
    whole = "model's own pass"
    for name in list(seconds)[1:]:
        record(
            f"step of masked language modelling, {name}", ratios(seconds[name], seconds[whole]), peer=whole
        )


if __name__ == "__main__":
    main()
