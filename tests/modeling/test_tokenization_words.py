"""Words with their characters, in every form in which tokenizers are called."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, DataCollatorWithPadding

from hf_layerfusion.data.truncation import encode
from hf_layerfusion.embeddings.word_tokenizers import static_tokenizer, word_tokenizer
from hf_layerfusion.training.collators import PaddingCollator

TEXTS = ["Grün ist 😀", "a", "no words of the vocabulary"]


@pytest.fixture
def tokenizer() -> Any:
    return word_tokenizer(("grün", "a", "of"), "whitespace")


def words(characters: Any) -> list[str]:
    """The words that stand in a text's `char_ids`."""
    found = ["".join(chr(int(value)) for value in word if value) for word in characters]
    return [word for word in found if word]


def test_characters_are_those_of_the_text(tokenizer: Any) -> None:
    found = tokenizer(TEXTS[0])
    assert list(found) == ["input_ids", "token_type_ids", "attention_mask", "char_ids"]
    assert tokenizer.convert_ids_to_tokens(found["input_ids"]) == ["grün", "[UNK]", "[UNK]"]
    assert found["char_ids"] == [[ord(character) for character in word] for word in TEXTS[0].split()]


@pytest.mark.parametrize("side", ["left", "right"])
def test_every_way_to_pad_is_the_same(side: str, tokenizer: Any) -> None:
    tokenizer.padding_side = side
    expected = tokenizer(TEXTS, padding=True, return_tensors="pt")
    assert expected["char_ids"].shape == (3, 5, 10)
    for text, row, mask in zip(TEXTS, expected["char_ids"], expected["attention_mask"], strict=True):
        assert words(row) == text.split()
        assert torch.equal(row.any(dim=-1), mask.bool())
    rows = [dict(tokenizer(text)) for text in TEXTS]
    arrays = [dict(tokenizer(text, return_tensors="np")) for text in TEXTS]
    arrays = [{name: values[0] for name, values in row.items()} for row in arrays]
    for found in (
        tokenizer.pad(rows, return_tensors="pt"),
        tokenizer.pad({name: [row[name] for row in rows] for name in rows[0]}, return_tensors="pt"),
        tokenizer.pad(arrays, return_tensors="pt"),
        DataCollatorWithPadding(tokenizer)(rows),
        PaddingCollator(tokenizer)(rows),
        tokenizer(TEXTS, padding=True, return_tensors="np"),
    ):
        assert set(found) == set(expected)
        for name, values in expected.items():
            np.testing.assert_array_equal(found[name], values)
    single = tokenizer.pad(rows[1], padding="max_length", max_length=3)
    assert words(single["char_ids"]) == ["a"]
    assert len(single["char_ids"]) == 3
    alone = tokenizer(TEXTS[1], return_tensors="pt")["char_ids"]
    assert alone.shape == (1, 1, 512)
    assert words(alone[0]) == ["a"]
    assert len(tokenizer(TEXTS[1], padding="max_length", max_length=4)["char_ids"]) == 4


def test_pairs_words_and_pieces(tokenizer: Any) -> None:
    pair = tokenizer("a b", "Cc d")
    assert (words(pair["char_ids"]), pair["token_type_ids"]) == (["a", "b", "Cc", "d"], [0, 0, 1, 1])
    for batch in (tokenizer(["a b", "x"], ["Cc d", "y"]), tokenizer([("a b", "Cc d"), ("x", "y")])):
        assert [words(each) for each in batch["char_ids"]] == [["a", "b", "Cc", "d"], ["x", "y"]]
    split = tokenizer([["a", "Long"], ["word"]], is_split_into_words=True)
    assert [words(each) for each in split["char_ids"]] == [["a", "Long"], ["word"]]
    assert words(tokenizer(["a", "Long"], is_split_into_words=True)["char_ids"]) == ["a", "Long"]
    pieces = tokenizer(
        ["one two three", "four"], truncation=True, max_length=2, return_overflowing_tokens=True
    )
    assert [words(each) for each in pieces["char_ids"]] == [["one", "two"], ["three"], ["four"]]
    assert tokenizer("")["char_ids"] == []


def test_empty_texts(tokenizer: Any) -> None:
    """Alone they have no word, in a tensor too, and beside others padding."""
    assert dict(tokenizer([], is_split_into_words=True)) == dict(tokenizer(""))
    rows = [dict(tokenizer(text)) for text in ("", " ")]
    for found in (
        tokenizer(["", " "], padding=True, return_tensors="pt"),
        tokenizer.pad(rows, return_tensors="pt"),
    ):
        assert found["input_ids"].shape == found["attention_mask"].shape == (2, 0)
        assert found["char_ids"].shape == (2, 0, 1)
    assert tokenizer("", return_tensors="pt")["char_ids"].shape == (1, 0, 512)
    beside = tokenizer.pad([*rows, dict(tokenizer("a"))], return_tensors="pt")
    assert beside["char_ids"].tolist() == [[[0]], [[0]], [[ord("a")]]]


@pytest.mark.parametrize("cut", ["tail", "head", "middle"])
def test_cutting_off_cuts_characters_with_ids(cut: str, tokenizer: Any) -> None:
    rng = random.Random(0)
    texts = [" ".join(rng.choices("abcdefgh", k=rng.randint(1, 9))) for _ in range(20)]
    found = encode(tokenizer, texts, max_length=4, cut=cut)
    for text, ids, characters in zip(texts, found["input_ids"], found["char_ids"], strict=True):
        assert len(ids) == len(characters) <= 4
        assert set(words(characters)) <= set(text.split())
        if cut != "head":
            assert words(characters)[0] == text.split()[0]


@pytest.mark.parametrize("lookup", ["exact", "fallback"])
def test_saved_and_loaded(lookup: str, tmp_path: Path) -> None:
    tokenizer = word_tokenizer(("grün", "a", "of"), "whitespace", lookup)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert type(loaded).__name__ == "WordTokenizer"
    assert loaded.lookup == lookup
    assert dict(loaded(TEXTS)) == dict(tokenizer(TEXTS))


def test_lookup_falls_back_as_in_flair() -> None:
    words = ("Turkey", "turkey", "##:##", "00", "user")
    expected = {
        "Turkey": "Turkey",
        "TURKEY": "turkey",
        "12:45": "##:##",
        "42": "00",
        "User": "user",
        "7": "[UNK]",
    }
    for has_characters in (True, False):
        tokenizer = word_tokenizer(words, "whitespace", "fallback", has_characters)
        found = tokenizer(" ".join(expected))
        assert tokenizer.convert_ids_to_tokens(found["input_ids"]) == list(expected.values())
        assert ("char_ids" in found) == has_characters
        batch = tokenizer(["12:45 TURKEY", "7"], padding=True, return_tensors="pt")
        assert tokenizer.batch_decode(batch["input_ids"]) == ["##:## turkey", "[UNK] [PAD]"]
    plain = static_tokenizer(words, "whitespace")
    assert plain.tokenize("Turkey TURKEY 42") == ["Turkey", "[UNK]", "[UNK]"]
    with pytest.raises(ValueError, match="`lookup` must be one of exact, fallback, found 'lower'"):
        word_tokenizer(words, "whitespace", "lower")("a")
