"""Selection of the examples with the worst predictions, for manual inspection."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import log_softmax


@dataclass(frozen=True)
class Mistake:
    """A wrong prediction.

    Attributes:
        row: Index of the example in its split.
        true: True class or value.
        predicted: Predicted class or value.
        severity: Cross-entropy of the true class, or absolute error of the value.
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
        labels: Class indices or values, `[N]`.
        names: Names of the classes; None for a regression.
        count: Maximum number of examples. For classes only wrong predictions are included.
    """
    if names is None:
        values = np.asarray(logits, np.float64).reshape(-1)
        distances = np.abs(values - labels)
        return [
            Mistake(row, f"{labels[row]:.2f}", f"{values[row]:.2f}", float(distances[row]))
            for row in np.argsort(-distances, kind="stable")[:count].tolist()
        ]
    losses = -log_softmax(np.asarray(logits, np.float64), axis=1)[np.arange(len(labels)), labels]
    predicted = logits.argmax(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    order = wrong[np.argsort(-losses[wrong], kind="stable")][:count]
    return [
        Mistake(row, names[labels[row]], names[predicted[row]], float(losses[row])) for row in order.tolist()
    ]
