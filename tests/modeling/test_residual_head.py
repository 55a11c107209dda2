"""A residual head makes the start of training that of plain fine-tuning, whatever the fuser and the encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from hf_layerfusion import BertForGRUFusionClassification, BertWithPoolingModule
from tests.modeling.cases import CASES, LABELS, SENTENCE_CASES, build, inputs
from tests.tiny import MODEL_TYPES, assert_same_weights, tiny_config


def vector_of(case: str) -> str:
    """The vector of the last layer that goes with a case."""
    return CASES[case]["token_pooling"].split("_")[0] if case in SENTENCE_CASES else "mean"


def plain(model: Any, vector: str) -> Any:
    """The classifier on one vector of the last layer, with the encoder and the residual head's weights."""
    config = {
        "encoder_config": model.config.encoder_config.to_dict(),
        "pooling": "last",
        "num_labels": LABELS,
    }
    found = BertWithPoolingModule(BertWithPoolingModule.config_class(token_pooling=vector, **config)).eval()
    found.model.encoder.load_state_dict(model.model.encoder.state_dict())
    found.classifier.out_proj.load_state_dict(model.residual.head.out_proj.state_dict())
    return found


@pytest.mark.parametrize("case", CASES)
def test_before_the_first_step_the_model_is_the_plain_classifier(case: str) -> None:
    model = build(case, residual_head=vector_of(case))
    batch = inputs()
    with torch.no_grad():
        expected = plain(model, vector_of(case))(**batch).logits
        assert torch.equal(model(**batch).logits, expected)
    assert expected.std() > 0


@pytest.mark.parametrize("model_type", MODEL_TYPES)
@pytest.mark.parametrize("case", ["share-gru", "lstm-mean"])
def test_for_every_family_of_encoders(model_type: str, case: str) -> None:
    model = build(case, residual_head="mean", encoder_config=tiny_config(model_type))
    batch = inputs()
    with torch.no_grad():
        assert torch.equal(model(**batch).logits, plain(model, "mean")(**batch).logits)


@pytest.mark.parametrize("case", ["share-gru", "concat-mean", "attentive-cls"])
def test_the_branch_learns_from_the_first_step(case: str) -> None:
    model = build(case, residual_head=vector_of(case)).train()
    batch = {**inputs(), "labels": torch.tensor([0, 1, 2])}
    model(**batch).loss.backward()
    assert model.classifier.out_proj.weight.grad.abs().sum() > 0
    with torch.no_grad():
        for parameter in model.classifier.out_proj.parameters():
            parameter -= parameter.grad
    model.zero_grad()
    model(**batch).loss.backward()
    fuser = [parameter for parameter in model.model.fuser.parameters() if parameter.requires_grad]
    assert all(parameter.grad is not None for parameter in fuser)


def test_built_from_an_encoder_and_saved(tiny_encoder_dir: str, tmp_path: Path) -> None:
    model = BertForGRUFusionClassification.from_pretrained(
        tiny_encoder_dir, num_groups=2, residual_head="mean"
    )
    assert not model.classifier.out_proj.weight.any()
    assert model.residual.head.out_proj.weight.any()
    with torch.no_grad():
        model.classifier.out_proj.weight.fill_(0.5)
    model.save_pretrained(tmp_path)
    assert_same_weights(BertForGRUFusionClassification.from_pretrained(tmp_path), model)


@pytest.mark.parametrize("case", ["share-gru", "concat-cls_mean", "lstm-mean"])
def test_states_in_place_of_ids(case: str) -> None:
    model = build(case, residual_head=vector_of(case)).double()
    batch = inputs()
    with torch.no_grad():
        model.classifier.out_proj.weight.normal_()
        expected = model(**batch).logits
        read = model.model.read_states(**batch)
        mask = batch["attention_mask"] if case == "share-gru" else None
        found = model(encoder_states=read, attention_mask=mask).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("case", "vector", "message"),
    [
        ("lstm-cls", "mean", r"a vector that is pooled \(cls\), found 'mean'"),
        ("share-gru", "pooler", "must be 'cls', 'last' or 'mean', found 'pooler'"),
    ],
)
def test_refusals(case: str, vector: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(case, residual_head=vector)
