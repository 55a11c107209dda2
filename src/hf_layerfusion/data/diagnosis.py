"""Checks of data before training: possible mistakes in the texts and labels, each with its rows."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from datasets import Dataset

from hf_layerfusion.data.arrow_tables import column_values
from hf_layerfusion.data.label_names import raw_labels

__all__ = ["Finding", "diagnose", "guess_language", "label_counts"]

_SHOWN_ROWS = 5
_RARE = 0.02
_MOST_CUT = 0.01
_DEFECTS = {
    "characters of a wrong decoding, such as â€™ or Ã©": re.compile(
        "â€.|Ã[\x80-\xbf©¨ª«¡³¶¼±]|ï»¿|Â[\xa0£°»«]"
    ),
    "replacement characters (U+FFFD), where a character was lost": re.compile("\ufffd"),
    "HTML entities, such as &amp;": re.compile(r"&(?:amp|lt|gt|quot|apos|nbsp|#\d+);"),
    "HTML tags, such as <br>": re.compile(r"</?(?:br|p|div|span|a|b|i)\b[^>]*>", re.IGNORECASE),
    "control characters": re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]"),
}
_WORDS = {
    "en": "the and is of to in it that was for",
    "de": "der die und ist das nicht ein mit ich zu",
    "fr": "le la et les est des une dans que pas",
    "es": "el la de que y los una por con las",
    "it": "il di che la e un per una non sono",
    "pt": "o de que e do da em um para não",
    "nl": "de het een en van ik is dat niet op",
}
_LETTERS = re.compile(r"\w+")


class Finding(NamedTuple):
    """Something that may be wrong.

    Attributes:
        split: the split that it is in.
        what: it, in words.
        number: rows that have it; 0 where it is not of single rows.
        rows: numbers of the first of them, as a spreadsheet counts.
    """

    split: str
    what: str
    number: int
    rows: list[int]

    @property
    def line(self) -> str:
        """The finding in words with its rows, without the split."""
        more = ", …" if self.number > len(self.rows) else ""
        where = f" (rows {', '.join(map(str, self.rows))}{more})" if self.rows else ""
        return f"{f'{self.number:,} ' if self.number else ''}{self.what}{where}"


def label_counts(split: Dataset) -> Counter[str]:
    """Return how many rows have each label, the most frequent first; of lists each label counts."""
    counts: Counter[str] = Counter()
    for label in raw_labels(split):
        counts.update(map(str, label) if isinstance(label, list) else [str(label)])
    return Counter(dict(counts.most_common()))


def diagnose(
    splits: Mapping[str, Dataset],
    columns: Sequence[str],
    lengths: Mapping[str, Sequence[int]] | None = None,
    limit: int | None = None,
) -> list[Finding]:
    """Look for duplicates, conflicting labels, rows that splits share, rare classes, bad encoding and long texts.

    Args:
        splits: examples by name, `train` first; columns: the texts, `label` where there are labels, `row`.
        columns: the text columns, one or two.
        lengths: tokens of each row by split.
        limit: how many of them a model takes.

    Returns:
        The findings, by split.
    """
    findings: list[Finding] = []
    seen: dict[str, dict[Hashable, str]] = {"exact": {}, "plain": {}}
    for name, split in splits.items():
        texts = list(zip(*(column_values(split, column) for column in columns), strict=True))
        numbers = (
            column_values(split, "row") if "row" in split.column_names else list(range(1, len(split) + 1))
        )

        add = partial(_add, findings, name, numbers)

        _look_at_rows(texts, raw_labels(split) if "label" in split.column_names else None, add)
        plain = [tuple(_plain(text) for text in row) for row in texts]
        for kind, keys in (("exact", texts), ("plain", plain)):
            earlier = seen[kind]
            what = (
                "stand in {} too"
                if kind == "exact"
                else "differ from a text of {} in capitals or signs alone"
            )
            places = defaultdict(list)
            for place, key in enumerate(keys):
                if key in earlier and not (kind == "plain" and texts[place] in seen["exact"]):
                    places[earlier[key]].append(place)
            for other, there in places.items():
                add(f"texts {what.format(other)}", there)
        for kind, keys in (("plain", plain), ("exact", texts)):
            for key in keys:
                seen[kind].setdefault(key, name)
        if "label" in split.column_names:
            findings += _rare_classes(name, split)
        if lengths is not None and limit is not None:
            long = [place for place, length in enumerate(lengths[name]) if length > limit]
            if len(long) > _MOST_CUT * len(texts):
                add(
                    f"texts have more than {limit} tokens and are cut, {len(long) / len(texts):.0%} of all "
                    "(--window_size reads them in windows)",
                    long,
                )
    findings += _unlike_classes(splits)
    return findings


def _add(
    findings: list[Finding], name: str, numbers: Sequence[int], what: str, places: Iterable[int]
) -> None:
    """Append a finding in the rows at `places`, if there are any."""
    rows = [numbers[place] for place in places]
    if rows:
        findings.append(Finding(name, what, len(rows), rows[:_SHOWN_ROWS]))


def _look_at_rows(
    texts: Sequence[tuple[str, ...]], labels: Sequence[Any] | None, add: Callable[..., None]
) -> None:
    """Find repeated texts, conflicting labels and defects within one split."""
    first: dict[Hashable, int] = {}
    repeated, conflicting = [], []
    for place, row in enumerate(texts):
        before = first.setdefault(row, place)
        if before != place:
            repeated.append(place)
            if labels is not None and labels[before] != labels[place]:
                conflicting.append(place)
    add("texts stand in an earlier row too", repeated)
    add("of these have another label there", conflicting)
    for what, pattern in _DEFECTS.items():
        add(
            f"texts hold {what}",
            [place for place, row in enumerate(texts) if any(map(pattern.search, row))],
        )


def _rare_classes(name: str, split: Dataset) -> list[Finding]:
    labels = raw_labels(split)
    if any(isinstance(label, list | float) for label in labels):
        return []
    counts = label_counts(split)
    rare = [label for label, count in counts.items() if count < max(2, _RARE * len(labels))]
    shown = ", ".join(f"{label} {counts[label]}" for label in rare[:_SHOWN_ROWS])
    return [Finding(name, f"classes are rare: {shown}", 0, [])] if rare else []


def _unlike_classes(splits: Mapping[str, Dataset]) -> list[Finding]:
    """Find classes of other splits that `train` lacks."""
    if "train" not in splits or "label" not in splits["train"].column_names:
        return []
    if any(isinstance(label, float) for label in raw_labels(splits["train"])):
        return []
    known = label_counts(splits["train"]).keys()
    found = []
    for name, split in splits.items():
        if "label" in split.column_names and (unknown := sorted(label_counts(split).keys() - known)):
            listed = ", ".join(unknown[:_SHOWN_ROWS])
            found.append(Finding(name, f"classes that train does not have: {listed}", 0, []))
    return found


def _plain(text: str) -> str:
    """Return a text in small letters, composed alike, without signs and blanks between its words."""
    return " ".join(_LETTERS.findall(unicodedata.normalize("NFKC", text).casefold()))


def guess_language(texts: Sequence[str]) -> str | None:
    """Return the code of the language whose most frequent words the texts hold most, of seven of Europe; None where
    these are few, as in other languages."""
    words = Counter(word for text in texts for word in _LETTERS.findall(text.casefold()))
    shares = {code: sum(words[word] for word in known.split()) for code, known in _WORDS.items()}
    code = max(shares, key=lambda each: shares[each])
    return code if shares[code] > 0.05 * words.total() else None
