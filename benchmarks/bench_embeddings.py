"""Benchmark of word embeddings as encoders: import, training and cached states.

It prints the time and the peak memory of importing a file as large as GloVe's (400,000 words of 300 values; targets:
60 s, 2 GB), how many times as fast a model around static vectors trains as one around MiniLM (target: 10), what ELMo's
recurrence gains by projecting its inputs for all steps at once, and how many times as fast an epoch is for ELMo and
Flair of the published sizes once their states are cached (target: 20). Texts and weights are random; ratios are medians
over rounds in turn.

```
python benchmarks/bench_embeddings.py
```
"""

import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from common import argument_parser, encoder_folder, in_turns, machine, prepare, ratios, record
from transformers import AutoTokenizer

from hf_layerfusion import BertForGRUFusionClassification, StaticEmbeddingsConfig, StaticEmbeddingsModel
from hf_layerfusion.embeddings.word_tokenizers import static_tokenizer, word_tokenizer
from hf_layerfusion.modeling.configuration_elmo import ElmoConfig
from hf_layerfusion.modeling.configuration_flair import FlairConfig
from hf_layerfusion.modeling.modeling_elmo import ElmoModel, ProjectedLSTM
from hf_layerfusion.modeling.modeling_flair import FlairModel

MOST_SECONDS, MOST_GB, STATIC_GAIN, CACHE_GAIN = 60.0, 2.0, 10.0, 20.0
BATCH, LENGTH = 64, 20
IMPORT = """
import resource, sys, time
from hf_layerfusion import import_embeddings
start, busy = time.perf_counter(), time.process_time()
import_embeddings(sys.argv[2], glove=sys.argv[1])
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(time.perf_counter() - start, time.process_time() - busy, memory)
"""


def write_vectors(path: Path, words: int, width: int) -> None:
    """Write a file in GloVe's format, whose vectors are 100 random ones in turn."""
    rng = random.Random(0)
    rows = [" ".join(f"{rng.gauss(0, 0.4):.5f}" for _ in range(width)) for _ in range(100)]
    with path.open("w", encoding="utf-8") as file:
        for number in range(words):
            file.write(f"word{number} {rows[number % 100]}\n")


