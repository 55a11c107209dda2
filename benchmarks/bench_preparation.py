"""Benchmark of text preparation: tweets per second, and the spelling corrector against pyspellchecker.

Without `--tweets` the texts are random words of the dictionary, some misspelled. All times are of one process on one
core, from a single run. pyspellchecker takes up to a second for a word, so it corrects only a sample (`--compare`).
It breaks ties by hash order; such a correction counts as equal if ours is the smallest of its most frequent
candidates.

```
python benchmarks/bench_preparation.py [--tweets F.csv] [--words 5000] [--compare 100]
```
"""

import argparse
import random
import resource
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from common import record
from spellchecker import SpellChecker
from tqdm.auto import tqdm

from hf_layerfusion.data.spelling import SpellingCorrector
from hf_layerfusion.data.tweets import PRESETS, SPELLING, TweetPreprocessor

SEED = 0


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tweets", type=Path, help="a csv file with a column `text`")
    parser.add_argument("--words", type=int, default=5000, help="distinct unknown words to correct")
    parser.add_argument("--compare", type=int, default=100, help="words that pyspellchecker corrects as well")
    arguments = parser.parse_args()

    checker = SpellChecker()
    if arguments.tweets:
        texts = pd.read_csv(arguments.tweets, keep_default_na=False, dtype={"text": str})["text"].tolist()
    else:
        texts = made_tweets(sorted(checker.word_frequency.words()), count=20_000)

    unknown = sorted(prepare_all(texts))
    print(f"{len(unknown):,} distinct unknown words")
    sample = random.Random(SEED).sample(unknown, min(arguments.words, len(unknown)))
    compare_with_pyspellchecker(sample, checker, arguments.compare)
    # Linux counts kibibytes, macOS bytes.
    unit = 2**20 if sys.platform == "darwin" else 2**10
    peaks = [
        resource.getrusage(who).ru_maxrss / unit for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    ]
    print(f"peak memory: {peaks[0]:,.0f} MiB, of child processes {peaks[1]:,.0f} MiB")


def prepare_all(texts: Sequence[str]) -> dict[str, str]:
    """Prepare every text as in the paper, without and with spelling; return the unknown words and their corrections."""
    corrector = SpellingCorrector()
    without_spelling = [step for step in PRESETS["paper"] if step != SPELLING]
    for name, preprocessor in (
        ("without spelling", TweetPreprocessor(without_spelling)),
        ("with spelling", TweetPreprocessor("paper", corrector)),
    ):
        clock = Clock()
        for text in tqdm(texts, name):
            preprocessor.clean(text)
        wall, cpu = clock.seconds()
        print(f"{name}: {len(texts):,} tweets in {wall:.1f} s (CPU {cpu:.1f} s)")
        record(f"tweets a second, {name}", [len(texts) / wall])
    return corrector.corrections


def compare_with_pyspellchecker(words: Sequence[str], checker: SpellChecker, compare: int) -> None:
    """Time both on the same words, building our index included, and count equal corrections."""
    clock = Clock()
    answers = SpellingCorrector().correct_many(words)
    wall, cpu = clock.seconds()
    ours = cpu / len(words)
    print(
        f"ours: {len(words):,} words and the index in {wall:.2f} s (CPU {cpu:.2f} s), CPU {ours * 1e3:.2f} ms a word"
    )

    compared = words[:compare]
    times: list[float] = []
    same = ties = 0
    for word in tqdm(compared, "pyspellchecker", unit="word"):
        clock = Clock()
        theirs = checker.correction(word) or word
        times.append(clock.seconds()[1])
        if answers[word] == theirs:
            same += 1
        else:
            as_frequent = [
                known for known in checker.candidates(word) or () if checker[known] == checker[theirs]
            ]
            ties += answers[word] == min(as_frequent, default=word)
    mean, median = statistics.mean(times), statistics.median(times)
    print(
        f"pyspellchecker: {len(compared):,} words, CPU {mean * 1e3:.0f} ms a word (median {median * 1e3:.0f} ms)"
    )
    record("speed of correcting a word", [mean / ours], peer="pyspellchecker")
    print(
        f"equal answers: {same + ties:,} of {len(compared):,} (ties that hash order broke otherwise: {ties:,})"
    )


class Clock:
    """Wall and CPU seconds since creation. On a busy machine only CPU seconds measure the work."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def seconds(self) -> tuple[float, float]:
        """Return the wall and CPU seconds since creation."""
        return time.perf_counter() - self._wall, time.process_time() - self._cpu


def made_tweets(dictionary: Sequence[str], count: int) -> list[str]:
    """Return texts of 13 words, some with letters lost, doubled or swapped, with names and links between them."""
    chance = random.Random(SEED)

    def word() -> str:
        letters = chance.choice(dictionary)
        for _ in range(chance.choice((0, 0, 0, 0, 0, 0, 0, 1, 2))):
            at = chance.randrange(max(1, len(letters)))
            pair = letters[at : at + 2]
            letters = (
                letters[:at] + chance.choice((pair[1:], pair[:1] + pair, pair[::-1])) + letters[at + 2 :]
            )
        return letters

    extras = ("@somebody", "http://example.org/1", "#topic", "2moro")
    return [" ".join([chance.choice(extras), *(word() for _ in range(12))]) for _ in range(count)]


if __name__ == "__main__":
    main()
