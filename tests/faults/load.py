"""Many calls at once, and many texts one after another."""

import random
import resource
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from hf_layerfusion import (
    BertForGRUFusionClassification,
    CerbertusForMultitask,
    Ensemble,
    MultitaskPipeline,
    add_adapters,
)
from tests.faults.rows import Row
from tests.tiny import tiny_texts

NUM_THREADS = 8
SMALL = {"fusion_hidden_size": 8, "downstream_hidden_size": 8, "dense_size": 8, "num_groups": 1}
TASKS = {name: {"labels": ["negative", "positive"]} for name in ("one", "two")}


def callables(data: Path) -> dict[str, Callable[[str, int], Any]]:
    """What answers a text, for every kind of model: takes a text and a number that may choose a task."""
    torch.manual_seed(0)
    encoder, names = str(data / "encoder"), list(TASKS)
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    one = BertForGRUFusionClassification.from_pretrained(encoder, num_labels=2, **SMALL).eval()
    several = CerbertusForMultitask.from_pretrained(encoder, tasks=TASKS, num_task_layers=1).eval()
    adapted = add_adapters(
        CerbertusForMultitask.from_pretrained(encoder, tasks=TASKS, num_task_layers=0),
        LoraConfig(r=2, init_lora_weights=False),
    ).eval()
    ensemble = Ensemble.of([str(data / "member-0"), str(data / "member-1")])
    classify = pipeline("text-classification", model=one, tokenizer=tokenizer, device="cpu")
    ask, ask_adapted = MultitaskPipeline(several, tokenizer), MultitaskPipeline(adapted, tokenizer)

    def logits(model: Any, text: str, **options: Any) -> list[float]:
        with torch.no_grad():
            return model(**tokenizer(text, return_tensors="pt"), **options).logits.flatten().tolist()

    return {
        "model": lambda text, _: logits(one, text),
        "pipeline": lambda text, _: classify(text),
        "model of tasks": lambda text, number: logits(several, text, task=names[number % 2]),
        "pipeline of tasks": lambda text, number: ask(text, tasks=[names[number % 2]]),
        "adapters by task": lambda text, number: logits(adapted, text, task=names[number % 2]),
        "pipeline of adapters": lambda text, number: ask_adapted(text, tasks=[names[number % 2]]),
        "ensemble": lambda text, _: ensemble(text),
    }


def threads(row: Row, number: int, rng: random.Random, folder: Path, data: Path) -> None:
    """Calls every kind of model from eight threads, and compares each answer with that of a call by itself."""
    texts = [text for text, _ in tiny_texts(20, 7)]
    for name, answer in callables(data).items():
        asked = [(rng.randrange(len(texts)), rng.randrange(2)) for _ in range(max(1, number // 7))]
        alone = {pair: answer(texts[pair[0]], pair[1]) for pair in sorted(set(asked))}
        with ThreadPoolExecutor(NUM_THREADS) as pool:
            found = list(pool.map(lambda pair, answer=answer: answer(texts[pair[0]], pair[1]), asked))
        wrong = sum(alone[pair] != each for pair, each in zip(asked, found, strict=True))
        row.count("made", len(asked))
        row.count("equal to calls one by one", len(asked) - wrong)
        if wrong:
            row.count("other", wrong)
            row.tell(f"{name}: {wrong} of {len(asked)} answers differ")


def memory(row: Row, number: int, rng: random.Random, folder: Path, data: Path) -> None:
    """Answers many texts one after another, the last nine tenths of which must not make the process grow."""
    model = AutoModelForSequenceClassification.from_pretrained(data / "member-0")
    tokenizer = AutoTokenizer.from_pretrained(data / "encoder")
    classify = pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")
    texts = [text for text, _ in tiny_texts(min(number, 500), 8)]
    begun = 0
    for at in range(number):
        classify(texts[at % len(texts)])
        if at == number // 10:
            begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - begun) // 1024
    row.count("answered", number)
    row.count("MiB of growth over the last nine tenths", growth)
    if growth > 20:
        row.count("too many MiB", growth - 20)
