"""A tokenizer of words that gives their characters too."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from transformers import BatchEncoding, PreTrainedTokenizerFast
from transformers.utils import PaddingStrategy

CHARACTERS = "char_ids"
ALONE = 512
"""Characters to a multiple of which the words of a single text are padded, where it is returned as tensors; encoders do
not read the padding."""
LOOKUPS = ("exact", "fallback")
"""Ways to look up a word: as it is, or, where that is unknown, also in lower case, and with digits as # or as 0."""


class WordTokenizer(PreTrainedTokenizerFast):
    """Splits texts into words, and gives for each word its id and its characters, as they stand in the text.

    Beside `input_ids` it returns `char_ids`, the Unicode code points of each word's characters, 0 at padding: a list of
    words of different lengths, or `[B, T, W]` where texts are padded, W the characters of the longest word. Encoders of
    characters (ELMo, Flair) read these, and `input_ids` only says where words are. Without `char_ids` among its
    `model_input_names` it gives ids alone.

    Args:
        lookup: how words are looked up, one of `LOOKUPS`. `"fallback"` is the order of flair's code, GRUBERT's.
    """

    model_input_names = ["input_ids", "token_type_ids", "attention_mask", CHARACTERS]  # noqa: RUF012  as transformers'

    # An `__init__` of its own would make transformers build it of the vocabulary alone, and not of `tokenizer.json`.
    @property
    def lookup(self) -> str:
        """Rule by which words are looked up, a name in `LOOKUPS`."""
        lookup: str = self.init_kwargs.get("lookup", LOOKUPS[0])
        if lookup not in LOOKUPS:
            raise ValueError(
                f"`lookup` must be one of {', '.join(LOOKUPS)}, found {lookup!r}; name one of them."
            )
        return lookup

    def _encode_plus(
        self,
        text: Any,
        text_pair: Any = None,
        *,
        padding_strategy: PaddingStrategy = PaddingStrategy.DO_NOT_PAD,
        is_split_into_words: bool = False,
        return_tensors: Any = None,
        **kwargs: Any,
    ) -> BatchEncoding:
        encoded = super()._encode_plus(
            text,
            text_pair,
            padding_strategy=padding_strategy,
            is_split_into_words=is_split_into_words,
            return_tensors=None,
            **kwargs,
        )
        texts, is_batch = text_pairs(text, text_pair, is_split_into_words)
        samples = encoded.get("overflow_to_sample_mapping") or range(len(texts))
        characters = [
            word_characters(encoding, texts[sample], is_split_into_words)
            for encoding, sample in zip(encoded.encodings, samples, strict=True)
        ]
        found = dict(encoded)
        is_single = not is_batch and "overflow_to_sample_mapping" not in encoded
        if self.lookup == "fallback":
            ids = [found["input_ids"]] if is_single else found["input_ids"]
            looked_up = [self.looked_up(*each) for each in zip(ids, characters, strict=True)]
            found["input_ids"] = looked_up[0] if is_single else looked_up
        # A text by itself may be put into a batch by transformers' pipelines, which pad words to no common length.
        multiple = ALONE if is_single and return_tensors is not None else 1
        if return_tensors is not None or padding_strategy != PaddingStrategy.DO_NOT_PAD:
            characters = rectangular(characters, [len(words) for words in characters], "right", multiple)
        if return_tensors is not None:
            characters = with_width(characters, multiple)
        if CHARACTERS in self.model_input_names:
            found[CHARACTERS] = characters[0] if is_single else characters
        if is_single and return_tensors is not None:
            found = {name: [values] for name, values in found.items()}
        return BatchEncoding(found, encoded.encodings, tensor_type=return_tensors)

    def looked_up(self, ids: Sequence[int], characters: Sequence[Sequence[int]]) -> list[int]:
        """Return a text's ids with those of unknown words that are known in another form."""
        unknown: Any = self.unk_token_id
        found = list(ids)
        for place, (number, points) in enumerate(zip(ids, characters, strict=True)):
            if number == unknown:
                for form in other_forms("".join(map(chr, points))):
                    if (known := self._tokenizer.token_to_id(form)) is not None:
                        found[place] = known
                        break
        return found

    def pad(
        self,
        encoded_inputs: Any,
        *args: Any,
        padding_side: Any = None,
        return_tensors: Any = None,
        **kwargs: Any,
    ) -> BatchEncoding:
        """Pad as in transformers, and the characters of words to the longest word of the batch."""
        if not isinstance(encoded_inputs, Mapping):
            names = encoded_inputs[0].keys()
            encoded_inputs = {name: [row[name] for row in encoded_inputs] for name in names}
        inputs = {name: values for name, values in encoded_inputs.items() if name != CHARACTERS}
        padded = super().pad(inputs, *args, padding_side=padding_side, return_tensors=None, **kwargs)
        characters = encoded_inputs.get(CHARACTERS)
        found = dict(padded)
        if characters is not None:
            first = next(iter(found["input_ids"]), 0)
            is_single = not isinstance(first, list | tuple) and getattr(first, "ndim", 0) == 0
            texts = [characters] if is_single else list(characters)
            ids = [found["input_ids"]] if is_single else found["input_ids"]
            texts = rectangular(texts, [len(row) for row in ids], padding_side or self.padding_side)
            if return_tensors is None and isinstance(found["input_ids"], torch.Tensor):
                return_tensors = "pt"
            if return_tensors is not None:
                texts = with_width(texts, 1)
            found[CHARACTERS] = texts[0] if is_single else texts
        return BatchEncoding(found, tensor_type=return_tensors)


