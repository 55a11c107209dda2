from __future__ import annotations

from math import log

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from hf_layerfusion.modeling.heads import ClassificationHead, classification_loss, reduce_tokens
from tests.tiny import tiny_config

VALUES = torch.tensor([[[1.0, -2.0], [5.0, 4.0], [3.0, 7.0]], [[-1.0, -2.0], [-3.0, -8.0], [9.0, 9.0]]])
MASK = torch.tensor([[1, 0, 1], [1, 1, 0]])


@pytest.mark.parametrize(
    ("reduction", "masked", "whole"),
    [
        ("sum", [[4, 5], [-4, -10]], [[9, 9], [5, -1]]),
        ("mean", [[2, 2.5], [-2, -5]], [[3, 3], [5 / 3, -1 / 3]]),
        ("max", [[3, 7], [-1, -2]], [[5, 7], [9, 9]]),
    ],
)
def test_reductions_by_hand(reduction: str, masked: list[list[float]], whole: list[list[float]]) -> None:
    torch.testing.assert_close(
        reduce_tokens(VALUES, MASK, reduction), torch.tensor(masked, dtype=torch.float32)
    )
    torch.testing.assert_close(
        reduce_tokens(VALUES, None, reduction), torch.tensor(whole, dtype=torch.float32)
    )


def test_head_by_hand() -> None:
    head = ClassificationHead(2, 2, 1, dropout=0.5).eval()
    with torch.no_grad():
        head.dense.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        head.dense.bias.copy_(torch.tensor([0.0, 1.0]))
        head.out_proj.weight.copy_(torch.tensor([[10.0, 1.0]]))
        head.out_proj.bias.fill_(0.5)
    assert head(torch.tensor([[-3.0, 2.0]])).item() == 3.5  # ReLU makes -3 a 0
    assert ClassificationHead(2, 0, 1, dropout=0.0).dense is None


@pytest.mark.parametrize("guessed", [True, False])
@pytest.mark.parametrize(
    ("problem_type", "labels"),
    [
        ("single_label_classification", torch.tensor([0, 2, 1])),
        ("multi_label_classification", torch.tensor([[0.0, 1, 1], [1, 0, 0], [0, 0, 0]])),
        ("regression", torch.tensor([[0.5], [-1.0], [2.0]])),
    ],
)
def test_losses_are_those_of_transformers(problem_type: str, labels: torch.Tensor, guessed: bool) -> None:
    num_labels = 1 if problem_type == "regression" else 3
    stock = AutoModelForSequenceClassification.from_config(
        tiny_config("bert", 1, num_labels=num_labels, problem_type=None if guessed else problem_type)
    )
    expected = stock(torch.tensor([[5, 6], [7, 8], [9, 10]]), labels=labels)
    found = classification_loss(expected.logits, labels, None if guessed else problem_type, num_labels)
    torch.testing.assert_close(found, expected.loss)


def test_loss_by_hand() -> None:
    logits = torch.tensor([[log(3.0), 0.0]])
    loss = classification_loss(logits, torch.tensor([0]), "single_label_classification", 2)
    torch.testing.assert_close(loss.item(), log(4 / 3))


def test_unknown_problem_type() -> None:
    with pytest.raises(ValueError, match=r"`problem_type` must be .* found 'ranking'"):
        classification_loss(torch.zeros(1, 2), torch.tensor([0]), "ranking", 2)
