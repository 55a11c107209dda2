"""Benchmark of a training step with SMART and other regularizers: time and peak memory relative to a plain step.

A step has forward and backward passes without optimizer, in fp32: MiniLM, 16 x 32 tokens without padding. All
variants are timed in turn in every round, and each ratio is the median over rounds. A step with `every=n` is the mean
of n steps. For comparison it prints the arithmetic bound, which counts a forward pass as 1, a backward pass as 2, and
a backward pass to the input only as 1. Memory is the peak of activations and gradients that a step allocates.

```
python benchmarks/bench_smart.py
python benchmarks/bench_smart.py --encoder random-bert-base --repeats 3
```
"""

from dataclasses import dataclass, field
from functools import partial
from statistics import median

import torch
from common import (
    add_encoder,
    argument_parser,
    encoder_folder,
    in_turns,
    machine,
    prepare,
    ratio,
    ratios,
    record,
)
from memory import peak_bytes
from torch.nn import functional as F
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from hf_layerfusion.regularizers.freelb import FreeLB
from hf_layerfusion.regularizers.rdrop import RDrop
from hf_layerfusion.regularizers.regularizer import Regularizer, regularized_pass
from hf_layerfusion.regularizers.smart import Smart


@dataclass
class Variant:
    """A measured variant."""

    bound: float
    time_target: float | None = None
    terms: list[Regularizer] = field(default_factory=list)
    low_memory: bool = False
    memory_target: float | None = None

    @property
    def steps(self) -> int:
        """Return the number of steps after which the terms repeat."""
        return max([term.every for term in self.terms], default=1)

    def run(self, model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> None:
        """Perform the steps."""
        for step in range(self.steps):
            model.zero_grad()
            found = regularized_pass(model, inputs, self.terms, step, low_memory=self.low_memory)
            found.losses[""].backward()


class PublicSmart(Variant):
    """The steps of SMART's public code: the graph of the ascent includes the weights' gradients, and noise is added
    to `inputs_embeds`."""

    def run(self, model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> None:
        """Perform a step."""
        model.zero_grad()
        embedded = model.get_input_embeddings()(inputs["input_ids"])
        rest = {"attention_mask": inputs["attention_mask"]}
        clean = model(inputs_embeds=embedded, **rest).logits
        noise = (1e-5 * torch.randn_like(embedded)).requires_grad_()
        perturbed = model(inputs_embeds=embedded + noise, **rest).logits
        (gradient,) = torch.autograd.grad(self.distance(perturbed, clean.detach()), noise)
        noise = noise + 1e-3 * gradient
        noise = (noise / (noise.norm(float("inf"), dim=-1, keepdim=True) + 1e-6)).detach()
        perturbed = model(inputs_embeds=embedded + noise, **rest).logits
        loss = F.cross_entropy(clean, inputs["labels"]) + self.distance(perturbed, clean)
        loss.backward()

    @staticmethod
    def distance(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Return the symmetric KL divergence of two batches of logits."""
        first, second = first.log_softmax(-1), second.log_softmax(-1)
        there = F.kl_div(first, second, reduction="batchmean", log_target=True)
        return there + F.kl_div(second, first, reduction="batchmean", log_target=True)


def variants(depth: int) -> dict[str, Variant]:
    """Return the measured variants."""
    upper = 1 - (depth // 2) / depth
    middle: list[Regularizer] = [Smart(layer=depth // 2)]
    return {
        "plain": Variant(1),
        "smart": Variant(8 / 3, 2.75, [Smart()]),
        "smart, public code": PublicSmart(8 / 3),
        "smart, every 4th step": Variant((3 + 8 / 3) / 4, terms=[Smart(every=4)]),
        f"smart, layer {depth // 2}": Variant((3 + 5 * upper) / 3, terms=middle),
        "smart, low memory": Variant(10 / 3, terms=[Smart()], low_memory=True, memory_target=1.2),
        f"smart, layer {depth // 2}, low memory": Variant(
            (4 + 6 * upper) / 3, terms=middle, low_memory=True, memory_target=1.2
        ),
        "rdrop": Variant(2, terms=[RDrop()]),
        "rdrop, low memory": Variant(8 / 3, terms=[RDrop()], low_memory=True, memory_target=1.2),
        "freelb, 3 passes": Variant(13 / 3, terms=[FreeLB()]),
    }


def main() -> None:
    """Run the benchmark."""
    parser = argument_parser(__doc__, repeats=9)
    add_encoder(parser)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--length", type=int, default=32, help="tokens of a row")
    arguments = parser.parse_args()
    prepare(arguments.threads)

    with encoder_folder(arguments.encoder) as folder:
        model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)
    model.train()
    ids = torch.randint(1000, 20000, (arguments.rows, arguments.length))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.arange(len(ids)) % 2}

    cases = variants(model.config.num_hidden_layers)
    calls = {name: partial(case.run, model, inputs) for name, case in cases.items()}
    seconds = in_turns(calls, arguments.repeats)
    seconds = {name: [each / cases[name].steps for each in times] for name, times in seconds.items()}
    model.zero_grad()
    peaks = {}
    for name, call in calls.items():
        peaks[name] = peak_bytes(call)
        model.zero_grad()

    print(f"{arguments.rows} x {arguments.length} tokens, fp32, {machine()}")
    print(f"{'':28}{'bound':>7}{'target':>8}{'time':>7}{'ms':>7}{'target':>8}{'memory':>8}{'MB':>6}")
    for name, case in cases.items():
        time = ratio(seconds[name], seconds["plain"])
        memory = peaks[name] / peaks["plain"]
        if name != "plain":
            times = ratios(seconds[name], seconds["plain"])
            record(f"step with {name}", times, case.time_target, bound=case.bound, peer="plain step")
            record(f"memory of {name}", [memory], case.memory_target, peer="plain step")
        targets = [f"{each:8.2f}" if each else " " * 8 for each in (case.time_target, case.memory_target)]
        missed = time > (case.time_target or time) or memory > (case.memory_target or memory)
        print(
            f"{name:28}{case.bound:7.2f}{targets[0]}{time:7.2f}{1000 * median(seconds[name]):7.0f}{targets[1]}"
            f"{memory:8.2f}{peaks[name] / 1e6:6.0f}{'  above the target' if missed else ''}"
        )


if __name__ == "__main__":
    main()