def bench_import(words: int, width: int) -> None:
    """Print the time and the memory of an import, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        write_vectors(Path(folder, "vectors.txt"), words, width)
        command = [sys.executable, "-c", IMPORT, f"{folder}/vectors.txt", f"{folder}/encoder"]
        found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    seconds, busy, gigabytes = map(float, found.split()[-3:])
    print(f"{busy:.0f} s of the import's {seconds:.0f} s were spent computing")
    record(f"seconds to import {words:,} x {width} vectors", [seconds], MOST_SECONDS)
    record("GB of memory, the same", [gigabytes], MOST_GB)


def texts(rng: random.Random) -> list[str]:
    """Return random texts of half to all of `LENGTH` words."""
    lengths = [rng.randint(LENGTH // 2, LENGTH) for _ in range(BATCH)]
    return [" ".join(f"word{rng.randrange(1000)}" for _ in range(length)) for length in lengths]


def training_step(model: Any, batch: dict[str, torch.Tensor]) -> Any:
    """Return a call that takes one step of training on a batch."""
    optimizer = torch.optim.Adam([weight for weight in model.parameters() if weight.requires_grad])
    labels = torch.arange(len(next(iter(batch.values())))) % 2

    def step() -> None:
        optimizer.zero_grad()
        model.train()(**batch, labels=labels).loss.backward()
        optimizer.step()

    return step


def bench_static(encoder: str, repeats: int) -> None:
    """Print how many times as fast a step is around static vectors as around MiniLM, both as GRUBERT trains them."""
    words = [f"word{number}" for number in range(10_000)]
    batch = texts(random.Random(0))
    steps = {}
    for width in (50, 300):
        table = StaticEmbeddingsModel(StaticEmbeddingsConfig(vocab_size=len(words) + 2, hidden_size=width))
        model = BertForGRUFusionClassification.from_pretrained(
            saved(table, static_tokenizer(words, "whitespace")), num_groups=1
        )
        steps[f"static, {width} values"] = training_step(
            model, encoded(static_tokenizer(words, "whitespace"), batch)
        )
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    minilm = BertForGRUFusionClassification.from_pretrained(encoder, num_groups=1)
    short = [text.replace("word", "") for text in batch]  # a piece or two for each word, as tweets have
    steps["MiniLM"] = training_step(minilm, encoded(tokenizer, short))
    seconds = in_turns(steps, repeats)
    for name in list(steps)[:-1]:
        gains = ratios(seconds["MiniLM"], seconds[name])
        record(f"speed of a training step, {name}", gains, STATIC_GAIN, at_least=True, peer="MiniLM")


_FOLDERS: list[tempfile.TemporaryDirectory[str]] = []


def saved(model: Any, tokenizer: Any) -> str:
    """Save an encoder with its tokenizer, and return the folder."""
    _FOLDERS.append(tempfile.TemporaryDirectory())
    model.save_pretrained(_FOLDERS[-1].name)
    tokenizer.save_pretrained(_FOLDERS[-1].name)
    return _FOLDERS[-1].name


def encoded(tokenizer: Any, batch: list[str]) -> dict[str, torch.Tensor]:
    """Return texts as a padded batch."""
    return dict(tokenizer(batch, padding=True, return_tensors="pt"))


class StepwiseLSTM(ProjectedLSTM):
    """`ProjectedLSTM` with the inputs of each step projected at that step."""

    def forward(self, inputs: torch.Tensor, lengths: torch.Tensor, state: Any = None) -> Any:
        """Run the recurrence step by step; the arguments are those of `ProjectedLSTM.forward`."""
        outputs = []
        for step in range(inputs.shape[1]):
            output, state = super().forward(inputs[:, step : step + 1], (lengths > step).long(), state)
            outputs.append(output)
        return torch.cat(outputs, dim=1), state


def bench_recurrence(repeats: int) -> None:
    """Print what ELMo's original LSTM gains by projecting its inputs for all steps at once."""
    config = ElmoConfig()
    at_once, stepwise = ProjectedLSTM(config), StepwiseLSTM(config)
    inputs, lengths = torch.randn(8, LENGTH, config.projection_size), torch.full((8,), LENGTH)
    with torch.no_grad():
        seconds = in_turns(
            {
                "at once": lambda: at_once(inputs, lengths),
                "stepwise": lambda: stepwise(inputs, lengths),
            },
            repeats,
        )
    gains = ratios(seconds["stepwise"], seconds["at once"])
    record("speed of ELMo's LSTM, inputs projected at once", gains, peer="inputs projected step by step")


def bench_cache(repeats: int) -> None:
    """Print how many times as fast a step is with cached states as with the frozen encoder running."""
    tokenizer = word_tokenizer((), "whitespace")
    batch = encoded(tokenizer, texts(random.Random(0))[:8])
    for name, encoder in (("ELMo", ElmoModel(ElmoConfig())), ("Flair", FlairModel(FlairConfig()))):
        settings: dict[str, Any] = {"fusion": "last_concat", "num_last_layers": 1}
        model = BertForGRUFusionClassification.from_pretrained(saved(encoder, tokenizer), **settings)
        with torch.no_grad():
            states = model.model.read_states(**batch)
        cached = {"encoder_states": states, "attention_mask": batch["attention_mask"]}
        steps = {"encoder": training_step(model, batch), "cache": training_step(model, cached)}
        seconds = in_turns(steps, repeats)
        gains = ratios(seconds["encoder"], seconds["cache"])
        what = f"speed of a training step on cached states, {name}"
        record(what, gains, CACHE_GAIN, at_least=True, peer="the frozen encoder running")


def main() -> None:
    """Measure, and print the table."""
    parser = argument_parser(__doc__ or "", repeats=5)
    parser.add_argument(
        "--words", type=int, default=400_000, help="of the file that is imported; 0 leaves it out"
    )
    arguments = parser.parse_args()
    prepare(arguments.threads)
    print(machine())
    if arguments.words:
        bench_import(arguments.words, 300)
    with encoder_folder(None) as encoder:
        bench_static(encoder, arguments.repeats)
    bench_recurrence(arguments.repeats)
    bench_cache(arguments.repeats)


if __name__ == "__main__":
    main()
