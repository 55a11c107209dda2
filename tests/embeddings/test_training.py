"""Models around encoders of words in the Trainer: with and without the cache of frozen states."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import AutoTokenizer, DataCollatorWithPadding

from hf_layerfusion import BertForGRUFusionClassification, LayerFusionTrainer
from hf_layerfusion.regularizers.noise_sites import EmbeddingNoise
from hf_layerfusion.training.collators import PaddingCollator
from tests.tiny import tiny_texts
from tests.tiny_words import WORD_ENCODERS
from tests.training.small import small_arguments


@pytest.mark.parametrize("kind", WORD_ENCODERS)
def test_cached_states_train_the_same_weights(kind: str, tmp_path: Path) -> None:
    folder = WORD_ENCODERS[kind](tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = [{**tokenizer(text), "labels": int(label == "positive")} for text, label in tiny_texts(16)]
    trained = []
    for cache in (None, str(tmp_path / "cache")):
        torch.manual_seed(0)
        model = BertForGRUFusionClassification.from_pretrained(
            folder,
            num_groups=1,
            fusion_hidden_size=4,
            downstream_hidden_size=4,
            dense_size=0,
            classifier_dropout=0.0,
        )
        arguments = small_arguments(
            tmp_path / "run",
            per_device_train_batch_size=8,
            num_train_epochs=2,
            cache_frozen_states=cache,
        )
        trainer = LayerFusionTrainer(
            model,
            arguments,
            data_collator=DataCollatorWithPadding(tokenizer),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
        )
        trainer.train()
        trained.append(model.state_dict())
    assert trained[0].keys() == trained[1].keys()
    for name, value in trained[0].items():
        torch.testing.assert_close(trained[1][name], value, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", WORD_ENCODERS)
def test_empty_texts_are_trained_on_and_predicted_alike(kind: str, tmp_path: Path) -> None:
    """Two batches of empty texts alone, one of both kinds; with cached states and without."""
    folder = WORD_ENCODERS[kind](tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = [{**tokenizer(text), "labels": 1} for text in ("", "", "", " ", "", "good day")]
    for cache in (None, str(tmp_path / "cache")):
        arguments = small_arguments(
            tmp_path / "run",
            per_device_train_batch_size=2,
            per_device_eval_batch_size=2,
            cache_frozen_states=cache,
        )
        trainer = LayerFusionTrainer(
            BertForGRUFusionClassification.from_pretrained(folder, fusion="scalar_mix"),
            arguments,
            data_collator=PaddingCollator(tokenizer),
            train_dataset=rows,
            processing_class=tokenizer,
        )
        trainer.train()
        found = torch.tensor(trainer.predict(rows).predictions)
        torch.testing.assert_close(found[:5], found[4:5].expand(5, -1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", WORD_ENCODERS)
def test_noise_is_added_to_each_words_vector(kind: str, tmp_path: Path) -> None:
    """What regularizers such as SMART move reaches every layer: the loss has a gradient there."""
    folder = WORD_ENCODERS[kind](tmp_path)
    model = BertForGRUFusionClassification.from_pretrained(folder, fusion="scalar_mix").eval()
    batch = AutoTokenizer.from_pretrained(folder)(["good day", "bad"], padding=True, return_tensors="pt")
    site = EmbeddingNoise(model)
    with site.recording():
        logits = model(**batch).logits
    ((state, mask),) = site.sites
    # Pieces of words with the marks around a text, where an encoder of transformers is pooled to words.
    real = [[1, 1, 1, 1], [1, 1, 1, 0]] if kind == "pooled" else [[1, 1], [1, 0]]
    assert mask.squeeze(-1).tolist() == real
    with site.inject([torch.zeros_like(state)], False):
        assert torch.equal(model(**batch).logits, logits)
    noise = 0.1 * torch.randn_like(state)
    with site.inject([noise], False):
        moved = model(**batch, output_hidden_states=True)
    assert not torch.equal(moved.logits, logits)
    plain = model(**batch, output_hidden_states=True).hidden_states
    assert all(not torch.equal(a, b) for a, b in zip(moved.hidden_states, plain, strict=True))