def other_forms(word: str) -> tuple[str, str, str]:
    """Return the forms in which an unknown word is looked up, in the order of flair's code: in lower case, and its
    digits as # or as 0 too."""
    lower = word.lower()
    return lower, re.sub(r"\d", "#", lower), re.sub(r"\d", "0", lower)


def text_pairs(text: Any, pair: Any, is_split: bool) -> tuple[list[tuple[Any, ...]], bool]:
    """Return the texts of each sample, one or two, and whether there is a batch of samples."""
    is_batch = isinstance(next(iter(text), None) if is_split else text, list | tuple)
    if not is_batch:
        return [(text,) if pair is None else (text, pair)], False
    if pair is not None:
        return list(zip(text, pair, strict=True)), True
    in_pairs = [not is_split and isinstance(each, list | tuple) for each in text]
    return [tuple(each) if is_pair else (each,) for each, is_pair in zip(text, in_pairs, strict=True)], True


def word_characters(encoding: Any, texts: Sequence[Any], is_split: bool) -> list[list[int]]:
    """Return the code points of each token of an encoded sample; none of padding and special tokens."""
    found: list[list[int]] = []
    for (start, end), place, word in zip(
        encoding.offsets, encoding.sequence_ids, encoding.word_ids, strict=True
    ):
        if place is None:
            found.append([])
        else:
            source = texts[place][word] if is_split else texts[place]
            found.append([ord(character) for character in source[start:end]])
    return found


def rectangular(
    texts: Iterable[Any], lengths: Sequence[int], side: str, multiple: int = 1
) -> list[list[list[int]]]:
    """Pad words to the longest of all texts, and each text to its entry of `lengths`, with zeros.

    Args:
        texts: characters of each word of each text, lists or tensors, padded or not.
        lengths: words of each text with padding.
        side: where the padding words stand, `"left"` or `"right"`.
        multiple: words are padded to a multiple of this many characters.
    """
    rows = [[[int(value) for value in word if value] for word in text] for text in texts]
    longest = max([1, *(len(word) for text in rows for word in text)])
    width = -(-longest // multiple) * multiple
    found = []
    for text, length in zip(rows, lengths, strict=True):
        words = [word + [0] * (width - len(word)) for word in text]
        padding = [[0] * width for _ in range(length - len(words))]
        found.append(padding + words if side == "left" else words + padding)
    return found


def with_width(texts: list[Any], width: int) -> list[Any]:
    """Return texts of which tensors are made, `[B, T, W]` also where no text has a word."""
    return texts if any(texts) else [torch.zeros((0, width), dtype=torch.long).numpy() for _ in texts]
