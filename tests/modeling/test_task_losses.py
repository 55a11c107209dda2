from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from hf_layerfusion.modeling.task_config import TaskConfig
from hf_layerfusion.modeling.task_losses import TASK_LOSSES

TWO = {"labels": ["no", "yes"]}
SIAMESE = {"pair": True, "pair_encoding": "siamese"}
NUMBER = {"problem_type": "regression", "value_range": [0, 5]}
SEVERAL = {"problem_type": "multi_label_classification", "labels": ["a", "b", "c"]}
VALUES = torch.tensor([[-1.2], [0.3], [2.5]], dtype=torch.float32)
CLASSES = torch.tensor([0, 1, 1])


def loss_of(name: str, **fields: Any) -> Any:
    return TASK_LOSSES[name](TaskConfig(loss=name, **fields))


def test_cross_entropy_by_hand() -> None:
    loss = loss_of("cross_entropy", labels=["a", "b", "c"])
    values, labels = torch.randn(4, 3), torch.tensor([2, 0, 1, 1])
    x = values.double()
    expected = -(x[range(4), labels] - x.exp().sum(1).log()).mean()
    torch.testing.assert_close(loss(values, labels).double(), expected)
    assert loss.num_outputs == 3
    assert loss.logits(values) is values


def test_binary_cross_entropy_by_hand() -> None:
    loss = loss_of("binary_cross_entropy", **TWO)
    p = 1 / (1 + (-VALUES.double().view(-1)).exp())
    expected = -torch.where(CLASSES == 1, p.log(), (1 - p).log()).mean()
    torch.testing.assert_close(loss(VALUES, CLASSES).double(), expected)
    assert loss.num_outputs == 1
    torch.testing.assert_close(loss.logits(VALUES).softmax(1)[:, 1].double(), p)


def test_binary_cross_entropy_of_several_labels_by_hand() -> None:
    loss = loss_of("binary_cross_entropy", **SEVERAL)
    values, labels = torch.randn(2, 3), torch.tensor([[1.0, 0, 1], [0, 0, 1]])
    p = 1 / (1 + (-values.double()).exp())
    torch.testing.assert_close(
        loss(values, labels).double(), -(labels * p.log() + (1 - labels) * (1 - p).log()).mean()
    )
    assert loss.num_outputs == 3
    assert loss.logits(values) is values


@pytest.mark.parametrize("labels", [torch.tensor([0.5, 4, 2.0]), torch.tensor([[0.5], [4], [2.0]])])
def test_mean_squared_error_by_hand(labels: torch.Tensor) -> None:
    loss = loss_of("mse", **NUMBER)
    expected = ((-1.2 - 0.5) ** 2 + (0.3 - 4) ** 2 + (2.5 - 2) ** 2) / 3
    assert loss(VALUES, labels).item() == pytest.approx(expected, rel=1e-6)
    assert loss.logits(VALUES) is VALUES


@pytest.mark.parametrize(
    ("name", "fields", "outputs"),
    [
        ("cross_entropy", TWO, 2),
        ("binary_cross_entropy", TWO, 1),
        ("mse", TWO, 1),
        ("cosine_embedding", {**TWO, **SIAMESE, "head": "cosine"}, 1),
    ],
)
def test_rows_without_a_class_count_for_nothing(name: str, fields: dict[str, Any], outputs: int) -> None:
    """Unlabelled rows are ignored, as in torch's cross-entropy and in the Trainer's counts."""
    loss = loss_of(name, **fields)
    values = torch.randn(5, outputs, requires_grad=True)
    labels = torch.tensor([1, -100, 0, 1, -100])
    found = loss(values, labels)
    torch.testing.assert_close(found, loss(values[[0, 2, 3]], labels[[0, 2, 3]]))
    found.backward()
    assert values.grad is not None and not values.grad[[1, 4]].any()


def test_mean_squared_error_of_two_classes_by_hand() -> None:
    loss = loss_of("mse", **TWO)
    values = torch.tensor([[0.2], [0.7], [1.4]])
    assert loss(values, CLASSES).item() == pytest.approx((0.2**2 + 0.3**2 + 0.4**2) / 3, rel=1e-5)
    # The value is the second class's probability, cut off at 0 and 1.
    torch.testing.assert_close(
        loss.logits(values).softmax(1)[:, 1], torch.tensor([0.2, 0.7, 1.0]), rtol=0, atol=2e-6
    )


def test_cosine_embedding_is_torchs() -> None:
    u, v = torch.randn(6, 5, dtype=torch.float64), torch.randn(6, 5, dtype=torch.float64)
    labels = torch.tensor([0, 1, 0, 1, 1, 0])
    cosine = (u * v).sum(1) / u.norm(dim=1) / v.norm(dim=1)
    loss = loss_of("cosine_embedding", **TWO, **SIAMESE, head="cosine")
    expected = F.cosine_embedding_loss(u, v, 2 * labels - 1)
    torch.testing.assert_close(loss(cosine.unsqueeze(1), labels).double(), expected)
    assert (cosine[labels == 0] > 0).any() and (cosine[labels == 0] < 0).any()


def test_cosine_embedding_of_a_regression_scales_labels_to_its_range() -> None:
    """At the ends of the range it is torch's loss of similar and dissimilar pairs; between them it is linear."""
    u, v = torch.randn(7, 5, dtype=torch.float64), torch.randn(7, 5, dtype=torch.float64)
    cosine = F.cosine_similarity(u, v)
    assert (cosine > 0).any() and (cosine < 0).any()
    fields = {**NUMBER, **SIAMESE, "head": "cosine", "value_range": [1, 5]}
    loss = loss_of("cosine_embedding", **fields)
    similar, dissimilar = (F.cosine_embedding_loss(u, v, torch.full((7,), sign)) for sign in (1, -1))
    for label, share in ((5.0, 1.0), (1.0, 0.0), (4.0, 0.75)):
        found = loss(1 + 4 * cosine.unsqueeze(1), torch.full((7,), label))
        expected = share * similar + (1 - share) * dissimilar
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-6)
    values = torch.tensor([[2.5]])
    assert loss.logits(values) is values


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("cross_entropy", NUMBER),
        ("cross_entropy", SEVERAL),
        ("cross_entropy", {**TWO, **SIAMESE, "head": "cosine"}),
        ("binary_cross_entropy", {"labels": ["a", "b", "c"]}),
        ("binary_cross_entropy", NUMBER),
        ("mse", {"labels": ["a", "b", "c"]}),
        ("mse", SEVERAL),
        ("cosine_embedding", TWO),
        ("cosine_embedding", {**TWO, **SIAMESE, "features": ["cosine"]}),
        ("cosine_embedding", {**NUMBER, **SIAMESE, "features": ["cosine"]}),
    ],
)
def test_losses_without_their_inputs(name: str, fields: dict[str, Any]) -> None:
    with pytest.raises(
        ValueError, match=rf"^`loss` '{name}' needs .*, found .*; None chooses a loss that fits\.$"
    ):
        loss_of(name, **fields)


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        (TWO, "cross_entropy"),
        (NUMBER, "mse"),
        (SEVERAL, "binary_cross_entropy"),
        ({**TWO, **SIAMESE, "head": "cosine"}, "binary_cross_entropy"),
        ({**NUMBER, **SIAMESE, "head": "cosine"}, "mse"),
    ],
)
def test_losses_by_problem_type(fields: dict[str, Any], name: str) -> None:
    assert TaskConfig(**fields).loss == name
