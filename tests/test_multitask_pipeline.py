"""The pipeline for several tasks answers raw texts as a model was trained to answer cleaned ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, pipeline

from hf_layerfusion import MultitaskPipeline
from hf_layerfusion.data.text_preparation import (
    CleaningSteps,
    cleaner_of,
    copy_dictionary,
    tokenizer_of_tasks,
)
from hf_layerfusion.data.truncation import encode
from hf_layerfusion.data.tweets import TweetPreprocessor
from hf_layerfusion.ensembling.member_models import encode_rows
from hf_layerfusion.errors import UserError
from hf_layerfusion.modeling.pipeline_multitask import MultitaskPipeline as PlainPipeline
from hf_layerfusion.text_pipeline import preprocess
from hf_layerfusion.training.raw_texts import TextEncoder
from tests.modeling.multitask_cases import TASKS, build
from tests.tiny import VOCABULARY, tiny_tokenizer
from tests.training.small import small_model

RAW = "@Bob_1 so   GOOD :) #fun http://t.co/x"
SAME = dict.fromkeys(TASKS, CleaningSteps(("users", "links", "emoticons", "lowercase")))
OTHER = {**SAME, "sst5": CleaningSteps(("hashtags",))}


def saved(tasks: dict[str, CleaningSteps], folder: Path, **settings: Any) -> Any:
    tokenizer_of_tasks(tiny_tokenizer(), tasks, **settings).save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("tasks", [SAME, OTHER], ids=["same", "other"])
def test_raw_texts_are_cleaned_as_each_task_s_were(tasks: dict[str, CleaningSteps], tmp_path: Path) -> None:
    model, tokenizer = build(tasks=TASKS).double(), saved(tasks, tmp_path)
    ask, plain = MultitaskPipeline(model, tokenizer), PlainPipeline(model, tiny_tokenizer())
    pair = {"text": RAW, "text_pair": "an awful DAY @kate"}
    found = ask([RAW, pair], top_k=None)
    for task, cleaning in tasks.items():
        clean = TweetPreprocessor(list(cleaning.steps)).clean
        assert cleaner_of(tokenizer, task)(RAW) == clean(RAW) != RAW  # type: ignore[misc]
        cleaned = {name: clean(text) for name, text in pair.items()}
        asked = clean(RAW) if task == "sst5" else cleaned
        assert_same(found[0 if task == "sst5" else 1][task], plain(asked, [task], top_k=None)[task])


def assert_same(found: Any, expected: Any) -> None:
    if isinstance(expected, float):
        assert found == pytest.approx(expected)
        return
    assert [each["label"] for each in found] == [each["label"] for each in expected]
    assert [each["score"] for each in found] == pytest.approx([each["score"] for each in expected])


@pytest.mark.parametrize("cut", ["tail", "head", "middle"])
def test_texts_are_cut_where_the_training_texts_were(cut: str, tmp_path: Path) -> None:
    tokenizer = saved(SAME, tmp_path, max_length=9, cut=cut)
    text = "good bad happy sad nice ugly best worst fun boring day night"
    expected = encode(tiny_tokenizer(), [text], max_length=9, cut=cut)["input_ids"]
    ask = MultitaskPipeline(build(tasks=TASKS), tokenizer)
    assert ask.encode([(text, None)])["input_ids"].tolist() == expected
    assert TextEncoder(tokenizer)([[text]], task="sst5")["input_ids"] == expected


def test_each_task_keeps_its_dictionary(tmp_path: Path) -> None:
    tasks = {}
    for name, word in (("sst5", "goood"), ("quora", "baad")):
        (tmp_path / name).mkdir()
        file = tmp_path / name / "words.json"
        file.write_text(f'{{"{word}": 50}}')
        tasks[name] = CleaningSteps(("spelling",), "en", str(file))
    folder = tmp_path / "model"
    tokenizer = saved(tasks, folder)
    for name, cleaning in tasks.items():
        copy_dictionary(tokenizer, cleaning.spelling_dictionary, folder, name)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for name, (text, expected) in {"sst5": ("gooood", "goood"), "quora": ("baaad", "baad")}.items():
        assert cleaner_of(tokenizer, name)(text) == expected  # type: ignore[misc]


def test_a_tokenizer_that_says_nothing_changes_nothing() -> None:
    model = build(tasks=TASKS)
    with torch.no_grad():
        assert MultitaskPipeline(model, tiny_tokenizer())(RAW) == PlainPipeline(model, tiny_tokenizer())(RAW)


def test_transformers_pipeline_cuts_texts_where_training_did(tmp_path: Path) -> None:
    """A model of several tasks whose `--cut` is not the tail, asked through the text-classification pipeline."""
    tokenizer = tiny_tokenizer()
    steps = {"a": CleaningSteps(()), "b": CleaningSteps(())}
    saved = tokenizer_of_tasks(tokenizer, steps, max_length=6, cut="head")
    words = " ".join(list(VOCABULARY)[5:17])
    model = small_model()
    asked = pipeline("text-classification", model=model, tokenizer=saved, device="cpu")
    (trained,) = TextEncoder(saved)([[words]])["input_ids"]
    assert asked.preprocess(words)["input_ids"].tolist() == [trained]
    assert trained != tokenizer(words, truncation=True, max_length=6)["input_ids"]
    rows = encode_rows(saved, [(words,)], False, "head", max_length=6, truncation=True)
    assert rows["input_ids"].tolist() == [trained]


def test_preprocess_asks_for_the_task_where_tasks_differ(tmp_path: Path) -> None:
    steps = {"a": CleaningSteps(("users",)), "b": CleaningSteps(())}
    tokenizer_of_tasks(tiny_tokenizer(), steps).save_pretrained(tmp_path)
    assert preprocess("@bob x", str(tmp_path), task="b") == "@bob x"
    assert preprocess("@bob x", str(tmp_path), task="a") != "@bob x"
    with pytest.raises(UserError, match="task must be one of a, b"):
        preprocess("@bob x", str(tmp_path))
