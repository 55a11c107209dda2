from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertModel

from hf_layerfusion import MultitaskPipeline
from tests.modeling.multitask_cases import TASKS, build
from tests.tiny import tiny_tokenizer

TEXT, PAIR = "good food", {"text": "a man is happy", "text_pair": "bad"}
SEVERAL = {"problem_type": "multi_label_classification", "labels": ["x", "y", "z"]}


@pytest.fixture
def ask() -> MultitaskPipeline:
    return MultitaskPipeline(build(tasks=TASKS | {"tags": SEVERAL}).double(), tiny_tokenizer())


def by_hand(ask: MultitaskPipeline, task: str, *texts: str) -> Any:
    """One answer from the model, called as `docs` say, texts alone in their batch."""
    if task == "sts":
        encoded = ask.tokenizer(list(texts), padding=True, return_tensors="pt")
        batch = {name: value.unsqueeze(0) for name, value in encoded.items()}
    else:
        batch = ask.tokenizer(*texts, return_tensors="pt")
    with torch.no_grad():
        logits = ask.model(task=task, **batch).logits[0]
    if task == "sts":
        return pytest.approx(logits.item(), abs=1e-9)
    if task == "tags":
        scores = sorted(zip(logits.sigmoid().tolist(), "xyz", strict=True), reverse=True)
        return [{"label": label, "score": pytest.approx(score, abs=1e-6)} for score, label in scores]
    score = logits.softmax(0).max().item()
    return {"label": TASKS[task]["labels"][logits.argmax()], "score": pytest.approx(score, abs=1e-6)}


def test_a_text(ask: MultitaskPipeline) -> None:
    assert ask(TEXT) == {task: by_hand(ask, task, TEXT) for task in ("sst5", "tags")}
    assert ask(TEXT, tasks=["tags"]) == {"tags": by_hand(ask, "tags", TEXT)}


def test_a_pair(ask: MultitaskPipeline) -> None:
    first, second = PAIR.values()
    assert ask(PAIR) == {
        "sst5": [by_hand(ask, "sst5", first), by_hand(ask, "sst5", second)],
        "quora": by_hand(ask, "quora", first, second),
        "sts": by_hand(ask, "sts", first, second),
        "tags": [by_hand(ask, "tags", first), by_hand(ask, "tags", second)],
    }


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_many_inputs(ask: MultitaskPipeline, batch_size: int) -> None:
    ask.batch_size = batch_size
    same = {"text": "sad", "text_pair": "sad"}
    inputs = [TEXT, PAIR, "bad", same, {"text": "bad", "text_pair": "a man is happy"}, {"text": "sad"}]
    for found, each in zip(ask(inputs), inputs, strict=True):
        texts = [each] if isinstance(each, str) else list(each.values())
        single = [by_hand(ask, "sst5", text) for text in texts]
        assert found["sst5"] == (single if len(texts) == 2 else single[0])
        assert ("sts" in found) == ("quora" in found) == (len(texts) == 2)
        if len(texts) == 2:
            assert found["quora"] == by_hand(ask, "quora", *texts)
            assert found["sts"] == by_hand(ask, "sts", *texts)
    assert ask([]) == []


def test_each_sequence_runs_through_the_shared_layers_once(ask: MultitaskPipeline) -> None:
    rows = []
    encoder = ask.model.model.encoders["shared"]
    assert isinstance(encoder, BertModel)
    encoder.encoder.layer[1].register_forward_hook(lambda _, args, __: rows.append(len(args[0])))
    ask([TEXT, PAIR, PAIR, "bad"])
    assert rows == [4]  # two texts, one of which is the pair's second; its first; the pair


def test_from_a_folder(ask: MultitaskPipeline, tmp_path: Path) -> None:
    ask.model.save_pretrained(tmp_path)
    ask.tokenizer.save_pretrained(tmp_path)
    loaded = MultitaskPipeline.from_pretrained(str(tmp_path), batch_size=2)
    assert not loaded.model.training and loaded.batch_size == 2
    assert loaded(PAIR) == ask(PAIR)


def test_the_tokenizer_lies_where_the_model_does(ask: MultitaskPipeline, tmp_path: Path) -> None:
    ask.model.save_pretrained(tmp_path / "inner")
    ask.tokenizer.save_pretrained(tmp_path / "inner")
    assert MultitaskPipeline.from_pretrained(str(tmp_path), subfolder="inner")(PAIR) == ask(PAIR)


@pytest.mark.parametrize("wrong", [{"text": "a", "pair": "b"}, {"txt": "a"}, ("a", "b"), None])
def test_inputs_of_another_form(ask: MultitaskPipeline, wrong: Any) -> None:
    with pytest.raises(ValueError, match="`inputs` must be texts or pairs"):
        ask([TEXT, wrong])


def test_what_cannot_be_asked(ask: MultitaskPipeline) -> None:
    with pytest.raises(ValueError, match=r"`tasks` must be of .* found \['cola'\]"):
        ask(TEXT, tasks=["cola"])
    with pytest.raises(ValueError, match=r"`inputs` must be pairs for \['sts'\], found a single text"):
        ask([PAIR, TEXT], tasks=["sst5", "sts"])
    with pytest.raises(ValueError, match="`model` must be a CerbertusForMultitask, found a BertEmbeddings"):
        MultitaskPipeline(ask.model.model.encoders["shared"].embeddings, ask.tokenizer)
    pairs = MultitaskPipeline(build(tasks={name: TASKS[name] for name in ("quora", "sts")}), ask.tokenizer)
    with pytest.raises(ValueError, match=r"`inputs` must be pairs for \['quora', 'sts'\]"):
        pairs(TEXT)


def test_half_a_surrogate_pair_is_refused_by_its_input(ask: MultitaskPipeline) -> None:
    with pytest.raises(
        ValueError, match=r"input 2: the text holds '\\ud83d', half a surrogate pair"
    ) as caught:
        ask(["good", "bad \ud83d", "fine"])
    assert "\n" not in str(caught.value)
    ask("whole \U0001f600")


def test_top_k(ask: MultitaskPipeline) -> None:
    plain, every = ask(TEXT), ask(TEXT, top_k=None)
    assert [len(every["sst5"]), len(every["tags"])] == [5, 3]
    assert every["sst5"][0] == plain["sst5"] and every["tags"] == plain["tags"]
    scores = [each["score"] for each in every["sst5"]]
    assert scores == sorted(scores, reverse=True) and sum(scores) == pytest.approx(1)
    two = MultitaskPipeline(ask.model, ask.tokenizer, top_k=2, device="cpu")
    assert two(TEXT) == {task: found[:2] for task, found in every.items()}
    assert two(TEXT, top_k=1)["sst5"] == [plain["sst5"]]
    assert ask(PAIR, top_k=1)["quora"] == [ask(PAIR)["quora"]]


@pytest.mark.parametrize("wrong", [0, -1, "all", True, 1.5])
def test_top_k_that_is_no_number_of_classes(ask: MultitaskPipeline, wrong: Any) -> None:
    with pytest.raises(ValueError, match="`top_k` must be a number of 1 or more"):
        ask(TEXT, top_k=wrong)
