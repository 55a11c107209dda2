"""Encoders of subwords as encoders of words, alone and in a stack."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import AutoModel, AutoTokenizer, BertTokenizerFast, PreTrainedTokenizerFast

from hf_layerfusion import BertForGRUFusionClassification, Ensemble, import_embeddings
from hf_layerfusion.errors import UserError
from hf_layerfusion.recipes.model_setup import load_tokenizer
from hf_layerfusion.recipes.recipe_arguments import ModelArguments
from hf_layerfusion.text_pipeline import PreparedTextClassificationPipeline
from tests.tiny import assert_same_weights, tiny_config, tiny_tokenizer
from tests.tiny_words import write_glove

TEXT = "good days unhappy nights"
"""Words of 1, 2, 2 and 2 subwords."""


def wordpiece() -> Tokenizer:
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "day", "##s", "bad", "un", "##happy", "night"]
    tokenizer = Tokenizer(
        models.WordPiece({piece: row for row, piece in enumerate(pieces)}, unk_token="[UNK]")
    )
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


@pytest.fixture(scope="module")
def model2vec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a weight of each subword and a table whose rows several share, as published ones have."""
    folder = tmp_path_factory.mktemp("model2vec")
    rng = np.random.default_rng(0)
    table = rng.normal(size=(6, 4)).astype(np.float16)
    save_file(
        {
            "embeddings": table,
            "weights": rng.random(11).astype(np.float32),
            "mapping": (np.arange(11) % 6).astype(np.int32),
        },
        folder / "model.safetensors",
    )
    wordpiece().save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"model_type": "model2vec", "normalize": True}))
    return folder


def vectors_of(folder: Path) -> np.ndarray:
    """Vectors of all subwords by the definition."""
    found = load_file(folder / "model.safetensors")
    return found["embeddings"].astype(np.float32)[found["mapping"]] * found["weights"][:, None]


def test_a_static_model_of_model2vec_has_the_mean_of_its_subwords(model2vec: Path, tmp_path: Path) -> None:
    folder = import_embeddings(tmp_path / "encoder", model2vec=model2vec)
    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer([TEXT, "bad"], padding=True, return_tensors="pt")
    assert tokenizer.convert_ids_to_tokens(inputs["input_ids"][0]) == [
        "good", "day", "##s", "un", "##happy", "night", "##s",
    ]  # fmt: skip
    states = model(**inputs).last_hidden_state
    expected = vectors_of(model2vec)[[4, 5, 6, 8, 9, 10, 6]].mean(axis=0)
    np.testing.assert_allclose(states[0].mean(dim=0).numpy(), expected, rtol=1e-6, atol=1e-7)
    assert not states[1, 1:].any(), "padding is zero"
    assert not any(weight.requires_grad for weight in model.parameters())
    fused = BertForGRUFusionClassification.from_pretrained(folder, num_groups=1, num_labels=2)
    assert fused(**inputs).logits.shape == (2, 2)


