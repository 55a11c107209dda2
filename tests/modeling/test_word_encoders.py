"""Every fuser and pooling over encoders of words, as over others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

from tests.modeling.cases import SENTENCE_CASES, TOKEN_CASES, model_class, settings
from tests.tiny import assert_close_values, assert_same_weights
from tests.tiny_words import WORD_ENCODERS

TEXTS = ["what a great day today my friend", "sad", "i hate this movie so much"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: make(tmp_path_factory.mktemp(kind)) for kind, make in WORD_ENCODERS.items()}


def fits(kind: str, case: str) -> bool:
    """Whether a pooling reads what the encoder has: no single token of static vectors stands for a text."""
    tokens = SENTENCE_CASES.get(case, {}).get("token_pooling", "mean")
    return kind != "static" or tokens == "mean"


CASES = [
    (kind, case) for kind in WORD_ENCODERS for case in (*TOKEN_CASES, *SENTENCE_CASES) if fits(kind, case)
]


def build(folder: Path, case: str, **changes: Any) -> PreTrainedModel:
    """A model around a folder's encoder, with as many layers in a fuser as the encoder has."""
    depth = AutoModel.from_pretrained(folder).config.num_hidden_layers
    chosen = settings(case) | (
        {"num_groups": depth, "num_last_layers": min(depth, 2)} if case in TOKEN_CASES else {}
    )
    return model_class(case).from_pretrained(folder, **chosen, **changes).eval()


def batch_of(folder: Path, texts: list[str], **options: Any) -> Any:
    return AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt", **options)


@pytest.mark.parametrize(("kind", "case"), CASES)
def test_padding_gradients_and_saving(kind: str, case: str, folders: dict[str, Path], tmp_path: Path) -> None:
    """One model, every promise: a build is what takes the time."""
    folder = folders[kind]
    model = build(folder, case, encoder_config={"train_embeddings": True}).double()
    batch = batch_of(folder, TEXTS)
    with torch.no_grad():
        expected = model(**batch).logits
        for row, text in enumerate(TEXTS):
            alone = model(**batch_of(folder, [text])).logits[0]
            torch.testing.assert_close(expected[row], alone, rtol=0, atol=1e-12)
        read = model.model.read_states(**batch)
        tokens = model.model.state_spec.tokens
        mask = batch["attention_mask"] if tokens == "all" else None
        found = model(encoder_states=read, attention_mask=mask).logits
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)

    model.train()(**batch, labels=torch.tensor([0, 1, 2])).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name

    model = model.float().eval()
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert_same_weights(loaded, model)
    with torch.no_grad():
        assert_close_values(loaded(**batch).logits, model(**batch).logits)


@pytest.mark.parametrize("kind", WORD_ENCODERS)
def test_padding_on_the_left(kind: str, folders: dict[str, Path]) -> None:
    model = build(folders[kind], "share-gru").double()
    with torch.no_grad():
        right = model(**batch_of(folders[kind], TEXTS)).logits
        left = model(**batch_of(folders[kind], TEXTS, padding_side="left")).logits
    torch.testing.assert_close(left, right, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", WORD_ENCODERS)
def test_frozen_encoder_is_the_default(kind: str, folders: dict[str, Path]) -> None:
    model = build(folders[kind], "scalar_mix-gru").train()
    assert not any(parameter.requires_grad for parameter in model.model.encoder.parameters())
    assert not model.model.encoder.training
    assert all(parameter.requires_grad for parameter in model.classifier.parameters())
