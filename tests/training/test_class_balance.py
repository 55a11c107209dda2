from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_layerfusion.errors import UserError
from hf_layerfusion.training.class_balance import (
    ClassWeights,
    RowClasses,
    balanced_rows,
    class_labels,
    class_weights,
    value_bins,
    weighted_cross_entropy,
)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-1, 3), min_size=1, max_size=40), st.integers(0, 9))
def test_balanced_rows(found: list[int], seed: int) -> None:
    classes = [-100 if label == -1 else label for label in found] + [0]
    rows = balanced_rows(classes, torch.Generator().manual_seed(seed))
    assert len(rows) == len(classes)
    by_class = Counter(classes[row] for row in rows)
    assert set(by_class) == set(classes) - {-100} or len(rows) < len(set(classes))
    assert max(by_class.values()) - min(by_class.values()) <= 1
    for label in by_class:
        times = Counter(row for row in rows if classes[row] == label)
        seen = [times[row] for row in range(len(classes)) if classes[row] == label]
        assert max(seen) - min(seen) <= 1


def test_which_rows_of_a_frequent_class_come_is_chance() -> None:
    classes = [0] * 90 + [1] * 10
    drawn = [set(balanced_rows(classes, torch.Generator().manual_seed(seed))) for seed in range(50)]
    assert set.union(*drawn) == set(range(100))
    assert len({frozenset(rows) for rows in drawn}) == 50


def test_class_weights() -> None:
    # 8 rows of 3 classes: 8 / (3 · 4), 8 / (3 · 1), none, 8 / (3 · 3)
    weights = class_weights([0, 0, 0, 0, 1, 3, 3, 3, -100])
    assert weights.tolist() == pytest.approx([2 / 3, 8 / 3, 1.0, 8 / 9])


def test_weighted_cross_entropy() -> None:
    torch.manual_seed(3)
    logits, labels = torch.randn(6, 3), torch.tensor([0, 2, 2, -100, 1, 0])
    weights = torch.tensor([0.5, 2.0, 1.5])
    logs = torch.log_softmax(logits.double(), dim=1)
    rows = [-weights[label].double() * logs[row, label] for row, label in enumerate(labels) if label >= 0]
    torch.testing.assert_close(
        weighted_cross_entropy(logits, labels, weights).double(), sum(rows) / 5, rtol=0, atol=1e-6
    )
    # the means of the parts, by their rows, make up that of the whole
    first, second = (weighted_cross_entropy(logits[s], labels[s], weights) for s in (slice(2), slice(2, 6)))
    torch.testing.assert_close((2 * first + 3 * second) / 5, weighted_cross_entropy(logits, labels, weights))


@pytest.mark.parametrize(
    ("labels", "expected"),
    [([0, 2, -100], [0, 2, -100]), ([0.0, 1.0], None), ([[0, 1], [1, 0]], None), ([-100, -100], None)],
)
def test_class_labels(labels: list[object], expected: list[int] | None) -> None:
    assert class_labels(labels) == expected


def test_a_loss_that_is_not_cross_entropy_is_refused() -> None:
    logits, labels = torch.randn(8, 2), torch.tensor([0, 1] * 4)
    weights = ClassWeights({"para": RowClasses([0, 0, 0, 1])})
    own = torch.nn.functional.cross_entropy(logits, labels)
    assert weights.weighed("para", own, logits, labels) != own
    assert weights.weighed("sim", own, logits, labels) is own
    for loss, shape in ((own * 2, logits), (own, logits[:, 0])):
        with pytest.raises(UserError, match="task 'para' must be cross-entropy") as caught:
            ClassWeights({"para": RowClasses([0, 0, 0, 1])}).weighed("para", loss, shape, labels)
        assert "\n" not in str(caught.value)


def test_classes_of_the_model_that_the_data_lack() -> None:
    logits, labels = torch.randn(4, 5), torch.tensor([0, 1, 1, 1])
    own = torch.nn.functional.cross_entropy(logits, labels)
    found = ClassWeights({"five": RowClasses([0, 1, 1, 1])}).weighed("five", own, logits, labels)
    torch.testing.assert_close(
        found, weighted_cross_entropy(logits, labels, torch.tensor([2, 2 / 3, 1, 1, 1]))
    )


# STS: values with peaks at the whole numbers, here most of them high
SCORES = [0.0, 1.2, 3.8, 4.0, 4.2, 4.2, 5.0, 5.0]


def test_bins_of_a_regression_s_values() -> None:
    """Five bins of width 1 from 0 to 5; that from 2 to 3 is empty, and 4.0 begins the last one."""
    found = value_bins(SCORES, 5)
    assert found is not None
    assert found.classes == [0, 1, 3, 4, 4, 4, 4, 4]
    assert found.edges.tolist() == [1, 2, 3, 4]
    assert value_bins([2.5, 2.5], 4).classes == [2, 2]
    assert value_bins([1.0, float("nan")], 2) is None
    assert value_bins([[1.0], [2.0]], 2) is None
    assert value_bins(["a", "b"], 2) is None


def test_a_regression_is_weighed_by_bins() -> None:
    """Four bins have rows: 8 / (4 · 1) for each of three rows, 8 / (4 · 5) for each of the five in the last."""
    torch.manual_seed(2)
    weights = ClassWeights({"sts": value_bins(SCORES, 5)})
    logits, labels = torch.randn(8, 1), torch.tensor(SCORES)
    own = torch.nn.functional.mse_loss(logits[:, 0], labels)
    factors = torch.tensor([2.0] * 3 + [0.4] * 5)
    expected = (factors * (logits[:, 0] - labels) ** 2).mean()
    torch.testing.assert_close(weights.weighed("sts", own, logits, labels), expected)
    torch.testing.assert_close(weights.weighed("sts", own, logits[:, 0], labels), expected)
    with pytest.raises(UserError, match="task 'sts' must be the mean squared error, found another"):
        ClassWeights({"sts": value_bins(SCORES, 5)}).weighed("sts", own * 2, logits, labels)
