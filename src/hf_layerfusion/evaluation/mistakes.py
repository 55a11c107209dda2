"""The examples that a model gets most wrong, to be read."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import log_softmax


@dataclass(frozen=True)
class Mistake:
    """A wrong answer.

    Attributes:
        row: the example's place in its split.
        true: the true class or value.
        predicted: the model's.
        severity: how wrong: the cross-entropy of the true class, or the distance of the values.
    """

    row: int
    true: str
    predicted: str
    severity: float


def worst_mistakes(
    logits: npt.NDArray[Any], labels: npt.NDArray[Any], names: list[str] | None, count: int = 20
) -> list[Mistake]:
    """The `count` worst answers, the worst first (ExTraBERT, section 6; SerBERTus, section 5); ties as they stand.

    Args:
        logits: `[N, C]`; of a regression `[N]` or `[N, 1]`.
        labels: class indices or values, `[N]`.
        names: the classes; None for a regression.
        count: how many at most. Of classes only wrong answers count.
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
