"""What a saved tokenizer does to raw texts, against the cleaning in Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from hf_layerfusion.data.text_preparation import (
    _NORMALIZERS,
    _with_normalizers,
    cleaner_of,
    plain_tokenizer,
    prepared_tokenizer,
    saved_preparation,
)
from hf_layerfusion.data.tweets import PRESETS, TweetPreprocessor
from hf_layerfusion.embeddings.word_tokenizers import word_tokenizer
from tests.tiny import tiny_tokenizer

WORDS = "@Bob ＠you a@b.org <user> <url> http://t.co/x www.x.org, x.org/a #fail Ä İ teh HTTPURL @USER xxurl . ( WORD 1"
PARTS = st.sampled_from([*WORDS.split(), "# a", " ", "\n", "\u00a0", "\x1c", "\u2003"])
TEXTS = st.lists(PARTS, max_size=12).map("".join)
SPACED_TEXTS = st.lists(PARTS, max_size=12).map(" ".join)


@pytest.mark.parametrize("step", _NORMALIZERS)
@given(text=TEXTS)
@settings(max_examples=60, deadline=None)
def test_a_normalizer_does_what_its_step_does(step: str, text: str) -> None:
    done = text
    for normalizer in _NORMALIZERS[step]():
        done = normalizer.normalize_str(done)
    assert done == TweetPreprocessor([step]).clean(text)


@pytest.mark.parametrize("preset", ["light", "paper"])
@given(text=SPACED_TEXTS)
@settings(max_examples=60, deadline=None)
def test_what_the_steps_have_cleaned_a_tokenizer_leaves_alone(preset: str, text: str) -> None:
    cleaned = done = CLEANERS[preset].clean(text)
    for step in PRESETS[preset]:
        for normalizer in _NORMALIZERS.get(step, list)():
            done = normalizer.normalize_str(done)
    assert done == cleaned


CLEANERS = {preset: TweetPreprocessor(preset) for preset in ("light", "paper")}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    prepared_tokenizer(tiny_tokenizer(), PRESETS["paper"], 12).save_pretrained(folder)
    return folder


def test_a_reloaded_tokenizer_prepares_raw_texts(saved: Path) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(saved)
    assert tokenizer.tokenize("@Bob_1  see http://t.co/x") == ["xxuser", *"s ##e ##e".split(), "xxurl"]
    assert tokenizer.model_max_length == 12
    assert len(tokenizer("day " * 30, truncation=True)["input_ids"]) == 12
    clean = cleaner_of(tokenizer)
    assert clean is not None and clean("@Bob teh  day") == "xxuser the day"


def test_the_plain_tokenizer_is_the_one_before(saved: Path) -> None:
    tokenizer: Any = plain_tokenizer(AutoTokenizer.from_pretrained(saved))
    before = tiny_tokenizer()
    for text in ("@Bob_1  see http://t.co/x", "A day\u00a0out"):
        assert tokenizer(text, text)["input_ids"] == before(text, text)["input_ids"]
    assert tokenizer.model_max_length == before.model_max_length
    assert saved_preparation(tokenizer) is None
    again = prepared_tokenizer(tokenizer, ["users"], 9)
    assert again.tokenize("@Bob www.x.org") != tokenizer.tokenize("@Bob www.x.org")
    assert again.model_max_length == 9


def test_without_steps_only_the_limit_is_saved(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    prepared_tokenizer(tokenizer, [], 12).save_pretrained(tmp_path)
    assert tokenizer.model_max_length == 64
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again.model_max_length == 12 and cleaner_of(again) is None
    assert plain_tokenizer(again).model_max_length == 64
    assert _with_normalizers(tokenizer, []) is None


def test_a_tokenizer_that_gives_characters_stays_what_it_is() -> None:
    """A copy with other steps would give ids alone."""
    tokenizer = word_tokenizer(("a", "xxuser"), "whitespace")
    prepared = prepared_tokenizer(tokenizer, ["users", "lowercase"])
    assert type(prepared) is type(tokenizer)
    assert dict(prepared("a b")) == dict(tokenizer("a b"))
    assert not saved_preparation(prepared)["in_tokenizer"]
