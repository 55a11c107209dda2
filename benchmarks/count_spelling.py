"""Count the words of tweets that spelling correction changes, and print a sample of them to be judged.

Whether a change helps was decided by one reader for a random sample of changed words in context;
`benchmarks/spelling_judged.csv` keeps the verdicts without the tweets. `--sample N` writes such a sample, and
`--judged FILE` reads one with a column `verdict`:

- `helps`: the word was misspelled, and the correction is what the writer meant;
- `harms`: the word was correct (a name, slang, another language, an abbreviation), and its meaning changed;
- `neither`: the word was misspelled and became another wrong one, or the change does not matter.

```
python benchmarks/count_spelling.py --tweets $DATA/tweets/test.csv [--sample 200 --seed 0 > sample.csv]
python benchmarks/count_spelling.py --tweets $DATA/tweets/test.csv --judged benchmarks/spelling_judged.csv
```
"""

import argparse
import csv
import random
import re
import sys
from collections import Counter
from pathlib import Path

import pandas as pd
from scipy.stats import binomtest

from hf_layerfusion.data.spelling import SpellingCorrector
from hf_layerfusion.data.tweets import PRESETS, SPELLING, TweetPreprocessor

COLUMNS = ("before", "word", "after", "correction")
_WORD = re.compile(r"\S+")
_BEYOND = re.compile(r"[^\W\da-zA-Z_]|\w[’´]\w")


def main() -> None:
    """Run the count."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tweets", type=Path, required=True, help="a csv file with a column `text`")
    parser.add_argument("--sample", type=int, default=0, help="changed words to write, for a reader to judge")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--judged", type=Path, help="such a sample with a column `verdict`")
    arguments = parser.parse_args()

    frame = pd.read_csv(arguments.tweets, keep_default_na=False, dtype={"text": str})
    words, beyond, texts, changes = changed_words(frame["text"].tolist())
    if arguments.sample:
        write_sample(changes, arguments.sample, arguments.seed)
        return
    distinct = Counter((word, correction) for _, word, _, correction in changes)
    print(f"tweets: {len(frame):,}, words: {words:,}")
    print(f"changed words: {len(changes):,} ({len(changes) / words:.1%}), {len(distinct):,} distinct")
    changed_beyond = sum(_BEYOND.search(word) is not None for _, word, _, _ in changes)
    print(f"words with a sign beyond ASCII: {beyond:,}, {changed_beyond:,} of them changed")
    print(f"tweets with a changed word: {texts:,} ({texts / len(frame):.1%})")
    if arguments.judged:
        judged = pd.read_csv(arguments.judged, keep_default_na=False, dtype=str)
        for verdict in ("helps", "harms", "neither"):
            count = int((judged["verdict"] == verdict).sum())
            low, high = binomtest(count, len(judged)).proportion_ci(method="wilson")
            print(
                f"{verdict}: {count} of {len(judged)} ({count / len(judged):.0%}, 95 %: {low:.0%} to {high:.0%})"
            )


def changed_words(texts: list[str]) -> tuple[int, int, int, list[tuple[str, str, str, str]]]:
    """Correct the tweets as the preset `paper` does.

    Returns:
        The number of words (runs without white space), of those with a letter or apostrophe beyond ASCII, of tweets
        with a change, and each change with the words around it: `(before, word, after, correction)`.
    """
    steps = [step for step in PRESETS["paper"] if step != SPELLING]
    cleaner, corrector = TweetPreprocessor(steps), SpellingCorrector()
    words, beyond, changed_texts = 0, 0, 0
    changes: list[tuple[str, str, str, str]] = []
    for text in texts:
        cleaned = cleaner.clean(text)
        pairs = list(zip(_WORD.findall(cleaned), _WORD.findall(corrector.correct(cleaned)), strict=True))
        words += len(pairs)
        beyond += sum(_BEYOND.search(old) is not None for old, _ in pairs)
        found = [place for place, (old, new) in enumerate(pairs) if old != new]
        changed_texts += bool(found)
        before = [old for old, _ in pairs]
        for place in found:
            around = " ".join(before[max(0, place - 6) : place]), " ".join(before[place + 1 : place + 7])
            changes.append((around[0], pairs[place][0], around[1], pairs[place][1]))
    return words, beyond, changed_texts, changes


def write_sample(changes: list[tuple[str, str, str, str]], size: int, seed: int) -> None:
    """Write a random sample of changes to standard output."""
    writer = csv.writer(sys.stdout)
    writer.writerow(COLUMNS)
    writer.writerows(random.Random(seed).sample(changes, min(size, len(changes))))


if __name__ == "__main__":
    main()
