"""Pairs whose texts are encoded separately, with features of the two at every layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, pipeline

from hf_layerfusion.evaluation.layer_use import layer_use
from hf_layerfusion.modeling.fusion_pooling import SENTENCE_FUSERS
from hf_layerfusion.modeling.pair_features import PAIR_FEATURES
from hf_layerfusion.modeling.pipeline_pairs import SeparatePairsPipeline
from tests.modeling.cases import DEPTH, WIDTH, build, inputs
from tests.tiny import tiny_tokenizer

FEATURES = ["concat", "abs_difference", "product", "cosine"]


def pairs(size: int = 3) -> dict[str, torch.Tensor]:
    """Pairs of texts of different lengths, `[B, 2, T]`."""
    return {name: values.view(size, 2, -1) for name, values in inputs(2 * size).items()}


def layer_features(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The features of each layer's means `[B, L, F]`, from texts that are encoded one by one."""
    found = []
    for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
        sides = []
        for text, real in zip(ids, mask, strict=True):
            states = model.model.encoder(text[real.bool()][None], output_hidden_states=True).hidden_states[1:]
            sides.append(torch.stack([state[0].mean(0) for state in states]))
        u, v = sides
        cosine = torch.nn.functional.cosine_similarity(u, v, dim=-1)[:, None]
        found.append(torch.cat([u, v, (u - v).abs(), u * v, cosine], dim=1))
    return torch.stack(found)


@pytest.mark.parametrize("pooling", SENTENCE_FUSERS)
def test_every_pooling_pools_the_features_of_the_layers(pooling: str) -> None:
    model = build(f"{pooling}-mean", pair_features=FEATURES)
    batch = pairs()
    with torch.no_grad():
        expected = layer_features(model, batch)
        assert expected.shape == (3, DEPTH, 4 * WIDTH + 1)
        read = expected[:, -1:] if pooling == "last" else expected
        torch.testing.assert_close(model(**batch).logits, model.classifier(model.model.fuser.pool(read)))


@pytest.mark.parametrize("tokens", ["mean", "cls_mean"])
def test_states_that_were_read_before_stand_for_ids(tokens: str) -> None:
    model = build(f"concat-{tokens}", pair_features=FEATURES, residual_head="mean")
    batch = pairs()
    flat = {name: values.flatten(0, 1) for name, values in batch.items()}
    with torch.no_grad():
        states = model.model.read_states(**flat)
        given = states.unflatten(0, (-1, 2))
        assert given.shape[:3] == (3, 2, DEPTH)
        mask = torch.ones(given.shape[0], 2, given.shape[3], dtype=torch.long)
        torch.testing.assert_close(
            model(encoder_states=given, attention_mask=mask).logits, model(**batch).logits
        )


def test_a_residual_head_starts_as_the_plain_classifier_of_pairs() -> None:
    model = build("concat-mean", pair_features=FEATURES, residual_head="mean")
    batch = pairs()
    with torch.no_grad():
        expected = model.residual.head(layer_features(model, batch)[:, -1])
        torch.testing.assert_close(model(**batch).logits, expected)
    model.train()(**batch, labels=torch.tensor([0, 1, 2])).loss.backward()
    assert model.classifier.out_proj.weight.grad.abs().sum() > 0


def test_the_order_of_a_pair_counts_for_features_that_know_it() -> None:
    batch = pairs()
    swapped = {name: values.flip(1) for name, values in batch.items()}
    with torch.no_grad():
        symmetric = build("concat-mean", pair_features=["abs_difference", "product", "squared_sum"])
        torch.testing.assert_close(symmetric(**batch).logits, symmetric(**swapped).logits)
        ordered = build("concat-mean", pair_features=["concat"])
        assert (ordered(**batch).logits - ordered(**swapped).logits).abs().max() > 1e-3


def test_a_saved_model_of_pairs_answers_alike(tmp_path: Path) -> None:
    model = build("layer_graph-mean", pair_features=FEATURES)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(loaded(**pairs_once()).logits, model(**pairs_once()).logits)


def pairs_once() -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    return pairs()


def test_pairs_in_one_sequence_are_refused() -> None:
    model = build("concat-mean", pair_features=FEATURES)
    with pytest.raises(
        ValueError, match=r"`input_ids` must hold the two texts of each pair, \[B, 2, \.\.\.\]"
    ):
        model(**inputs())


@pytest.mark.parametrize("name", ["cross_attention", "product "])
def test_features_that_no_pooling_has_are_refused(name: str) -> None:
    assert "cross_attention" in PAIR_FEATURES
    with pytest.raises(ValueError, match="`pair_features` must be one of"):
        build("concat-mean", pair_features=[name])


def test_the_pipeline_encodes_the_texts_separately(tmp_path: Path) -> None:
    model, tokenizer = build("concat-mean", pair_features=FEATURES), tiny_tokenizer()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    item = {"text": "good film", "text_pair": "a very bad day"}
    batch = tokenizer(list(item.values()), padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = model(**{name: values[None] for name, values in batch.items()}).logits[0].softmax(-1)
    assert "custom_pipelines" in (tmp_path / "config.json").read_text()
    for options in ({"pipeline_class": SeparatePairsPipeline}, {"trust_remote_code": True}, {}):
        classify = pipeline("text-classification", model=str(tmp_path), device="cpu", top_k=None, **options)
        scores = {each["label"]: each["score"] for each in classify([item])[0]}
        assert scores == pytest.approx(
            {f"LABEL_{index}": value for index, value in enumerate(expected.tolist())}
        )
        pairs = [item, {"text": "bad", "text_pair": "good"}]
        one_by_one = [classify(pair)[0] for pair in pairs]
        assert [each[0]["score"] for each in classify(pairs, batch_size=2)] == [
            pytest.approx(each["score"]) for each in one_by_one
        ]
    with pytest.raises(ValueError, match="`inputs` must be pairs"):
        classify("good film")


@pytest.mark.parametrize("pooling", SENTENCE_FUSERS)
def test_the_use_of_the_layers_is_measured(pooling: str) -> None:
    model = build(f"{pooling}-mean", pair_features=FEATURES)
    use = layer_use(model, [{**pairs(), "labels": torch.tensor([0, 1, 2])}] * 2)
    assert use.num_texts == 6 and len(use.loss_rise) == DEPTH
    if use.weights is not None:
        assert sum(use.weights) == pytest.approx(1) and len(use.weights_by_class) == 3
