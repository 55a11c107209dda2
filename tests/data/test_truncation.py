from __future__ import annotations

import pytest

from hf_layerfusion.data.truncation import encode
from hf_layerfusion.errors import UserError
from tests.tiny import tiny_tokenizer

WORDS = "good great happy love nice best sweet fun bad awful sad hate".split()


def text(start: int, length: int) -> str:
    return " ".join(WORDS[(start + index) % len(WORDS)] for index in range(length))


@pytest.mark.parametrize("max_length", [5, 6, 9, 14, 40])
def test_the_tail_is_cut_as_tokenizers_do(max_length: int) -> None:
    tokenizer = tiny_tokenizer()
    lengths = [(1, 1), (1, 12), (12, 1), (5, 5), (7, 4), (4, 7), (12, 12), (6, 5), (5, 6)]
    first = [text(index, length) for index, (length, _) in enumerate(lengths)]
    second = [text(2 * index, length) for index, (_, length) in enumerate(lengths)]
    for pairs in (None, second):
        texts = [first] if pairs is None else [first, pairs]
        expected = tokenizer(*texts, truncation="longest_first", max_length=max_length)
        assert encode(tokenizer, first, pairs, max_length=max_length) == dict(expected)


@pytest.mark.parametrize(
    ("cut", "kept"),
    [
        ("tail", [0, 1, 2, 3, 4, 5, 6, 7]),
        ("head", [4, 5, 6, 7, 8, 9, 10, 11]),
        ("middle", [0, 1, 6, 7, 8, 9, 10, 11]),
    ],
)
def test_which_part_is_cut(cut: str, kept: list[int]) -> None:
    tokenizer = tiny_tokenizer()
    ids = tokenizer.convert_tokens_to_ids(WORDS)
    inputs = encode(tokenizer, [text(0, 12), text(0, 3)], max_length=10, cut=cut)
    long, short = inputs["input_ids"]
    assert long == [tokenizer.cls_token_id, *(ids[place] for place in kept), tokenizer.sep_token_id]
    assert short == [tokenizer.cls_token_id, *ids[:3], tokenizer.sep_token_id]
    assert [len(row) for row in inputs["attention_mask"]] == [10, 5]


def test_sun_et_al() -> None:
    tokenizer = tiny_tokenizer()
    row = encode(tokenizer, [text(0, 600)], max_length=512, cut="middle")["input_ids"][0]
    ids = tokenizer.convert_tokens_to_ids([WORDS[index % 12] for index in range(600)])
    assert row[1:-1] == ids[:128] + ids[-382:]


def test_each_text_of_a_pair_is_cut_by_itself() -> None:
    tokenizer = tiny_tokenizer()
    inputs = encode(tokenizer, [text(0, 12)], [text(0, 3)], max_length=10, cut="head")
    ids = tokenizer.convert_tokens_to_ids(WORDS)
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    assert inputs["input_ids"] == [[cls, *ids[8:], sep, *ids[:3], sep]]
    assert inputs["token_type_ids"] == [[0] * 6 + [1] * 4]


@pytest.mark.parametrize(
    ("pairs", "settings", "named"),
    [
        (None, {"max_length": 10, "cut": "tails"}, "tail, head, middle"),
        (None, {"max_length": 2}, "max_length must be 3 or more"),
        (["bad"], {"max_length": 4}, "max_length must be 5 or more"),
    ],
)
def test_bad_values(pairs: list[str] | None, settings: dict[str, object], named: str) -> None:
    with pytest.raises(UserError, match=named) as caught:
        encode(tiny_tokenizer(), ["good"], pairs, **settings)
    assert "\n" not in str(caught.value)
