"""Benchmark of serving: texts a second and latency of pipelines, as ratios to transformers' pipeline on a plain model.

Half of the texts are tweets of the packaged sample, the other half as long as film reviews: rows of `--reviews`, or
else runs of up to 24 tweets. Lists come in random order, and to transformers' pipeline also sorted by length.
The peers are transformers' pipeline on the plain classifier, and sentence-transformers' `encode` with a logistic
regression. All are timed in turn on the same texts; each ratio is the median over rounds.

Targets: share-3 through the package's pipeline at least 3 times as fast as the plain classifier in transformers'
batches of 32, and no slower than the plain classifier one by one, for lists and for single texts.

    python benchmarks/bench_serving.py --reviews reviews.csv --compile
"""

import csv
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib import resources
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
from common import add_encoder, argument_parser, encoder_folder, in_turns, machine, prepare, ratios, record
from sklearn.linear_model import LogisticRegression
from transformers import AutoModelForSequenceClassification, AutoTokenizer, TextClassificationPipeline

from hf_layerfusion import BertForGRUFusionClassification
from hf_layerfusion.export import OnnxClassifier, export_onnx
from hf_layerfusion.export.onnx_export import QUANTIZED_FILE
from hf_layerfusion.text_pipeline import PreparedTextClassificationPipeline

BATCH, FASTER, SLOWER, LONGEST = 32, 3.0, 1.0, 24
FUSED_COST = 1.19  # multiply-adds of share-3 relative to the plain classifier, as counted by bench_models
STOCK, FUSED = "plain, transformers' pipeline", "share-3"
CUT: dict[str, Any] = {"truncation": True}


def column(file: Any) -> list[str]:
    """Return the column `text` of an open CSV file."""
    return [row["text"] for row in csv.DictReader(file)]


