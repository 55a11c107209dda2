"""Escaping of foreign text for Markdown, and Markdown tables."""

import re
import unicodedata
from collections.abc import Iterable, Sequence

_MARKDOWN_SIGNS = re.compile(r"[\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_])")  # except the _ inside a_name
_LINE_START_SIGN = re.compile(r"^(\d*)([=#]|[-+](?=[-\s]|$)|(?<=\d)[.)](?=\s|$))")  # lists, headings, rules
_NUMBER = re.compile(r"-?\d[\d,.]*(e[-+]\d+)?|–?")  # or an empty cell
_BIDI_CONTROLS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


class Markdown(str):
    """Text that is Markdown already. The card's template prints it unchanged and escapes every other string."""


def escape_markdown(text: str) -> str:
    """Return `text` as one line that Markdown and HTML display literally, at any position in a line."""
    line = single_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = _MARKDOWN_SIGNS.sub(r"\\\g<0>", line)
    return _LINE_START_SIGN.sub(r"\1\\\2", line)


def markdown_table(header: Sequence[object], rows: Iterable[Sequence[object]]) -> Markdown:
    """Return a Markdown table with escaped cells; columns of numbers are aligned to the right."""
    body = [[render_value(cell) for cell in row] for row in rows]
    numeric = [all(_NUMBER.fullmatch(row[column]) for row in body) for column in range(len(header))]
    rule = ["---:" if right else "---" for right in numeric]
    lines = [[render_value(cell) for cell in header], rule, *body]
    return Markdown("\n".join("| " + " | ".join(line) + " |" for line in lines))


def render_value(value: object) -> str:
    """Return a value as Markdown for templates and tables, escaping everything that is not `Markdown`."""
    if isinstance(value, Markdown):
        return value
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(render_value, value))
    return escape_markdown(str(value))


def single_line(text: str) -> str:
    """Return the text on one line without control characters, lone surrogates or bidirectional controls."""
    words = ("".join(letter for letter in word if _is_visible(letter)) for word in text.split())
    return " ".join(filter(None, words))


def _is_visible(letter: str) -> bool:
    return unicodedata.category(letter) not in ("Cc", "Cs") and letter not in _BIDI_CONTROLS