@pytest.fixture(scope="module", params=["wordpiece", "byte-level"])
def subwords(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT with a tokenizer that splits words: BERT's, or GPT-2's, whose subwords begin with the blank."""
    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    if request.param == "wordpiece":
        tokenizer = BertTokenizerFast(vocab=wordpiece().get_vocab(), model_max_length=16)
    else:
        pieces = Tokenizer(models.BPE())
        pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = trainers.BpeTrainer(
            vocab_size=280, special_tokens=["[PAD]"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
        )
        pieces.train_from_iterator([TEXT, "bad day"], trainer)
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=pieces, pad_token="[PAD]", model_max_length=16)
    config = tiny_config("bert", 3, vocab_size=len(tokenizer))
    AutoModel.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_states_of_an_encoder_are_averaged_over_each_word_s_subwords(subwords: Path, tmp_path: Path) -> None:
    """Beside transformers' own pass over each text alone; other texts and padding change nothing."""
    folder = import_embeddings(tmp_path / "encoder", encoder=subwords)
    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert (model.config.num_hidden_layers, model.config.hidden_size) == (3, 32)
    inputs = tokenizer([TEXT, "bad"], padding=True, return_tensors="pt")
    found = model(**inputs, output_hidden_states=True).hidden_states[1:]
    encoder, own = AutoModel.from_pretrained(subwords).eval(), AutoTokenizer.from_pretrained(subwords)
    for row, text in enumerate((TEXT, "bad")):
        encoded = own(text, return_tensors="pt")
        with torch.no_grad():
            states = encoder(**encoded, output_hidden_states=True).hidden_states[1:]
        pieces = [piece.strip("#Ġ") for piece in own.convert_ids_to_tokens(encoded["input_ids"][0])]
        for layer, of_layer in enumerate(states):
            taken = pieces.index("[CLS]") + 1 if "[CLS]" in pieces else 0
            for number, word in enumerate(text.split()):
                places, spelled = [], ""
                while spelled != word:
                    spelled += pieces[taken]
                    places += [taken] if pieces[taken] else []
                    taken += 1
                torch.testing.assert_close(
                    found[layer][row, number], of_layer[0, places].mean(dim=0), rtol=0, atol=1e-6
                )
    assert not found[-1][1, 1:].any()
    model.save_pretrained(tmp_path / "again")
    assert_same_weights(AutoModel.from_pretrained(tmp_path / "again"), model)


def test_texts_are_cut_to_the_subwords_that_the_encoder_takes(
    subwords: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Words beyond the last subword that the encoder takes get zeros, with one warning."""
    folder = import_embeddings(tmp_path / "encoder", encoder=subwords)
    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    encoder, own = AutoModel.from_pretrained(subwords).eval(), AutoTokenizer.from_pretrained(subwords)
    text = " ".join(["unhappy days"] * 10)
    with torch.no_grad():
        cut = own(text, truncation=True, return_tensors="pt", return_offsets_mapping=True)
        offsets = cut.pop("offset_mapping")[0].tolist()
        states = encoder(**cut).last_hidden_state[0]
    assert states.shape[0] == own.model_max_length
    expected = torch.zeros(20, states.shape[-1])
    for word in range(20):
        before = len(" ".join(text.split()[:word]))
        after = len(" ".join(text.split()[: word + 1]))
        places = [place for place, (_, end) in enumerate(offsets) if before < end <= after]
        if places:
            expected[word] = states[places].mean(dim=0)
    assert not expected[-1].any() and expected[4].any()
    logging.Logger.warning_once.cache_clear()
    for _ in range(2):
        found = model(**tokenizer([text, TEXT], padding=True, return_tensors="pt")).last_hidden_state
        torch.testing.assert_close(found[0], expected, rtol=0, atol=1e-6)
        assert found[1, :4].any(dim=-1).all()
    said = [message for message in caplog.messages if "Texts of more than 16 subwords are cut" in message]
    assert len(said) == 1


def test_no_more_words_than_the_encoder_takes_subwords(subwords: Path, tmp_path: Path) -> None:
    """Alone and in a stack: the tokenizer of a run is limited, pipelines cut, and models refuse more."""
    own = AutoTokenizer.from_pretrained(subwords)
    most = 16 - own.num_special_tokens_to_add()
    for name, others in (("alone", {}), ("stack", {"glove": write_glove(tmp_path / "glove.txt")})):
        folder = import_embeddings(tmp_path / name, encoder=subwords, **others)
        assert load_tokenizer(ModelArguments(model_name_or_path=str(folder))).model_max_length == most
        model = BertForGRUFusionClassification.from_pretrained(folder, fusion="scalar_mix").eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        classify = PreparedTextClassificationPipeline(model=model, tokenizer=tokenizer)
        words = ["good"] * most
        long = " ".join([*words, "bad"])
        assert classify(long) == classify(" ".join(words)) != classify("bad")
        model.save_pretrained(tmp_path / f"{name}-model")
        tokenizer.save_pretrained(tmp_path / f"{name}-model")
        ensemble = Ensemble.of([str(tmp_path / f"{name}-model")], "average_probabilities")
        assert ensemble([long])[0]["score"] == pytest.approx(classify(long)[0]["score"], abs=1e-6)
        with pytest.raises(
            ValueError, match=rf"at most {most} tokens, .* found {most + 1}; .*max_length={most}\)\.$"
        ):
            model(**tokenizer(long, return_tensors="pt"))


def test_both_are_members_of_a_stack(subwords: Path, model2vec: Path, tmp_path: Path) -> None:
    """Widths 8 of GloVe, 4 of model2vec and 32 of BERT; three layers, and BERT's tuned alone."""
    folder = import_embeddings(
        tmp_path / "encoder",
        glove=write_glove(tmp_path / "glove.txt"), model2vec=model2vec, encoder=subwords, train_embeddings=["encoder"],
    )  # fmt: skip
    model = AutoModel.from_pretrained(folder).train()
    assert (model.config.num_hidden_layers, model.config.hidden_size) == (3, 44)
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert trained and all(name.startswith("members.2.encoder.") for name in trained)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer([TEXT, "bad"], padding=True, return_tensors="pt")
    states = model(**inputs, output_hidden_states=True).hidden_states[1:]
    table = vectors_of(model2vec)
    expected = [table[[4]], table[[5, 6]], table[[8, 9]], table[[10, 6]]]
    for of_layer in states:
        np.testing.assert_allclose(
            of_layer[0, :, 8:12].detach().numpy(),
            [each.mean(axis=0) for each in expected],
            rtol=1e-5,
            atol=1e-6,
        )
    fused = BertForGRUFusionClassification.from_pretrained(folder, num_groups=3, num_labels=2)
    fused(**inputs, labels=torch.tensor([0, 1])).loss.backward()
    gradients = [
        weight.grad for name, weight in fused.named_parameters() if "members.2" in name and "query" in name
    ]
    assert gradients and all(gradient is not None and gradient.any() for gradient in gradients)


BAD_ARRAYS: dict[str, tuple[dict[str, np.ndarray[Any, Any]], str]] = {
    "rows that are not there": ({"mapping": np.full(11, 6)}, "`mapping` must hold numbers of the 6 rows"),
    "negative rows": ({"mapping": np.full(11, -1)}, "`mapping` must hold numbers of the 6 rows"),
    "parts of rows": ({"mapping": np.full(11, 0.5)}, "`mapping` must hold numbers of the 6 rows"),
    "one weight for all": ({"weights": np.ones(1)}, r"`weights` must be \[11\], .* found \[1\]"),
    "weights of values": ({"weights": np.ones((11, 4))}, r"`weights` must be \[11\], .* found \[11, 4\]"),
    "no values": (
        {"embeddings": np.ones((6, 0))},
        r"a finite vector for each of 11 subwords, found \[11, 0\]",
    ),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_arrays_of_model2vec_that_do_not_fit(case: str, model2vec: Path, tmp_path: Path) -> None:
    changes, message = BAD_ARRAYS[case]
    shutil.copy(model2vec / "tokenizer.json", tmp_path)
    save_file(load_file(model2vec / "model.safetensors") | changes, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=message) as caught:
        import_embeddings(tmp_path / "out", model2vec=tmp_path)
    assert "\n" not in str(caught.value)


def test_a_subword_whose_number_has_no_row(model2vec: Path, tmp_path: Path) -> None:
    shutil.copy(model2vec / "model.safetensors", tmp_path)
    settings = json.loads((model2vec / "tokenizer.json").read_text())
    settings["model"]["vocab"]["night"] = 500
    (tmp_path / "tokenizer.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match="for each of 501 subwords"):
        import_embeddings(tmp_path / "out", model2vec=tmp_path)


def test_options_of_words_are_for_those_members_of_a_stack_that_have_some(
    model2vec: Path, tmp_path: Path
) -> None:
    folder = import_embeddings(
        tmp_path / "encoder",
        glove=write_glove(tmp_path / "glove.txt"), model2vec=model2vec, max_words=5, unknown="mean", lookup="fallback",
    )  # fmt: skip
    assert len(AutoTokenizer.from_pretrained(folder)) == 5 + 2


def test_mistakes_are_one_line_and_leave_nothing(subwords: Path, model2vec: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "model.safetensors").write_bytes((model2vec / "model.safetensors").read_bytes()[:40])
    wordpiece().save(str(tmp_path / "cut" / "tokenizer.json"))
    (tmp_path / "few").mkdir()
    save_file({"embeddings": np.zeros((5, 4), np.float32)}, tmp_path / "few" / "model.safetensors")
    wordpiece().save(str(tmp_path / "few" / "tokenizer.json"))
    for name in ("mute", "garbled"):
        shutil.copytree(subwords, tmp_path / name, ignore=shutil.ignore_patterns("tokenizer*", "vocab*"))
    (tmp_path / "garbled" / "tokenizer.json").write_text("{")
    glove = import_embeddings(tmp_path / "glove", glove=write_glove(tmp_path / "glove.txt"))
    tiny_tokenizer().save_pretrained(tmp_path / "empty")
    for sources, message in (
        ({"model2vec": subwords}, "must hold `embeddings`, a row a subword"),
        ({"model2vec": tmp_path / "empty"}, "found no model.safetensors"),
        ({"model2vec": tmp_path / "cut"}, r"cut/model\.safetensors: cannot be read"),
        ({"model2vec": tmp_path / "few"}, r"for each of 11 subwords, found \[5, 4\]"),
        (
            {"model2vec": model2vec, "max_words": 5},
            "--max_words is for vectors of words and excludes --model2vec",
        ),
        (
            {"model2vec": model2vec, "lookup": "fallback"},
            "--lookup is for vectors of words and excludes --model2vec",
        ),
        ({"model2vec": model2vec, "unknown": "mean"}, "--unknown is for .* excludes --model2vec, found mean"),
        (
            {"model2vec": model2vec, "bad_rows": "skip"},
            "--bad_rows is for .* excludes --model2vec, found skip",
        ),
        (
            {"model2vec": model2vec, "tokenization": "tweet"},
            "--model2vec alone, which keeps its own tokenizer",
        ),
        ({"model2vec": "x" * 5_000}, "^--model2vec x{100}…: cannot be read .File name too long"),
        ({"encoder": tmp_path / "none"}, "--encoder .*none: must be a folder .* found no such folder"),
        ({"encoder": "x" * 5_000}, "^--encoder x{100}…: must be a folder"),
        ({"encoder": glove}, "^--encoder [^:]*: must be an encoder of subwords, found 'static_embeddings'"),
        ({"encoder": tmp_path / "mute"}, "must have a tokenizer with subwords, found special tokens alone"),
        ({"encoder": tmp_path / "garbled"}, "its tokenizer cannot be loaded"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            import_embeddings(tmp_path / "out", **sources)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "out").exists()
