"""Benchmark of serving: texts a second and latency of pipelines, as ratios to transformers' pipeline on a plain model.

The texts are of mixed lengths, half of them tweets of the packaged sample and half of them runs of several. The plain
classifier is asked through transformers' own pipeline; plain and share-3 are asked through the package's, which batches
lists by length, and share-3 through its ONNX graph. All are timed in turn; each ratio is the median over rounds.

Targets: share-3 in batches of 32 at least 3 times as fast as the plain classifier in transformers' batches of 32, and
one by one at most 1.3 times as slow.

    python benchmarks/bench_serving.py
"""

import csv
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib import resources
from typing import Any

from common import add_encoder, argument_parser, encoder_folder, in_turns, machine, prepare, ratio
from transformers import AutoModelForSequenceClassification, AutoTokenizer, TextClassificationPipeline

from hf_layerfusion import BertForGRUFusionClassification
from hf_layerfusion.export import OnnxClassifier, export_onnx
from hf_layerfusion.text_pipeline import PreparedTextClassificationPipeline

BATCH, FASTER, SLOWER = 32, 3.0, 1.3
STOCK, FUSED = "plain, transformers' pipeline", "share-3"


def mixed_texts(count: int) -> list[str]:
    """Return tweets and runs of up to 12 tweets, in random order."""
    draw = random.Random(0)
    sample = resources.files("hf_layerfusion") / "cli" / "sample" / "train.csv"
    with sample.open(encoding="utf-8", newline="") as file:
        tweets = [row["text"] for row in csv.DictReader(file)]
    return [" ".join(draw.choices(tweets, k=1 if i % 2 else draw.randint(2, 12))) for i in range(count)]


def latencies(classify: Callable[[str], Any], texts: Sequence[str]) -> tuple[float, float]:
    """Return the median and the 99th percentile of the seconds that a text takes by itself."""
    seconds = []
    for text in texts:
        start = time.perf_counter()
        classify(text)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), statistics.quantiles(seconds, n=100)[-1]


def main() -> None:
    """Run the benchmark."""
    parser = argument_parser(__doc__, repeats=5)
    add_encoder(parser)
    parser.add_argument("--texts", type=int, default=200)
    arguments = parser.parse_args()
    prepare(arguments.threads)
    texts = mixed_texts(arguments.texts)
    with encoder_folder(arguments.encoder) as encoder, tempfile.TemporaryDirectory() as folder:
        tokenizer = AutoTokenizer.from_pretrained(encoder)
        plain = AutoModelForSequenceClassification.from_pretrained(encoder).eval()
        fused = BertForGRUFusionClassification.from_pretrained(encoder).eval()
        most = min(512, tokenizer.model_max_length)
        tokenizer.model_max_length = most
        export_onnx(fused, tokenizer, folder)
        pipelines: dict[str, Any] = {
            STOCK: TextClassificationPipeline(model=plain, tokenizer=tokenizer, device="cpu"),
            FUSED: PreparedTextClassificationPipeline(model=fused, tokenizer=tokenizer, device="cpu"),
            "share-3, ONNX": OnnxClassifier(folder),
        }
        print(f"{len(texts)} texts, {machine()}")
        seconds: dict[tuple[str, int], list[float]] = in_turns(
            {
                (name, size): lambda ask=ask, size=size: ask(texts, batch_size=size, truncation=True)
                for name, ask in pipelines.items()
                for size in (1, BATCH)
            },
            arguments.repeats,
        )
        print(
            "pipeline                        batch  texts/s  of transformers' at that batch  median ms  99 % ms"
        )
        for (name, size), times in seconds.items():
            speed = len(texts) / statistics.median(times)
            relative = ratio(seconds[STOCK, size], times)
            line = f"{name:32}{size:5}{speed:9.1f}{relative:18.2f}"
            if size == 1:
                typical, worst = latencies(
                    lambda text, name=name: pipelines[name](text, truncation=True), texts
                )
                line += f"{1e3 * typical:25.1f}{1e3 * worst:9.1f}"
            print(line)
        batched = ratio(seconds[STOCK, BATCH], seconds[FUSED, BATCH])
        alone = ratio(seconds[FUSED, 1], seconds[STOCK, 1])
        print(f"share-3 in batches: {batched:.2f} times as fast (target: at least {FASTER})")
        print(f"share-3 one by one: {alone:.2f} times as slow (target: at most {SLOWER})")


if __name__ == "__main__":
    main()
