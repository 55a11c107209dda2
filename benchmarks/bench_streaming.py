"""Benchmark of training's peak memory by the size of a corpus that is streamed from a CSV file.

A tiny random BERT is trained for one pass over random tweets, in a process of its own for each size: `--rows`, and
`--times` as many. If memory does not grow with the corpus, the ratio of the two peaks is 1.

```
python benchmarks/bench_streaming.py [--rows 110763] [--times 10]
```
"""

import argparse
import csv
import random
import resource
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from common import machine, prepare, record
from datasets import load_dataset
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertTokenizer,
    DataCollatorWithPadding,
    PrinterCallback,
)

from hf_layerfusion.training.trainer import LayerFusionTrainer
from hf_layerfusion.training.training_arguments import LayerFusionTrainingArguments

WORDS = [first + last for first in "bcdfghklmnprst" for last in ("a", "en", "it", "ou", "us", "ake", "ing")]
VOCABULARY = {
    piece: index for index, piece in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])
}
BATCH = 256


def write_tweets(path: Path, rows: int) -> None:
    """Write a CSV file `text,label` of `rows` texts with 5 to 25 words."""
    rng = random.Random(0)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("text", "label"))
        for _ in range(rows):
            writer.writerow((" ".join(rng.choices(WORDS, k=rng.randint(5, 25))), rng.randrange(2)))


def peak_megabytes(path: Path, rows: int) -> float:
    """Train one pass over the file's `rows` and return the process's peak resident memory."""
    prepare(threads=1)
    tokenizer = BertTokenizer(vocab=VOCABULARY, model_max_length=64)
    config = BertConfig(
        vocab_size=len(VOCABULARY),
        num_hidden_layers=1,
        hidden_size=32,
        num_attention_heads=2,
        intermediate_size=64,
    )
    tweets = load_dataset("csv", data_files=str(path), split="train", streaming=True)
    tokens = tweets.map(
        lambda batch: tokenizer(batch["text"], truncation=True), batched=True, remove_columns=["text"]
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = LayerFusionTrainer(
            BertForSequenceClassification(config),
            LayerFusionTrainingArguments(
                output_dir=folder,
                use_cpu=True,
                disable_tqdm=True,
                save_strategy="no",
                per_device_train_batch_size=BATCH,
                max_steps=-(-rows // BATCH),
            ),
            train_dataset=tokens,
            data_collator=DataCollatorWithPadding(tokenizer),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000, help="tweets of the smaller corpus")
    parser.add_argument("--times", type=int, default=10, help="how many times as many the larger one has")
    args = parser.parse_args()
    print(machine())
    peaks = []
    for rows in (args.rows, args.rows * args.times):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "tweets.csv")
            write_tweets(path, rows)
            # A fresh interpreter each: a forked process's peak starts at its parent's.
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                peaks.append(pool.submit(peak_megabytes, path, rows).result())
        print(f"{rows:,} rows: peak {peaks[-1]:,.0f} MB")
    record(f"memory of training on a stream, {args.times} times the rows", [peaks[1] / peaks[0]], bound=1)


if __name__ == "__main__":
    main()
