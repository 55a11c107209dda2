"""Selection of the examples with the worst predictions, for manual inspection."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import log_expit, log_softmax

from hf_layerfusion.evaluation.metrics import predicted_labels


@dataclass(frozen=True)
class Mistake:
    """A wrong prediction.

    Attributes:
        row: Index of the example in its split.
        true: True class, labels or value.
        predicted: Predicted class, labels or value.
        severity: Cross-entropy of the true class, sum of the labels' cross-entropies, or absolute error of the value.
    """

    row: int
    true: str
    predicted: str
    severity: float


def worst_mistakes(
    logits: npt.NDArray[Any], labels: npt.NDArray[Any], names: list[str] | None, count: int = 20
) -> list[Mistake]:
    """Return the `count` worst predictions, the worst first (ExTraBERT, section 6; SerBERTus, section 5).

    Ties keep the order of the examples.

    Args:
        logits: `[N, C]`; for a regression `[N]` or `[N, 1]`.
        labels: Class indices or values, `[N]`, or 0/1 labels, `[N, C]`.
        names: Names of the classes or labels; None for a regression.
        count: Maximum number of examples. For classes and labels only wrong predictions are included.
    """
    if names is None:
        values = np.asarray(logits, np.float64).reshape(-1)
        distances = np.abs(values - labels)
        return [
            Mistake(row, f"{labels[row]:.2f}", f"{values[row]:.2f}", float(distances[row]))
            for row in np.argsort(-distances, kind="stable")[:count].tolist()
        ]
    if labels.ndim == 2:
        chosen = predicted_labels(logits)
        values = np.asarray(logits, np.float64)
        losses = -np.where(labels == 1, log_expit(values), log_expit(-values)).sum(axis=1)
        wrong = np.flatnonzero((chosen != labels).any(axis=1))
        order = wrong[np.argsort(-losses[wrong], kind="stable")][:count].tolist()
        return [
            Mistake(row, _joined(labels[row], names), _joined(chosen[row], names), float(losses[row]))
            for row in order
        ]
    losses = -log_softmax(np.asarray(logits, np.float64), axis=1)[np.arange(len(labels)), labels]
    predicted = logits.argmax(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    order = wrong[np.argsort(-losses[wrong], kind="stable")][:count]
    return [
        Mistake(row, names[labels[row]], names[predicted[row]], float(losses[row])) for row in order.tolist()
    ]


def _joined(labels: npt.NDArray[Any], names: list[str]) -> str:
    return ", ".join(name for name, is_set in zip(names, labels, strict=True) if is_set) or "none"
