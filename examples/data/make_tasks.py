"""Makes the data of the tutorials: made-up reviews with the sentiment of aspects, and pairs of questions.

Usage: python examples/data/make_tasks.py [FOLDER]    (default: the folder of this file)

The test files have aspects, wordings and actions of their own, so that a model cannot score there by remembering.
"""

import csv
import random
import sys
from collections.abc import Iterator
from pathlib import Path

SEED = 20261129
SIZES = {"train": 600, "test": 200}
Row = tuple[str, str, str]

ASPECTS = {
    "train": "pasta soup waiter service room bed wine bill breakfast music garden parking staff dessert view".split(),
    "test": "pizza coffee receptionist price shower terrace menu".split(),
}
JUDGEMENTS: dict[str, dict[str, list[str]]] = {
    "train": {
        "positive": [
            "the {aspect} was wonderful",
            "the {aspect} made us happy",
            "i loved the {aspect}",
            "the {aspect} was better than we had hoped",
            "you have to try the {aspect}",
            "the {aspect} could not have been nicer",
        ],
        "neutral": [
            "the {aspect} was as usual",
            "we asked about the {aspect}",
            "the {aspect} was the same as last year",
            "somebody mentioned the {aspect}",
            "the {aspect} comes first",
        ],
        "negative": [
            "the {aspect} was awful",
            "the {aspect} ruined our evening",
            "i hated the {aspect}",
            "the {aspect} was worse than we had feared",
            "stay away from the {aspect}",
            "the {aspect} could not have been ruder or duller",
        ],
    },
    "test": {
        "positive": ["the {aspect} was a delight", "we keep praising the {aspect}", "what a great {aspect}"],
        "neutral": ["the {aspect} is on the left", "we talked about the {aspect}"],
        "negative": [
            "the {aspect} was a disgrace",
            "we complained about the {aspect}",
            "what a bad {aspect}",
        ],
    },
}
JOINS = ["{a}, but {b}", "{a} and {b}", "{a}; {b}", "although {a}, {b}", "{a}, while {b}"]

ACTIONS = {
    "train": (
        "boil an egg/learn the guitar/grow tomatoes/reset my password/paint a wall/train a puppy/bake bread/"
        "fix a flat tyre/write a novel/sell my car/build a shed/remove a stain/run a marathon/knit a scarf/"
        "learn french/clean the oven"
    ).split("/"),
    "test": "brew beer/repair a roof/learn to swim/plant roses/make yoghurt/move abroad".split("/"),
}
QUESTIONS = {
    "how": [
        "how do i {action}?",
        "what is the best way to {action}?",
        "can someone tell me how to {action}?",
        "any tips for people who want to {action}?",
    ],
    "time": [
        "how long does it take to {action}?",
        "how many hours do i need to {action}?",
        "is it quick to {action}?",
    ],
    "cost": [
        "how much does it cost to {action}?",
        "is it expensive to {action}?",
        "what do people pay to {action}?",
    ],
    "reason": ["why should i {action}?", "what are good reasons to {action}?", "is it worth it to {action}?"],
}


def reviews(split: str, rng: random.Random) -> Iterator[Row]:
    """Endless rows of a sentence, an aspect in it and its sentiment; each sentence judges two aspects."""
    labels = list(JUDGEMENTS[split])
    while True:
        aspects = rng.sample(ASPECTS[split], 2)
        sentiments = [rng.choice(labels) for _ in aspects]
        parts = [
            rng.choice(JUDGEMENTS[split][sentiment]).format(aspect=aspect)
            for aspect, sentiment in zip(aspects, sentiments, strict=True)
        ]
        sentence = rng.choice(JOINS).format(a=parts[0], b=parts[1])
        for aspect, sentiment in zip(aspects, sentiments, strict=True):
            yield sentence, aspect, sentiment


def questions(split: str, rng: random.Random) -> Iterator[Row]:
    """Endless rows of two questions that ask the same thing, or another thing, or about another action."""
    while True:
        intent, action = rng.choice(list(QUESTIONS)), rng.choice(ACTIONS[split])
        first, second = rng.sample(QUESTIONS[intent], 2)
        yield first.format(action=action), second.format(action=action), "duplicate"
        others = [each for each in ACTIONS[split] if each != action]
        intents = [each for each in QUESTIONS if each != intent]
        if rng.random() < 0.5:
            second = rng.choice(QUESTIONS[intent]).format(action=rng.choice(others))
        else:
            second = rng.choice(QUESTIONS[rng.choice(intents)]).format(action=action)
        yield first.format(action=action), second, "different"


def unlike(rows: Iterator[Row], size: int) -> list[Row]:
    """The first `size` rows of which none is another's copy."""
    found: dict[tuple[str, str], Row] = {}
    while len(found) < size:
        row = next(rows)
        found.setdefault(row[:2], row)
    return list(found.values())


def write_tasks(folder: Path) -> list[Path]:
    """Write `aspects_train.csv`, `aspects_test.csv`, `questions_train.csv` and `questions_test.csv` into `folder`."""
    kinds = {
        "aspects": (reviews, ("sentence", "aspect", "label")),
        "questions": (questions, ("sentence1", "sentence2", "label")),
    }
    paths = []
    for kind, (source, columns) in kinds.items():
        for split, size in SIZES.items():
            rows = unlike(source(split, random.Random(f"{SEED}:{kind}:{split}")), size)
            path = folder / f"{kind}_{split}.csv"
            with path.open("w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerows([columns, *rows])
            paths.append(path)
    return paths


if __name__ == "__main__":
    for written in write_tasks(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent):
        print(written)