def mixed_texts(count: int, reviews: Path | None) -> list[str]:
    """Return tweets and texts as long as film reviews, in random order."""
    draw = random.Random(0)
    sample = resources.files("hf_layerfusion") / "cli" / "sample" / "train.csv"
    with sample.open(encoding="utf-8") as file:
        tweets = column(file)
    if reviews is None:
        long = [" ".join(draw.choices(tweets, k=draw.randint(2, LONGEST))) for _ in range(count // 2)]
    else:
        with reviews.open(encoding="utf-8", newline="") as file:
            long = draw.sample(column(file), count // 2)
    texts = draw.sample(tweets, count - len(long)) + long
    draw.shuffle(texts)
    return texts


def latencies(classify: Callable[[str], Any], texts: Sequence[str]) -> tuple[float, float]:
    """Return the median and the 99th percentile of the seconds that a text takes by itself."""
    seconds = []
    for text in texts:
        start = time.perf_counter()
        classify(text)
        seconds.append(time.perf_counter() - start)
    return median(seconds), quantiles(seconds, n=100)[-1]


def padding(texts: Sequence[str], tokenizer: Any) -> float:
    """Return how many times as many tokens as there are a model reads in padded batches in the texts' order."""
    lengths = [len(ids) for ids in tokenizer(texts, truncation=True)["input_ids"]]
    batches = [lengths[first : first + BATCH] for first in range(0, len(lengths), BATCH)]
    return sum(len(batch) * max(batch) for batch in batches) / sum(lengths)


def sentence_classifier(encoder: str, length: int, texts: Sequence[str]) -> Callable[..., Any]:
    """Return a classifier of sentence-transformers' mean vectors by logistic regression, on untrained labels."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    transformer = Transformer(encoder, max_seq_length=length)
    pooling = Pooling(transformer.get_embedding_dimension(), "mean")
    model = SentenceTransformer(modules=[transformer, pooling], device="cpu")
    head = LogisticRegression().fit(model.encode(list(texts[:16])), [0, 1] * 8)
    return lambda given, batch_size=BATCH: head.predict(
        model.encode([given] if isinstance(given, str) else given, batch_size=batch_size)
    )


def main() -> None:
    """Run the benchmark."""
    parser = argument_parser(__doc__, repeats=3)
    add_encoder(parser)
    parser.add_argument("--texts", type=int, default=64)
    parser.add_argument("--reviews", type=Path, help="CSV file with a column text")
    parser.add_argument("--compile", action="store_true", help="share-3 through torch.compile, too")
    arguments = parser.parse_args()
    prepare(arguments.threads)
    texts = mixed_texts(arguments.texts, arguments.reviews)
    by_length = sorted(texts, key=len)
    with encoder_folder(arguments.encoder) as encoder, tempfile.TemporaryDirectory() as folder:
        tokenizer = AutoTokenizer.from_pretrained(encoder)
        plain = AutoModelForSequenceClassification.from_pretrained(encoder).eval()
        fused = BertForGRUFusionClassification.from_pretrained(encoder).eval()
        tokenizer.model_max_length = min(512, tokenizer.model_max_length)
        export_onnx(fused, tokenizer, folder, quantize=True)
        made = {"tokenizer": tokenizer, "device": "cpu"}
        stock = TextClassificationPipeline(model=plain, **made)
        ask: dict[str, Callable[..., Any]] = {
            STOCK: lambda given, **size: stock(given, **CUT, **size),
            FUSED: PreparedTextClassificationPipeline(model=fused, **made),
            "share-3, ONNX": OnnxClassifier(folder),
            "share-3, ONNX, int8": OnnxClassifier(folder, QUANTIZED_FILE),
            "sentence-transformers": sentence_classifier(encoder, tokenizer.model_max_length, texts),
        }
        if arguments.compile:
            compiled = torch.compile(fused, dynamic=True)
            ask["share-3, compiled"] = PreparedTextClassificationPipeline(model=compiled, **made)
        calls: dict[tuple[str, str], Callable[[], Any]] = {
            (name, str(size)): partial(call, texts, batch_size=size)
            for name, call in ask.items()
            for size in (1, BATCH)
        }
        calls[STOCK, "sorted"] = lambda: stock(by_length, batch_size=BATCH, **CUT)
        calls[FUSED, "default"] = lambda: ask[FUSED](texts)
        seconds = in_turns(calls, arguments.repeats)
        print(f"{len(texts)} texts, {machine()}")
        print(f"{'':32}{'batch':>8}{'texts/s':>9}{'of plain 1 by 1':>17}{'median ms':>11}{'99 % ms':>9}")
        typical = {}
        for (name, size), times in seconds.items():
            faster = median(ratios(seconds[STOCK, "1"], times))
            line = f"{name:32}{size:>8}{len(texts) / median(times):9.1f}{faster:17.2f}"
            if size == "1":
                typical[name], worst = latencies(ask[name], texts)
                line += f"{1e3 * typical[name]:11.1f}{1e3 * worst:9.1f}"
            print(line)
        peer = "plain, transformers' pipeline"
        ours = {FUSED: FUSED_COST, "share-3, ONNX": None, "share-3, ONNX, int8": None}
        for name, cost in ours.items():
            gain = ratios(seconds[STOCK, str(BATCH)], seconds[name, str(BATCH)])
            bound = None if cost is None else padding(texts, tokenizer) / cost
            record(
                f"speed in batches, {name}",
                gain,
                FASTER,
                at_least=True,
                bound=bound,
                peer=f"{peer}, in batches",
            )
        gain = ratios(seconds["sentence-transformers", str(BATCH)], seconds[FUSED, str(BATCH)])
        record(f"speed in batches, {FUSED}", gain, peer="sentence-transformers and logistic regression")
        times = ratios(seconds[FUSED, "default"], seconds[STOCK, "1"])
        record(f"time of a list, {FUSED}", times, SLOWER, peer=f"{peer}, as called by default")
        for name, bound in ours.items():
            single = [typical[name] / typical[STOCK]]
            record(f"time of a single text, {name}", single, SLOWER, bound=bound, peer=peer)


if __name__ == "__main__":
    main()
