"""Benchmark of the two ways to use all layers of a frozen encoder: the layer probe, and training a fused classifier.

It times `layer_probe` on 10,000 texts (target: less than 3 minutes on two cores, and seconds for a second call), and
whole trainings on the same rows in turn: transformers' classifier with the encoder trained for 4 epochs, against
classifiers on all layers of a frozen encoder, the one pass of the encoder included (target: at least 10 times as fast).
Seconds of the processor stand beside those of the clock, because other processes on the machine change them less.

    python benchmarks/bench_frozen_runs.py --file $DATA/tweets/train.csv

Without a file, the texts are random words.
"""

import argparse
import csv
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from common import add_encoder, argument_parser, encoder_folder, machine, prepare, ratios, record
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PrinterCallback

from hf_layerfusion import (
    BertWithPoolingModule,
    LayerFusionTrainer,
    LayerFusionTrainingArguments,
    layer_probe,
)

LENGTH = 64
PLAIN = "plain, all weights trained"
# Those of `hf-layerfusion train` and of its recipe `frozen`.
EPOCHS = {PLAIN: 4.0, "concat": 3.0, "attentive": 3.0, "layer_graph": 3.0}
BATCH, READ = 16, 64
FASTER, PROBE_SECONDS = 10.0, 180.0
Seconds = tuple[float, float]


def made_rows(count: int, tokenizer: Any) -> Dataset:
    """Return random texts of 8 to 32 words that the tokenizer knows, with two classes."""
    words = sorted(word for word in tokenizer.get_vocab() if word.isalpha() and word.isascii())
    lengths = torch.randint(8, 33, (count,)).tolist()
    texts = [" ".join(words[i] for i in torch.randint(len(words), (n,)).tolist()) for n in lengths]
    return Dataset.from_dict({"text": texts, "label": [row % 2 for row in range(count)]})


def read_rows(path: Path, count: int) -> Dataset:
    """Return the first rows of a csv file with the columns `text` and `label`, classes as numbers."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = [
            (row["text"], row["label"]) for row, _ in zip(csv.DictReader(file), range(count), strict=False)
        ]
    names = sorted({label for _, label in rows})
    return Dataset.from_dict(
        {"text": [text for text, _ in rows], "label": [names.index(label) for _, label in rows]}
    )


def timed(call: Callable[[], Any]) -> Seconds:
    """Return the seconds of the clock and of the processor that a call takes."""
    clock, processor = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - clock, time.process_time() - processor


def train(kind: str, encoder: str, tokenizer: Any, rows: Dataset, num_labels: int) -> Seconds:
    """Return the seconds of a whole training; a frozen encoder has read none of the texts before."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = {"learning_rate": 3e-5}
        if kind == PLAIN:
            model = AutoModelForSequenceClassification.from_pretrained(encoder, num_labels=num_labels)
        else:
            model = BertWithPoolingModule.from_pretrained(
                encoder, pooling=kind, token_pooling="mean", num_labels=num_labels
            )
            options = {
                "freeze_encoder": True,
                "cache_frozen_states": folder,
                "frozen_states_dtype": "float16",
            }
            options |= {"learning_rate": 1e-3}
            if kind == "concat":
                options |= {"init_from_probe": True, "learning_rate": 1e-5}
        arguments = LayerFusionTrainingArguments(
            output_dir=folder,
            num_train_epochs=EPOCHS[kind],
            per_device_train_batch_size=BATCH,
            per_device_eval_batch_size=READ,
            train_sampling_strategy="group_by_length",
            warmup_steps=0.1,
            weight_decay=0.01,
            use_cpu=True,
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            report_to="none",
            **options,
        )
        trainer = LayerFusionTrainer(model, arguments, train_dataset=rows, processing_class=tokenizer)
        trainer.remove_callback(PrinterCallback)
        return timed(trainer.train)


def compare_trainings(arguments: argparse.Namespace, encoder: str, tokenizer: Any, texts: Dataset) -> None:
    """Print the seconds of each training and the ratio to the plain one."""
    rows = texts.select(range(arguments.rows)).map(
        lambda batch: tokenizer(batch["text"], truncation=True, max_length=LENGTH), batched=True
    )
    rows = rows.remove_columns("text").rename_column("label", "labels")
    num_labels = max(rows["labels"]) + 1
    seconds: dict[str, list[Seconds]] = {kind: [] for kind in EPOCHS}
    for _ in range(arguments.repeats):
        for kind, found in seconds.items():
            found.append(train(kind, encoder, tokenizer, rows, num_labels))
    print(f"{'training':30}{'epochs':>8}{'clock, s':>10}{'CPU, s':>9}")
    for kind, found in seconds.items():
        clock, processor = (median(column) for column in zip(*found, strict=True))
        print(f"{kind:30}{EPOCHS[kind]:8g}{clock:10.1f}{processor:9.1f}")
    for kind in list(EPOCHS)[1:]:
        for place, what in enumerate(("speed", "speed in CPU seconds")):
            gains = ratios(*([each[place] for each in seconds[name]] for name in (PLAIN, kind)))
            record(
                f"{what} of a training on {len(rows):,} rows, {kind}",
                gains,
                FASTER,
                at_least=True,
                peer=PLAIN,
            )


def main() -> None:
    """Run the benchmark."""
    parser = argument_parser(__doc__, repeats=3)
    add_encoder(parser)
    parser.add_argument("--file", type=Path, help="csv file of text,label (default: random texts)")
    parser.add_argument("--texts", type=int, default=10_000, help="texts of the probe")
    parser.add_argument("--rows", type=int, default=1_000, help="training rows, the first of them")
    parser.add_argument("--only", choices=("probe", "trainings"), help="one of the two alone")
    arguments = parser.parse_args()
    prepare(arguments.threads)
    with encoder_folder(arguments.encoder) as encoder, tempfile.TemporaryDirectory() as folder:
        tokenizer = AutoTokenizer.from_pretrained(encoder)
        texts = (
            made_rows(arguments.texts, tokenizer)
            if arguments.file is None
            else read_rows(arguments.file, arguments.texts)
        )
        if arguments.only != "probe":
            compare_trainings(arguments, encoder, tokenizer, texts)
        if arguments.only != "trainings":
            for call, target in (("first call", PROBE_SECONDS), ("second call", None)):
                clock, _ = timed(lambda: layer_probe(encoder, texts, max_length=LENGTH, cache_dir=folder))
                record(f"seconds of layer_probe on {len(texts):,} texts, {call}", [clock], target)
    print(f"{len(texts):,} texts; {machine()}")


if __name__ == "__main__":
    main()
