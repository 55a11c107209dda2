"""Sentences of texts, and their pairs."""

import pytest

from hf_layerfusion.data.sentences import adjacent_sentences, split_sentences


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("Good food. Slow service!  Would I return?", ["Good food.", "Slow service!", "Would I return?"]),
        ("no mark at all", ["no mark at all"]),
        ('He said "never." Then he left...', ['He said "never."', "Then he left..."]),
        ("(It works.) it costs 1.50 at shop.com. ok", ["(It works.)", "it costs 1.50 at shop.com.", "ok"]),
        ("One. Still one\r\n\n  two ", ["One. Still one", "two"]),
        ("今日は。「はい。」明日は！", ["今日は。", "「はい。」", "明日は！"]),
        (" \n ", []),
    ],
)
def test_sentences(text, sentences):
    assert split_sentences(text) == sentences
    assert adjacent_sentences(text) == [
        (sentences[place], sentences[place + 1]) for place in range(len(sentences) - 1)
    ]
