"""Windows of long texts: overlapping parts of a text that an encoder reads one by one, and their pooling."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import initialization as init

WINDOW_POOLINGS = ("mean", "max", "attention")


class Windows(NamedTuple):
    """The windows of the texts in a batch, one text after the other.

    Attributes:
        texts: Text of each window, `[N]`.
        places: Place of each window's tokens in the text, `[N, S]`.
        mask: 1 for the tokens of a window and 0 for its padding, `[N, S]`.
        text_shape: Shape `[B, T]` of the texts.
    """

    texts: torch.Tensor
    places: torch.Tensor
    mask: torch.Tensor
    text_shape: torch.Size

    def take(self, values: torch.Tensor | None) -> torch.Tensor | None:
        """Return the windows `[N, S, ...]` of values `[B, T, ...]` of the tokens; `None` stays `None`."""
        return None if values is None else values[self.texts.unsqueeze(1), self.places]

    def take_all(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return inputs of an encoder by name, with the windows of those that hold a value for each token, `[B, T,
        ...]`.

        Raises:
            ValueError: If they hold positions, which count the tokens of the text and not those of a window.
        """
        if inputs.get("position_ids") is not None:
            raise ValueError(
                "`position_ids` must be left out for texts of more than `window_size` tokens, whose windows each count "
                "from their own start, found them given; leave them out."
            )
        shape = self.text_shape
        return {
            name: self.take(value) if isinstance(value, torch.Tensor) and value.shape[:2] == shape else value
            for name, value in inputs.items()
        }


def split_windows(attention_mask: torch.Tensor, size: int, overlap: int, affixes: tuple[int, int]) -> Windows:
    """Split texts into windows, as a tokenizer does with `return_overflowing_tokens=True` and `stride=overlap`.

    Args:
        attention_mask: `[B, T]`, 1 for real tokens; padding may be on either side.
        size: Maximum number of tokens of a window, special tokens included.
        overlap: Number of tokens that a window shares with the one before.
        affixes: Number of special tokens before and after each text, which every window repeats.
    """
    before, after = affixes
    room = size - before - after
    lengths = attention_mask.long().sum(dim=1)
    body = (lengths - before - after).clamp(min=0)
    # The real tokens' places in order, then those of the padding.
    order = torch.argsort(1 - attention_mask.long(), dim=1, stable=True)
    counts = 1 + (body - room).clamp(min=0).add(room - overlap - 1).div(room - overlap, rounding_mode="floor")
    texts = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
    number = torch.arange(len(texts), device=counts.device) - (counts.cumsum(0) - counts)[texts]
    start = number * (room - overlap)
    length = torch.minimum(body[texts] - start, torch.full_like(start, room)).clamp(min=0)
    place = torch.arange(size, device=counts.device).expand(len(texts), size)
    is_after = place >= (before + length).unsqueeze(1)
    from_end = lengths[texts] - length - before - after
    shifted = place + torch.where(
        place < before, 0, torch.where(is_after, from_end.unsqueeze(1), start.unsqueeze(1))
    )
    mask = place < torch.minimum(before + length + after, lengths[texts]).unsqueeze(1)
    longest = int(mask.sum(dim=1).max())
    places = order[texts.unsqueeze(1), (shifted * mask)[:, :longest]]
    return Windows(texts, places, mask.long()[:, :longest], attention_mask.shape)


def windows_of(
    config: Any, input_ids: torch.Tensor | None, mask: torch.Tensor | None, embeds: torch.Tensor | None
) -> Windows | None:
    """Return the windows of a batch, or `None` if each of its texts is one window.

    Args:
        config: Configuration of the model, with `window_size`, `window_overlap` and `window_affixes`.
        input_ids: `[B, T]`, or `None`.
        mask: Attention mask `[B, T]`, or `None` if every position is a real token.
        embeds: `[B, T, H]` in place of `input_ids`, or `None`.
    """
    given = input_ids if input_ids is not None else embeds
    if config.window_size is None or given is None or given.shape[1] <= config.window_size:
        return None
    if mask is None:
        mask = torch.ones(given.shape[:2], dtype=torch.long, device=given.device)
    return split_windows(mask, config.window_size, config.window_overlap, tuple(config.window_affixes))


class WindowPooling(nn.Module):
    """Reduction of the vectors of a text's windows to one (Sun et al. 2019, "How to Fine-Tune BERT for Text
    Classification?", section 5.3.1).

    A text of one window keeps its vector bit for bit.

    Args:
        pooling: `"mean"`, `"max"`, or `"attention"`, an average weighted by softmax(qᵀk) with a learned query q, which
            starts at zero and so at the mean.
        key_size: Width K of the keys.
    """

    def __init__(self, pooling: str, key_size: int):
        super().__init__()
        self.pooling = pooling
        self.query = nn.Parameter(torch.empty(key_size)) if pooling == "attention" else None

    def reset_parameters(self) -> None:
        """Initialize the query to zero."""
        if self.query is not None:
            init.zeros_(self.query)

    def forward(self, values: torch.Tensor, keys: torch.Tensor, texts: torch.Tensor | None) -> torch.Tensor:
        """Return a vector per text, `[B, V]`.

        Args:
            values: Vectors of the windows, `[N, V]`.
            keys: What the attention looks at, `[N, K]`.
            texts: Text of each window in ascending order, `[N]`; `None` if each is a text of its own.
        """
        if texts is None:
            # The query takes part all the same, as DistributedDataParallel expects of every parameter.
            return values if self.query is None else values + 0.0 * (keys @ self.query).unsqueeze(1)
        shape = (int(texts[-1]) + 1, values.shape[1])
        rows = texts.unsqueeze(1).expand_as(values)
        if self.pooling == "max":
            return values.new_zeros(shape).scatter_reduce(0, rows, values, "amax", include_self=False)
        scores = values.new_zeros(len(values)) if self.query is None else (keys @ self.query).to(values.dtype)
        highest = scores.new_zeros(shape[0]).scatter_reduce(0, texts, scores, "amax", include_self=False)
        # Autocast computes exp in float32.
        weights = (scores - highest.detach()[texts]).exp().to(values.dtype)
        weights = weights / weights.new_zeros(shape[0]).index_add(0, texts, weights)[texts]
        return values.new_zeros(shape).index_add(0, texts, weights.unsqueeze(1) * values)
