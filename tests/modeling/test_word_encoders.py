"""Every fuser and pooling over encoders of words, as over others, and what such encoders read beside ids."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    TextClassificationPipeline,
    pipeline,
)

from hf_layerfusion import (
    BertForGRUFusionClassification,
    BertWithPoolingModule,
    CerbertusForMultitask,
    GRUFusionConfig,
    LayerPoolingConfig,
    MultitaskPipeline,
)
from hf_layerfusion.text_pipeline import PreparedTextClassificationPipeline
from tests.modeling.cases import SENTENCE_CASES, TOKEN_CASES, model_class, settings
from tests.tiny import assert_close_values, assert_same_weights
from tests.tiny_words import WORD_ENCODERS

TEXTS = ["what a great day today my friend", "sad", "i hate this movie so much"]
CHARACTERS = [kind for kind in WORD_ENCODERS if kind != "static"]


@dataclass
class Encoder:
    """An encoder of one kind, made once for all tests of the module."""

    folder: Path
    model: PreTrainedModel
    tokenizer: Any
    batch: dict[str, torch.Tensor]
    alone: list[dict[str, torch.Tensor]]


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Encoder]:
    found = {}
    for kind, make in WORD_ENCODERS.items():
        folder = make(tmp_path_factory.mktemp(kind))
        tokenizer = AutoTokenizer.from_pretrained(folder)
        batch, *alone = (
            dict(tokenizer(texts, padding=True, return_tensors="pt"))
            for texts in (TEXTS, *([text] for text in TEXTS))
        )
        model = AutoModel.from_pretrained(folder, train_embeddings=True)
        found[kind] = Encoder(folder, model, tokenizer, batch, alone)
    return found


def build(encoder: Encoder, case: str) -> PreTrainedModel:
    """A model around the encoder, with as many layers in a fuser as the encoder has, in double precision."""
    inner = copy.deepcopy(encoder.model)
    depth = inner.config.num_hidden_layers
    config_class = GRUFusionConfig if case in TOKEN_CASES else LayerPoolingConfig
    chosen = settings(case)
    if case in TOKEN_CASES:
        chosen |= {"num_groups": depth, "num_last_layers": min(depth, 2)}
    return model_class(case)(config_class(encoder_config=inner.config, **chosen), inner).double().eval()


def fits(kind: str, case: str) -> bool:
    """Return whether a pooling fits an encoder: no single token of static vectors represents a text."""
    tokens = SENTENCE_CASES.get(case, {}).get("token_pooling", "mean")
    return kind != "static" or tokens == "mean"


@pytest.mark.parametrize(
    ("kind", "case"),
    [(kind, case) for kind in WORD_ENCODERS for case in (*TOKEN_CASES, *SENTENCE_CASES) if fits(kind, case)],
)
def test_padding_states_and_gradients(kind: str, case: str, encoders: dict[str, Encoder]) -> None:
    encoder = encoders[kind]
    model = build(encoder, case)
    with torch.no_grad():
        expected = model(**encoder.batch).logits
        for row, alone in enumerate(encoder.alone):
            torch.testing.assert_close(model(**alone).logits[0], expected[row], rtol=0, atol=1e-12)
        read = model.model.read_states(**encoder.batch)
        mask = encoder.batch["attention_mask"] if model.model.state_spec.tokens == "all" else None
        found = model(encoder_states=read, attention_mask=mask).logits
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    model.train()(**encoder.batch, labels=torch.tensor([0, 1, 2])).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize(
    ("kind", "case"),
    [(kind, case) for kind in WORD_ENCODERS for case in (*TOKEN_CASES, *SENTENCE_CASES) if fits(kind, case)],
)
def test_empty_texts_do_not_depend_on_their_batch(kind: str, case: str, encoders: dict[str, Encoder]) -> None:
    """Alone they have no token, and beside other texts padding."""
    encoder = encoders[kind]
    model = build(encoder, case)
    beside = encoder.tokenizer(["", TEXTS[0]], padding=True, return_tensors="pt")
    alone = encoder.tokenizer(["", " "], padding=True, return_tensors="pt")
    assert alone["input_ids"].shape == (2, 0)
    with torch.no_grad():
        expected = model(**beside).logits[:1].expand(2, -1)
        torch.testing.assert_close(model(**alone).logits, expected, rtol=0, atol=1e-12)
        read = model.model.read_states(**alone)
        mask = alone["attention_mask"] if model.model.state_spec.tokens == "all" else None
        kept = read if mask is None else read[:, :, :0]
        found = model(encoder_states=kept, attention_mask=mask).logits
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", WORD_ENCODERS)
def test_pipelines_answer_empty_texts(kind: str, encoders: dict[str, Encoder]) -> None:
    encoder = encoders[kind]
    model = build(encoder, "scalar_mix-gru").float()
    texts = ["", "sad", "  ", "a great day", ""]
    for pipeline_class in (TextClassificationPipeline, PreparedTextClassificationPipeline):
        classify = pipeline_class(model=model, tokenizer=encoder.tokenizer)
        alone = [classify(text)[0]["score"] for text in texts]
        assert alone[0] == alone[2] == alone[4]
        batched = [answer["score"] for answer in classify(texts, batch_size=2)]
        assert batched == pytest.approx(alone, abs=1e-6)
    states = encoder.model(**encoder.tokenizer(["", ""], padding=True, return_tensors="pt")).last_hidden_state
    assert states.shape == (2, 1, encoder.model.config.hidden_size)
    assert not states.any()


@pytest.mark.parametrize("kind", WORD_ENCODERS)
def test_padding_on_the_left(kind: str, encoders: dict[str, Encoder]) -> None:
    encoder = encoders[kind]
    model = build(encoder, "scalar_mix-gru")
    with torch.no_grad():
        right = model(**encoder.batch).logits
        batch = encoder.tokenizer(TEXTS, padding=True, padding_side="left", return_tensors="pt")
        torch.testing.assert_close(model(**batch).logits, right, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", WORD_ENCODERS)
def test_frozen_encoder_is_the_default_and_saved_models_are_the_same(
    kind: str, encoders: dict[str, Encoder], tmp_path: Path
) -> None:
    model = BertForGRUFusionClassification.from_pretrained(encoders[kind].folder, fusion="scalar_mix")
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert_same_weights(loaded, model)
    with torch.no_grad():
        assert_close_values(loaded(**encoders[kind].batch).logits, model(**encoders[kind].batch).logits)
    for each in (model, loaded):
        assert not any(parameter.requires_grad for parameter in each.train().model.encoder.parameters())
        assert not each.model.encoder.training
        assert all(parameter.requires_grad for parameter in each.classifier.parameters())


@pytest.mark.parametrize("kind", CHARACTERS)
def test_tasks_in_one_batch_and_pairs_that_stand_apart(kind: str, encoders: dict[str, Encoder]) -> None:
    """Words of other lengths in each task's batch: characters are padded as ids are."""
    encoder = encoders[kind]
    model = CerbertusForMultitask.from_pretrained(
        encoder.folder,
        tasks={
            "mood": {"labels": ["bad", "good"]},
            "same": {
                "labels": ["no", "yes"],
                "pair": True,
                "pair_encoding": "siamese",
                "features": ["concat"],
            },
        },
    ).eval()
    assert model.config.tasks["mood"]["sentence_vector"] == "mean"
    sides = [["what a great day today", "sad"], ["incomprehensibilities !", "a friend so far away"]]
    flat = encoder.tokenizer([text for pair in zip(*sides, strict=True) for text in pair], padding=True)
    pairs = {name: torch.tensor(values).unflatten(0, (2, 2)) for name, values in flat.items()}
    with torch.no_grad():
        alone = {
            "mood": model(**encoder.batch, task="mood").logits,
            "same": model(**pairs, task="same").logits,
        }
        found = model(tasks={"mood": encoder.batch, "same": pairs}).logits
        answers = MultitaskPipeline(model, encoder.tokenizer)(TEXTS, tasks=["mood"])
        batched = pipeline("text-classification", model=model.task("mood"), tokenizer=encoder.tokenizer)(
            TEXTS, batch_size=3
        )
    assert [answer["mood"]["label"] for answer in answers] == [answer["label"] for answer in batched]
    for name, expected in alone.items():
        torch.testing.assert_close(found[name], expected, rtol=0, atol=1e-6)
    for answer, logits in zip(answers, alone["mood"], strict=True):
        assert answer["mood"]["label"] == ["bad", "good"][int(logits.argmax())]
    empty = dict(encoder.tokenizer(["", ""], padding=True, return_tensors="pt"))
    beside = dict(encoder.tokenizer(["", TEXTS[0]], padding=True, return_tensors="pt"))
    with torch.no_grad():
        nothing = model(tasks={"mood": empty, "same": pairs}).logits["mood"]
        for found in (
            nothing,
            model(tasks={"mood": empty}).logits["mood"],
            model(**empty, task="mood").logits,
        ):
            expected = model(**beside, task="mood").logits[:1].expand(2, -1)
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    pooled = BertWithPoolingModule.from_pretrained(encoder.folder, pair_features=["product"]).eval()
    with torch.no_grad():
        one = {name: values[:1, :, :5] for name, values in pairs.items()}
        torch.testing.assert_close(pooled(**one).logits, pooled(**pairs).logits[:1], rtol=0, atol=1e-6)
