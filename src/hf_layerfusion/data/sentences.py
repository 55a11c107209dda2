"""Splitting of texts into sentences."""

import re
from itertools import pairwise

_LINE_BREAK = re.compile(r"[\r\n]+")
# A final mark and any closing quotes and brackets, then white space, which Chinese and Japanese do without.
_SENTENCE_END = re.compile(r"([.!?…][\"'”’»)\]]*)\s+|([。！？][”’」』]*)\s*")


def split_sentences(text: str) -> list[str]:
    """Return the sentences of a text, in order and without surrounding white space.

    A text of several lines has one sentence per line, so that a corpus that is already split stays as it is. In a text
    of one line, a sentence ends at `.`, `!`, `?` or `…`, with any closing quotes and brackets, before white space. The
    rule knows no abbreviations: "Dr. No" becomes two sentences.
    """
    lines = [line.strip() for line in _LINE_BREAK.split(text) if line.strip()]
    if len(lines) != 1:
        return lines
    marked = _SENTENCE_END.sub(lambda end: f"{end[1] or end[2]}\n", lines[0])
    return [sentence.strip() for sentence in marked.split("\n") if sentence.strip()]


def adjacent_sentences(text: str) -> list[tuple[str, str]]:
    """Return the pairs of adjacent sentences of a text; none for a text of one sentence."""
    sentences = split_sentences(text)
    return list(pairwise(sentences))


def sentence_parts(text: str, words: int) -> list[list[str]]:
    """Divide the sentences of a text into parts, each of which ends with the sentence that brings it to `words`
    words."""
    parts: list[list[str]] = []
    length = words
    for sentence in split_sentences(text):
        if length >= words:
            parts.append([])
            length = 0
        parts[-1].append(sentence)
        length += len(sentence.split())
    return parts
