"""Divergences by their definitions, and outputs by task."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F
from transformers.modeling_outputs import SequenceClassifierOutput

from hf_layerfusion.errors import UserError
from hf_layerfusion.regularizers.task_outputs import (
    DIVERGENCES,
    divergence,
    problem_types,
    task_logits,
    task_losses,
)
from tests.tiny import tiny_config


def kl(p, q):
    return (p * (p / q).log()).sum(-1)


def test_divergences_by_definition():
    first, second = torch.randn(2, 5, 4, dtype=torch.float64)
    p, q = first.softmax(-1), second.softmax(-1)
    expected = {"single_label_classification": kl(p, q) + kl(q, p)}
    p, q = (torch.stack([x.sigmoid(), 1 - x.sigmoid()], -1) for x in (first, second))
    expected["multi_label_classification"] = (kl(p, q) + kl(q, p)).sum(-1)
    expected["regression"] = torch.stack([F.mse_loss(a, b) for a, b in zip(first, second, strict=True)])
    assert expected.keys() == DIVERGENCES.keys()
    for name, value in expected.items():
        torch.testing.assert_close(divergence(name, first, second), value, rtol=1e-10, atol=1e-12)


def test_small_differences_are_not_lost_in_float32():
    first = torch.randn(64, 5)
    second = first + 1e-4 * torch.randn(64, 5)
    exact = divergence("single_label_classification", first.double(), second.double())
    torch.testing.assert_close(
        divergence("single_label_classification", first, second).double(), exact, rtol=0.01, atol=1e-12
    )


def test_token_logits_are_refused():
    with pytest.raises(UserError, match=r"\[B, num_labels\].*\[2, 3, 4\]"):
        divergence("regression", torch.zeros(2, 3, 4), torch.zeros(2, 3, 4))


@pytest.mark.parametrize(
    ("changes", "labels", "expected"),
    [
        ({"num_labels": 1}, torch.zeros(2), "regression"),
        ({"num_labels": 3}, torch.zeros(2, dtype=torch.long), "single_label_classification"),
        ({"num_labels": 3}, torch.zeros(2, 3), "multi_label_classification"),
        ({"num_labels": 3}, None, "single_label_classification"),
        ({"num_labels": 3, "problem_type": "regression"}, torch.zeros(2, 3), "regression"),
    ],
)
def test_problem_type_as_transformers_guesses_it(changes, labels, expected):
    config = tiny_config("bert", 1, **changes)
    inputs = {"input_ids": torch.zeros(2, 3)} | ({} if labels is None else {"labels": labels})
    assert problem_types(config, inputs) == {"": expected}


def test_problem_types_of_tasks():
    config = SimpleNamespace(tasks={"sst": {}, "sts": {"problem_type": "regression"}})
    assert problem_types(config, {"tasks": {"sts": {}, "sst": {}}}) == {
        "sts": "regression",
        "sst": "single_label_classification",
    }
    assert problem_types(config, {"task": "sts"}) == {"sts": "regression"}


def test_outputs_by_task():
    loss, logits = torch.tensor(1.0), torch.zeros(2, 3)
    outputs = SequenceClassifierOutput(loss=loss, logits=logits)
    assert task_losses({"task": "sst"}, outputs) == {"sst": loss}
    assert task_logits({}, outputs) == {"": logits}
    several = {"losses": {"a": loss, "b": loss}, "logits": {"a": logits, "b": logits}}
    assert task_losses({"tasks": {"a": {}, "b": {}}}, several).keys() == {"a", "b"}


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        ({}, SequenceClassifierOutput(logits=torch.zeros(2, 3))),
        ({}, (torch.zeros(()), torch.zeros(2, 3))),
        ({"tasks": {"a": {}, "b": {}}}, {"losses": {"a": torch.zeros(())}}),
    ],
)
def test_missing_losses_are_named(inputs, outputs):
    with pytest.raises(UserError, match="give labels"):
        task_losses(inputs, outputs)
