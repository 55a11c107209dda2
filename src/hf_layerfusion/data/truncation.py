"""Truncation of texts that are longer than a model accepts."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase
from transformers.tokenization_utils_base import LARGE_INTEGER

from hf_layerfusion.errors import UserError, nearest

CUTS = ("tail", "head", "middle")
"""Parts of a text that can be removed; `"tail"` is the default of tokenizers."""


def encode(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    *,
    max_length: int,
    cut: str = "tail",
) -> dict[str, list[list[int]]]:
    """Tokenize texts, or pairs of them, into model inputs of at most `max_length` tokens each.

    In a pair, the longer text is truncated first, to the length of the shorter, then both equally, like `longest_first`
    in transformers. With `cut="middle"` a text with room for n tokens keeps n · 128 / 510 from its beginning and the
    rest from its end (Sun et al. 2019, head+tail: 128 and 382 of 510).

    Args:
        tokenizer: Tokenizer that knows which token belongs to which text (a "fast" one).
        texts: One text per row.
        pairs: Second text of each row.
        max_length: Maximum number of tokens per row, including special tokens.
        cut: Part to remove, one of `CUTS`.

    Returns:
        `input_ids`, `attention_mask`, …, a list for each row, without padding.

    Raises:
        UserError: If `cut` is unknown, the tokenizer is not a fast one, or `max_length` leaves no room for a token of
            each text.
    """
    if cut not in CUTS:
        raise UserError(f"cut must be one of {', '.join(CUTS)}, found {cut!r}; {nearest(cut, CUTS)}")
    if not tokenizer.is_fast:
        raise UserError(
            f"tokenizer must know which token is of which text, found {type(tokenizer).__name__}; use a fast one"
        )
    least = tokenizer.num_special_tokens_to_add(pair=pairs is not None) + (1 if pairs is None else 2)
    if max_length < least:
        raise UserError(
            f"max_length must be {least} or more for this tokenizer, found {max_length}; raise it"
        )
    both = [list(texts)] if pairs is None else [list(texts), list(pairs)]
    encoded = tokenizer(*both, truncation=False, padding=False, verbose=False)
    inputs = {name: [list(row) for row in rows] for name, rows in encoded.items()}
    for index, ids in enumerate(inputs["input_ids"]):
        if len(ids) > max_length:
            kept = _kept(encoded.sequence_ids(index), max_length, cut)
            for rows in inputs.values():
                rows[index] = [rows[index][place] for place in kept]
    return inputs


def encode_input(
    tokenizer: PreTrainedTokenizerBase, inputs: Any, *, max_length: int | None, cut: str
) -> dict[str, Any]:
    """Return the model inputs `[1, T]` of a pipeline's input, a text or a pair `{"text": …, "text_pair": …}`.

    Args:
        tokenizer: As for `encode`.
        inputs: The text or pair.
        max_length: Maximum number of tokens; the tokenizer's own limit holds in any case.
        cut: As for `encode`.

    Raises:
        UserError: As `encode`.
    """
    both = [inputs] if isinstance(inputs, str) else [inputs["text"], inputs.get("text_pair")]
    texts = [text for text in both if text is not None]
    limit = min(max_length or LARGE_INTEGER, tokenizer.model_max_length)
    encoded = encode(tokenizer, *([text] for text in texts), max_length=limit, cut=cut)
    return {name: torch.tensor(rows) for name, rows in encoded.items()}


def _kept(sequence_ids: Sequence[int | None], max_length: int, cut: str) -> list[int]:
    """Return the positions of a row's tokens to keep."""
    texts = [[place for place, text in enumerate(sequence_ids) if text == number] for number in (0, 1)]
    special = [place for place, text in enumerate(sequence_ids) if text is None]
    rooms = _rooms(len(texts[0]), len(texts[1]), max_length - len(special))
    for places, room in zip(texts, rooms, strict=True):
        excess = len(places) - room
        start = {"tail": room, "head": 0, "middle": room * 128 // 510}[cut]
        del places[start : start + excess]
    return sorted(special + texts[0] + texts[1])


def _rooms(first: int, second: int, room: int) -> tuple[int, int]:
    """Return the numbers of tokens that two texts keep if there is room for `room` in total."""
    if first + second <= room:
        return first, second
    shorter = min(first, second, room // 2)
    return (shorter, room - shorter) if first <= second else (room - shorter, shorter)
