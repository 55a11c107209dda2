"""The pipeline of a trained folder answers raw texts as the run did."""

from __future__ import annotations

import logging
import random
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from hf_layerfusion import BertForGRUFusionClassification, add_adapters, preprocess
from hf_layerfusion.__main__ import main
from hf_layerfusion.data.length_batches import similar
from hf_layerfusion.text_pipeline import PreparedTextClassificationPipeline
from tests.modeling.cases import build
from tests.tiny import read_csv, tiny_texts, tiny_tokenizer, write_csv


def raw_tweets(count: int) -> list[tuple[str, str]]:
    """Texts with user names, links, hashtags, blanks and misspelled words."""
    rng = random.Random(0)
    noise = (
        "@Somebody_1",
        "http://t.co/ab",
        "#win",
        "  ",
        "teh",
        "happpy",
        "GOOOD",
        "don’t",
        "www.x.org",
        "<user>",
    )
    rows = []
    for text, label in tiny_texts(count, seed=5):
        words = text.split()
        for _ in range(3):
            words.insert(rng.randrange(len(words) + 1), rng.choice(noise))
        rows.append((" ".join(words), label))
    return rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_encoder_dir: str) -> Path:
    place = tmp_path_factory.mktemp("raw")
    train, test = (
        write_csv(place / "train.csv", raw_tweets(64)),
        write_csv(place / "test.csv", raw_tweets(200)),
    )
    main(
        ["train-tweets", "--model_name_or_path", tiny_encoder_dir, "--train_file", str(train), "--test_file", str(test),
         "--output_dir", str(place / "run"), "--num_groups", "2", "--num_train_epochs", "1", "--max_seq_length", "14",
         "--remove_duplicates", "False", "--learning_rate", "3e-3", "--use_cpu"]
    )  # fmt: skip
    return place / "run"


def test_the_pipeline_gives_the_answers_of_the_run_to_200_raw_tweets(folder: Path) -> None:
    rows = read_csv(folder / "run" / "predictions.csv")
    texts = [row["text"] for row in rows]
    assert texts == [text for text, _ in raw_tweets(200)]  # the user's own
    classifier = pipeline("text-classification", model=str(folder), device="cpu")
    assert type(classifier) is PreparedTextClassificationPipeline
    answers = [classifier(text)[0] for text in texts]
    assert [answer["label"] for answer in answers] == [row["label"] for row in rows]
    for answer, row in zip(answers, rows, strict=True):
        assert answer["score"] == pytest.approx(float(row["score"]), abs=2e-6)


def test_preprocess_prepares_as_training_did(folder: Path) -> None:
    assert preprocess("@Bob teh  day #win", str(folder)) == "xxuser the day #win"
    assert preprocess(["a  b"], str(folder)) == ["a b"]


def test_another_model_has_transformers_own_answers(tiny_encoder_dir: str) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(tiny_encoder_dir)
    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder_dir)
    classifier = pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")
    batch = classifier.preprocess("@Bob  teh " * 40)
    assert batch["input_ids"].tolist() == tokenizer(["@Bob  teh " * 40])["input_ids"]
    assert preprocess("@Bob", tiny_encoder_dir) == "@Bob"


@pytest.mark.parametrize("limit", [None, 20])
def test_long_texts_are_cut_for_models_that_were_saved_without_a_run(
    limit: int | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, tokenizer = build("share-gru"), tiny_tokenizer()
    most = model.base_model.max_tokens
    assert most is not None
    tokenizer.model_max_length = limit or 10**30
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    classify = pipeline("text-classification", model=str(tmp_path), device="cpu", top_k=None)
    long = "good film " * 700
    inputs = tokenizer(long, truncation=True, max_length=min(most, limit or most), return_tensors="pt")
    with torch.no_grad():
        expected = model(**inputs).logits.softmax(-1)[0]
    found = {each["label"]: each["score"] for each in classify([long])[0]}
    assert list(found.values()) == pytest.approx(sorted(expected.tolist(), reverse=True), abs=1e-6)
    assert classify([{"text": long, "text_pair": "bad"}])
    with pytest.raises(ValueError, match="must have at most"):  # whoever asks for no cut is told
        classify([long], truncation=False)


def test_a_model_with_adapters_is_one_of_the_pipeline_s(
    tiny_encoder_dir: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    model = BertForGRUFusionClassification.from_pretrained(tiny_encoder_dir, num_groups=2)
    model = add_adapters(model, LoraConfig(r=2)).eval()
    ask = pipeline("text-classification", model=model, tokenizer=tiny_tokenizer(), top_k=None, device="cpu")
    assert len(ask(["so good"])[0]) == 2
    assert "not supported" not in caplog.text


def test_batches_are_full_or_of_similar_lengths() -> None:
    assert [list(each) for each in similar([40, 39, 38, 30, 29, 20, 15, 14], 3)] == [
        [0, 1, 2],
        [3, 4],
        [5, 6],
        [7],
    ]
    assert list(similar([], 3)) == []


def test_a_list_is_batched_by_length_and_answered_in_its_order(monkeypatch: pytest.MonkeyPatch) -> None:
    classify = pipeline("text-classification", model=build("share-gru").eval(), tokenizer=tiny_tokenizer())
    texts = [text for text, _ in raw_tweets(20)]
    texts = [" ".join([text] * (1 + 7 * number % 5)) for number, text in enumerate(texts)]
    one_by_one = classify(texts, batch_size=1)
    lengths: list[int] = []
    forward = classify.model.forward
    monkeypatch.setattr(
        classify.model,
        "forward",
        lambda **inputs: lengths.append(inputs["input_ids"].shape[1]) or forward(**inputs),
    )
    classify(texts)
    assert len(lengths) < len(texts)  # lists are batched unless one by one is asked for
    lengths.clear()
    found = classify(texts, batch_size=5)
    assert [each["label"] for each in found] == [each["label"] for each in one_by_one]
    assert [each["score"] for each in found] == pytest.approx(
        [each["score"] for each in one_by_one], abs=1e-6
    )
    assert lengths == sorted(lengths, reverse=True) and lengths[0] > lengths[-1]


def test_a_pipeline_keeps_its_tokenizer_while_it_encodes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread that uses the same pipeline must never see the tokenizer without its normalizer's cleaning."""
    classifier = pipeline("text-classification", model=str(folder), device="cpu")
    saved, seen = classifier.tokenizer, []
    encode = classifier._plain.__class__.__call__

    def watched(tokenizer, *args, **kwargs):
        seen.append(classifier.tokenizer is saved)
        return encode(tokenizer, *args, **kwargs)

    monkeypatch.setattr(classifier._plain.__class__, "__call__", watched)
    classifier("@Bob a day")
    assert seen == [True]
