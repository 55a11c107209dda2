"""Statistics of words per text by class, before and after cleaning (GRUBERT, appendix A.1, Table 4)."""

import re
from collections.abc import Hashable, Sequence
from typing import TypeAlias

import numpy as np

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)

Statistics: TypeAlias = dict[Hashable, dict[str, float]]
WordCounts: TypeAlias = dict[Hashable, np.ndarray]


def word_counts(texts: Sequence[str], labels: Sequence[Hashable]) -> WordCounts:
    """Return the number of words (runs of non-whitespace) of each text, by class.

    Returns:
        `{label: int array [number of texts]}`, labels in ascending order, numbers before names.

    Raises:
        ValueError: If there are no texts, or the numbers of texts and labels differ.
    """
    if len(texts) != len(labels):
        raise ValueError(f"labels must be one a text. Found {len(labels)} labels and {len(texts)} texts")
    if not texts:
        raise ValueError("texts must not be empty. Found 0 texts: give the rows of a split")
    counts: dict[Hashable, list[int]] = {}
    for text, label in zip(texts, labels, strict=True):
        counts.setdefault(label, []).append(len(text.split()))
    return {label: np.array(counts[label]) for label in sorted(counts, key=_by_number_or_name)}


def corpus_statistics(texts: Sequence[str], labels: Sequence[Hashable]) -> Statistics:
    """Return the statistics of Table 4 for each class: `texts`, and `mean`, `sd`, `max`, `min`, `q0.05` … `q0.95` of
    words per text.

    `sd` is the population standard deviation (divided by n); quantiles are interpolated linearly. Values are plain
    Python numbers. Arguments and errors are those of `word_counts`.
    """
    return {label: _describe(counts) for label, counts in word_counts(texts, labels).items()}


def statistics_table(before: Statistics, after: Statistics) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of Table 4: a column for each class before and after cleaning (`–` if it is gone),
    or one for each class if cleaning changed none of the figures.

    Class names are unescaped; the caller must escape them for its format.
    """
    splits = ((", before", before), (", after", after)) if before != after else (("", after),)
    columns = [(f"{label}{when}", split.get(label)) for label in before for when, split in splits]
    rows = [
        [row, *("–" if values is None else f"{values[row]:,.10g}" for _, values in columns)]
        for row in next(iter(before.values()))
    ]
    return ["words a text", *(name for name, _ in columns)], rows


def _describe(counts: np.ndarray) -> dict[str, float]:
    quantiles = {f"q{share}": float(np.quantile(counts, share)) for share in QUANTILES}
    return {
        "texts": len(counts),
        "mean": round(float(counts.mean()), 2),
        "sd": round(float(counts.std()), 2),
        "max": int(counts.max()),
        "min": int(counts.min()),
        **quantiles,
    }


def _by_number_or_name(label: Hashable) -> tuple[bool, float, str]:
    is_number = re.fullmatch(r"[+-]?\d+(\.\d+)?", str(label))  # labels of a file are strings
    return (False, float(str(label)), str(label)) if is_number else (True, 0.0, str(label))
