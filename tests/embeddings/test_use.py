"""Encoders of words where other encoders are used: in ensembles, exported graphs and adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from transformers import AutoTokenizer

from hf_layerfusion import BertForGRUFusionClassification, Ensemble, add_adapters
from hf_layerfusion.errors import UserError
from tests.tiny_words import WORD_ENCODERS

TEXTS = ["what a great day", "sad", "i hate this movie so much"]


def saved_model(encoder: str | Path, folder: Path, **settings: Any) -> Path:
    """Save a classifier around an encoder, with the encoder's tokenizer."""
    model = BertForGRUFusionClassification.from_pretrained(
        encoder, fusion="scalar_mix", id2label={0: "negative", 1: "positive"}, **settings
    )
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(encoder).save_pretrained(folder)
    return folder


def test_a_vote_of_bert_and_word_embeddings(tiny_encoder_dir: str, tmp_path: Path) -> None:
    encoders = {kind: make(tmp_path / kind) for kind, make in WORD_ENCODERS.items()} | {
        "bert": tiny_encoder_dir
    }
    members = [str(saved_model(encoder, tmp_path / f"model-{kind}")) for kind, encoder in encoders.items()]
    ensemble = Ensemble.of(members, "average_probabilities")
    answers = ensemble(TEXTS, top_k=None)
    expected = torch.zeros(len(TEXTS), 2)
    for member in members:
        batch = AutoTokenizer.from_pretrained(member)(TEXTS, padding=True, return_tensors="pt")
        with torch.no_grad():
            model = BertForGRUFusionClassification.from_pretrained(member)
            expected += model(**batch).logits.softmax(dim=-1) / len(members)
    for answer, scores in zip(answers, expected.tolist(), strict=True):
        found = {each["label"]: each["score"] for each in answer}
        assert [found["negative"], found["positive"]] == pytest.approx(scores, abs=1e-5)


def test_export(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    from hf_layerfusion.export.onnx_export import export_onnx

    for kind, make in WORD_ENCODERS.items():
        # Without a recurrence, whose export takes most of the time and is tested elsewhere.
        folder = saved_model(make(tmp_path / kind), tmp_path / f"model-{kind}", downstream_hidden_size=0)
        model = BertForGRUFusionClassification.from_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        if kind == "static":
            assert export_onnx(model, tokenizer, tmp_path / "onnx") < 1e-4
        else:
            with pytest.raises(
                UserError, match=r"must read ids alone, found .* reads char_ids in a loop over words"
            ):
                export_onnx(model, tokenizer, tmp_path / f"onnx-{kind}")


@pytest.mark.parametrize("kind", WORD_ENCODERS)
def test_adapters_are_refused(kind: str, tmp_path: Path) -> None:
    model = BertForGRUFusionClassification.from_pretrained(WORD_ENCODERS[kind](tmp_path), fusion="scalar_mix")
    with pytest.raises(UserError, match=r"found word embeddings .* train them whole, with train_embeddings"):
        add_adapters(model, LoraConfig())
