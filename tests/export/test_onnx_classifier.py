from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, TextClassificationPipeline

from hf_layerfusion import MultitaskPipeline
from hf_layerfusion.data.text_preparation import prepared_tokenizer
from hf_layerfusion.data.tweets import TweetPreprocessor
from hf_layerfusion.errors import UserError
from hf_layerfusion.export import OnnxClassifier, export_onnx
from tests.modeling import multitask_cases
from tests.tiny import tiny_config, tiny_tokenizer

PAIR = {"text": "a good day", "text_pair": "we love it"}
CALLS: list[tuple[Any, dict[str, Any]]] = [
    ("a good day", {}),
    (["a good day", "what an awful thing to do on such a day"], {"batch_size": 2}),
    (["bad", "sad"], {"top_k": None}),
    ("bad", {"top_k": 2, "function_to_apply": "sigmoid"}),
    (PAIR, {}),
]


def flat(answers: Any) -> list[dict[str, Any]]:
    if isinstance(answers, dict):
        return [answers]
    return [each for answer in answers for each in flat(answer)]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A classifier, and the folder of its graph."""
    torch.manual_seed(0)
    config = tiny_config("bert", 1, num_labels=3)
    model = multitask_cases.scramble(AutoModelForSequenceClassification.from_config(config)).eval()
    folder = tmp_path_factory.mktemp("export") / "onnx"
    export_onnx(model, tiny_tokenizer(), folder)
    return model, folder


@pytest.mark.parametrize(("inputs", "options"), CALLS)
def test_answers_as_the_pipeline_of_the_model(
    exported: tuple[Any, Path], inputs: Any, options: dict[str, Any]
) -> None:
    model, folder = exported
    pipeline = TextClassificationPipeline(model=model, tokenizer=tiny_tokenizer(), device="cpu")
    found, expected = OnnxClassifier(folder)(inputs, **options), pipeline(inputs, **options)
    assert type(found) is type(expected)
    assert [answer["label"] for answer in flat(found)] == [answer["label"] for answer in flat(expected)]
    for one, other in zip(flat(found), flat(expected), strict=True):
        assert one["score"] == pytest.approx(other["score"], abs=1e-5)


def test_a_list_is_batched_by_length(exported: tuple[Any, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    classify = OnnxClassifier(exported[1])
    texts = ["good day " * (1 + 7 * number % 5) for number in range(10)]
    one_by_one = [classify(text)[0] for text in texts]
    lengths: list[int] = []
    forward = classify.model.forward
    monkeypatch.setattr(
        classify.model,
        "forward",
        lambda **inputs: lengths.append(inputs["input_ids"].shape[1]) or forward(**inputs),
    )
    for found, expected in zip(classify(texts, batch_size=4), one_by_one, strict=True):
        assert found == {"label": expected["label"], "score": pytest.approx(expected["score"], abs=1e-6)}
    assert len(lengths) < len(texts) and lengths == sorted(lengths, reverse=True) and lengths[0] > lengths[-1]


def test_raw_texts_are_prepared_as_the_training_texts_were(
    exported: tuple[Any, Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(exported[1], tmp_path / "onnx")
    steps = ["users", "emoticons", "lowercase"]  # "emoticons" cannot stand in a tokenizer
    prepared_tokenizer(tiny_tokenizer(), steps, 8).save_pretrained(folder)
    raw = ["@Bob GOOD :)", "an awful   day :(", "so good " * 9]
    found = OnnxClassifier(folder)(raw, top_k=None)
    clean = TweetPreprocessor(steps).clean
    expected = OnnxClassifier(exported[1])(list(map(clean, raw)), top_k=None, max_length=8)
    for answers, wanted in zip(found, expected, strict=True):
        assert {each["label"]: each["score"] for each in answers} == pytest.approx(
            {each["label"]: each["score"] for each in wanted}, abs=1e-6
        )


def test_a_text_of_700_words_is_cut_off(exported: tuple[Any, Path]) -> None:
    text = "a good day " * 350
    expected = TextClassificationPipeline(model=exported[0], tokenizer=tiny_tokenizer(), device="cpu")
    score = OnnxClassifier(exported[1])(text)[0]["score"]
    assert score == pytest.approx(expected(text, truncation=True)[0]["score"], abs=1e-5)


def test_siamese_pairs(siamese: tuple[Any, Path]) -> None:
    model, folder = siamese
    classify = OnnxClassifier(folder)
    expected = MultitaskPipeline(model, tiny_tokenizer())(PAIR, tasks=["sts"])["sts"]
    assert classify(PAIR)["score"] == pytest.approx(expected, abs=1e-5)
    assert len(classify([PAIR, PAIR])) == 2
    with pytest.raises(
        UserError, match=r"must be a pair .* for this model, found something else; correct it\.$"
    ):
        classify("a good day")
    with pytest.raises(UserError, match=r"input 2: the text holds '\\udc80', half a surrogate pair"):
        classify([PAIR, {**PAIR, "text_pair": "\udc80"}])


def test_a_folder_without_a_graph_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"must hold model.onnx, found none; export a model there\.$"):
        OnnxClassifier(tmp_path)


def test_a_graph_without_its_configuration_is_refused(exported: tuple[Any, Path], tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes((exported[1] / "model.onnx").read_bytes())
    with pytest.raises(UserError, match=r"must hold the export's configuration and tokenizer, found .*\.$"):
        OnnxClassifier(tmp_path)
