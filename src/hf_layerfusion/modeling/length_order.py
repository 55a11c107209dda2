"""Order of texts by length, in which batches need little padding."""

from collections.abc import Callable, Sequence
from typing import Any


def longest_first(inputs: Sequence[Any]) -> list[int]:
    """Return the indices of texts and pairs from the longest to the shortest, by characters.

    The first batch is the largest, so that a device without enough memory fails at once.

    Args:
        inputs: Texts; pairs are dictionaries or sequences of texts.
    """
    return sorted(range(len(inputs)), key=lambda index: -_length(inputs[index]))


def in_length_order(function: Callable[[list[Any]], Sequence[Any]], inputs: Sequence[Any]) -> list[Any]:
    """Return what a function returns for each of `inputs`, in their order, while it sees the longest first.

    Args:
        function: Maps a list of inputs to as many results.
        inputs: Texts and pairs.
    """
    order = longest_first(inputs)
    found: list[Any] = [None] * len(order)
    for index, result in zip(order, function([inputs[index] for index in order]), strict=True):
        found[index] = result
    return found


def _length(item: Any) -> int:
    if isinstance(item, str):
        return len(item)
    if isinstance(item, dict):
        item = list(item.values())
    return sum(map(_length, item)) if isinstance(item, list | tuple) else 0
