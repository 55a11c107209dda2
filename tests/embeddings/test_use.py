"""Encoders of words where other encoders are used: in ensembles, exported graphs and adapters."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoTokenizer

from hf_layerfusion import (
    BertForGRUFusionClassification,
    Ensemble,
    LayerFusionTrainer,
    LayerFusionTrainingArguments,
    add_adapters,
    import_embeddings,
    verify_saved,
)
from hf_layerfusion.__main__ import main
from hf_layerfusion.embeddings.word_tokenizers import word_tokenizer
from hf_layerfusion.errors import UserError
from hf_layerfusion.recipes.model_setup import check_model, load_tokenizer
from hf_layerfusion.recipes.recipe_arguments import CheckpointArguments, ModelArguments
from hf_layerfusion.text_pipeline import PreparedTextClassificationPipeline
from hf_layerfusion.training.objectives import OBJECTIVES
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
    from hf_layerfusion.export.onnx_classifier import OnnxClassifier
    from hf_layerfusion.export.onnx_export import export_onnx

    for kind, make in WORD_ENCODERS.items():
        # Without a recurrence, whose export takes most of the time and is tested elsewhere.
        folder = saved_model(make(tmp_path / kind), tmp_path / f"model-{kind}", downstream_hidden_size=0)
        model = BertForGRUFusionClassification.from_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        if kind == "static":
            assert export_onnx(model, tokenizer, tmp_path / "onnx") < 1e-4
            assert [path.name for path in (tmp_path / "onnx").glob("*.py")] == ["modeling_gru_fusion.py"]
            verify_saved(tmp_path / "onnx")
            classify = PreparedTextClassificationPipeline(model=model, tokenizer=tokenizer)
            answers = OnnxClassifier(tmp_path / "onnx")(["", *TEXTS, " "], batch_size=2)
            for found, expected in zip(answers, classify(["", *TEXTS, " "]), strict=True):
                assert found["score"] == pytest.approx(expected["score"], abs=1e-5)
            assert OnnxClassifier(tmp_path / "onnx")("") == [answers[0]] == [answers[-1]]
        else:
            with pytest.raises(
                UserError, match=r"must read ids alone, found .* reads char_ids in a loop over words"
            ):
                export_onnx(model, tokenizer, tmp_path / f"onnx-{kind}")


def test_a_tokenizer_of_another_encoder_is_refused(tmp_path: Path) -> None:
    folders = {kind: make(tmp_path / kind) for kind, make in WORD_ENCODERS.items()}
    folders["bert"] = tmp_path / "pooled" / "bert"
    rows = Dataset.from_dict({"text": TEXTS, "label": [1, 0, 0]})
    for kind, other, message in (
        (
            "static",
            "bert",
            r"must have ids below 89, the embeddings of 'static_embeddings', found \d+; give the encoder's own",
        ),
        (
            "elmo",
            "static",
            "must return char_ids, which 'elmo' reads, found input_ids, attention_mask; give the",
        ),
        ("pooled", "bert", "must return char_ids, which 'word_pooled' reads"),
        ("stack", "static", "must return char_ids, which 'embedding_stack' reads"),
    ):
        arguments = CheckpointArguments(
            model_name_or_path=str(folders[kind]), tokenizer_name=str(folders[other])
        )
        with pytest.raises(UserError, match=f"--tokenizer_name .*{message}") as caught:
            load_tokenizer(arguments)
        assert "\n" not in str(caught.value)
        model = BertForGRUFusionClassification.from_pretrained(folders[kind], fusion="scalar_mix")
        with pytest.raises(UserError, match=f"processing_class: {message}"):
            LayerFusionTrainer(
                model,
                LayerFusionTrainingArguments(output_dir=str(tmp_path / "run"), report_to=[], use_cpu=True),
                train_dataset=rows,
                processing_class=AutoTokenizer.from_pretrained(folders[other]),
            )
    few = tmp_path / "few"
    word_tokenizer(("day", "good"), "whitespace", "fallback", has_characters=False).save_pretrained(few)
    for kind, other in (("stack", "elmo"), ("static", "few")):
        arguments = CheckpointArguments(
            model_name_or_path=str(folders[kind]), tokenizer_name=str(folders.get(other, few))
        )
        with pytest.raises(UserError, match=r"have the vocabulary of the encoder .*, found [24] others"):
            load_tokenizer(arguments)
    # The same words, split in another way, and words of which characters alone are read.
    tweets = import_embeddings(
        tmp_path / "tweet", glove=tmp_path / "static" / "glove.txt", tokenization="tweet"
    )
    for kind, other in (("static", tweets), ("elmo", folders["flair"]), ("flair", folders["stack"])):
        arguments = CheckpointArguments(model_name_or_path=str(folders[kind]), tokenizer_name=str(other))
        assert load_tokenizer(arguments).get_vocab() == AutoTokenizer.from_pretrained(other).get_vocab()


@pytest.mark.parametrize("kind", WORD_ENCODERS)
def test_adapters_are_refused(kind: str, tmp_path: Path) -> None:
    model = BertForGRUFusionClassification.from_pretrained(WORD_ENCODERS[kind](tmp_path), fusion="scalar_mix")
    with pytest.raises(UserError, match=r"found word embeddings .* train them whole, with train_embeddings"):
        add_adapters(model, LoraConfig())


@pytest.mark.parametrize("kind", WORD_ENCODERS)
def test_commands_for_models_of_transformers_name_another_way(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(WORD_ENCODERS[kind](tmp_path))
    message = (
        r"AutoModel\w* knows, found word embeddings \('\w+'\); train a classifier around it .*gru_fusion"
    )
    with pytest.raises(UserError, match=message) as caught:
        check_model(ModelArguments(model_name_or_path=folder, architecture="plain"))
    assert "\n" not in str(caught.value)
    text = tmp_path / "text.txt"
    text.write_text("a great day\n")
    for objective in OBJECTIVES:
        options = {"model_name_or_path": folder, "train_file": text, "output_dir": tmp_path / objective}
        given = [f"--{name}={value}" for name, value in options.items()]
        with pytest.raises(SystemExit):
            main(["pretrain", f"--objective={objective}", *given])
        assert re.search(message, capsys.readouterr().err)
