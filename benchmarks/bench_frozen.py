"""Benchmark of the cache of frozen states: training time and memory as ratios.

It times an epoch of `LayerFusionTrainer` with and without `--cache_frozen_states`, once the cache is written, for
poolings over [CLS] (target: at least 10 times as long without) and for share-3. It also compares the epoch with the
cache to training fuser and head alone, in a plain loop over states in memory (target for share-3: at most 1.2 times).
All are timed in turn, and each ratio is the median over rounds. The texts are random.

```
python benchmarks/bench_frozen.py
```
"""

import tempfile
import time
from typing import Any

import torch
from common import add_encoder, argument_parser, encoder_folder, machine, prepare, ratio, ratios, record
from datasets import Dataset
from transformers import AutoTokenizer, PreTrainedModel, PrinterCallback

from hf_layerfusion import (
    BertForGRUFusionClassification,
    BertWithPoolingModule,
    LayerFusionTrainer,
    LayerFusionTrainingArguments,
)

BATCH, RATE = 32, 1e-3
MODELS: dict[str, tuple[Any, dict[str, Any], int]] = {
    "bert-attention": (BertWithPoolingModule, {"pooling": "attention"}, 64),
    "bert-lstm": (BertWithPoolingModule, {"pooling": "lstm"}, 64),
    "grubert-share-3": (BertForGRUFusionClassification, {"fusion": "share"}, 40),
}
SAVING, ABOVE_BOUND = 10.0, 1.2


def made_texts(count: int, length: int, vocabulary: int) -> Dataset:
    """Return random texts of half to all of `length` tokens, the first token always the same."""
    lengths = torch.randint(length // 2, length + 1, (count,)).tolist()
    ids = [[101, *torch.randint(1000, vocabulary, (n - 1,)).tolist()] for n in lengths]
    masks = [[1] * n for n in lengths]
    return Dataset.from_dict(
        {"input_ids": ids, "attention_mask": masks, "labels": [i % 2 for i in range(count)]}
    )


def make_trainer(
    model: PreTrainedModel, tokenizer: Any, texts: Dataset, folder: str, cache: str | None
) -> LayerFusionTrainer:
    """Return a Trainer for one epoch over `texts`, in order."""
    arguments = LayerFusionTrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=BATCH,
        per_device_eval_batch_size=BATCH,
        num_train_epochs=1,
        learning_rate=RATE,
        freeze_encoder=True,
        cache_frozen_states=cache,
        train_sampling_strategy="sequential",
        use_cpu=True,
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        report_to="none",
    )
    trainer = LayerFusionTrainer(model, arguments, train_dataset=texts, processing_class=tokenizer)
    trainer.remove_callback(PrinterCallback)
    return trainer


class Epoch:
    """An epoch of a Trainer, timed from its first batch to its last step without setup."""

    def __init__(self, trainer: LayerFusionTrainer) -> None:
        self.trainer = trainer
        self.seconds = 0.0
        run_epoch = trainer._run_epoch

        def timed(*args: Any, **kwargs: Any) -> None:
            start = time.perf_counter()
            run_epoch(*args, **kwargs)
            self.seconds = time.perf_counter() - start

        trainer._run_epoch = timed  # type: ignore[method-assign]

    def __call__(self) -> float:
        self.trainer.train()
        return self.seconds


def loop_over_states(trainer: LayerFusionTrainer) -> Any:
    """Return a function that trains fuser and head on the same batches of preloaded states, as a lower bound."""
    model = trainer.model
    batches = list(trainer.get_train_dataloader())
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], RATE)

    def epoch() -> float:
        model.train()
        start = time.perf_counter()
        for batch in batches:
            model(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return time.perf_counter() - start

    return epoch


def main() -> None:
    """Run the benchmark."""
    parser = argument_parser(__doc__, repeats=5)
    add_encoder(parser)
    parser.add_argument("--batches", type=int, default=12, help="batches in an epoch")
    arguments = parser.parse_args()
    prepare(arguments.threads)
    print(f"{'':18}{'tokens':>8}{'without / with':>16}{'target':>8}{'with / alone':>14}{'target':>8}")
    with encoder_folder(arguments.encoder) as encoder, tempfile.TemporaryDirectory() as folder:
        tokenizer = AutoTokenizer.from_pretrained(encoder)
        for name, (model_class, settings, length) in MODELS.items():
            texts = made_texts(arguments.batches * BATCH, length, len(tokenizer))
            made = {
                kind: make_trainer(
                    model_class.from_pretrained(encoder, **settings), tokenizer, texts, folder, cache
                )
                for kind, cache in {"without": None, "with": folder, "alone": folder}.items()
            }
            made["with"].train()  # writes the cache
            calls = {
                "without": Epoch(made["without"]),
                "with": Epoch(made["with"]),
                "alone": loop_over_states(made["alone"]),
            }
            seconds: dict[str, list[float]] = {kind: [] for kind in calls}
            for turn in range(arguments.repeats + 1):
                for kind, call in calls.items():
                    elapsed = call()
                    if turn:
                        seconds[kind].append(elapsed)
            saved, above = (
                ratio(seconds["without"], seconds["with"]),
                ratio(seconds["with"], seconds["alone"]),
            )
            pooled = model_class is BertWithPoolingModule
            record(
                f"epoch without / with cached states, {name}",
                ratios(seconds["without"], seconds["with"]),
                SAVING if pooled else None,
                at_least=True,
                peer="the same training without the cache",
            )
            record(
                f"epoch on cached states, {name}",
                ratios(seconds["with"], seconds["alone"]),
                None if pooled else ABOVE_BOUND,
                bound=1.0,
                peer="a loop over states in memory",
            )
            line = f"{name:18}{length:8}{saved:16.1f}{SAVING if pooled else '':>8}{above:14.2f}"
            print(line + f"{'' if pooled else ABOVE_BOUND:>8}")
    print(f"batches of {BATCH} texts, {machine()}")


if __name__ == "__main__":
    main()
