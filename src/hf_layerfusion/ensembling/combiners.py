"""Combiners that need no fitting, and the interface of all combiners.

The predictions of M members on N texts are logits `[M, N, C]` or, for a regression, values `[M, N]`. A combiner
returns the ensemble's predictions, `[N, C]` or `[N]`. Softmax over its logits gives the ensemble's probabilities, so
an ensemble can itself be a member.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt
from scipy.special import softmax

from hf_layerfusion.errors import UserError

Array = npt.NDArray[Any]
# A metric: predictions of K candidates, `[K, N, C]` or `[K, N]`, and labels `[N]` to scores `[K]`.
Score = Callable[[Array, Array], Array]

_SMALLEST = np.finfo(np.float64).tiny
_DIGITS = 12  # shares of votes are rounded to this, so that rounding errors break no tie

AnyCombiner = TypeVar("AnyCombiner", bound="Combiner")


class Combiner(ABC):
    """Base class: combines the predictions of several members into one.

    Attributes:
        learns: Whether it must be fitted, on predictions of texts that no member was trained on.
        for_regression: Whether it can combine values as well as classes.
    """

    learns: ClassVar[bool] = False
    for_regression: ClassVar[bool] = True

    def fit(self: AnyCombiner, predictions: Array, labels: Array, score: Score) -> AnyCombiner:
        """Return a combiner fitted on held-out predictions; `self` if there is nothing to learn.

        Args:
            predictions: the members' predictions, `[M, N, C]` or `[M, N]`.
            labels: classes or values, `[N]`.
            score: the metric to maximize.
        """
        return self

    def __call__(self, predictions: Array) -> Array:
        """Combine the members' predictions.

        Args:
            predictions: the members' predictions, `[M, N, C]` or `[M, N]`.

        Returns:
            Logits `[N, C]` or values `[N]`, in float64.

        Raises:
            UserError: There are no members, predictions are not finite, the number of members is not the one that the
                combiner was made for, or it cannot combine a regression.
        """
        predictions = np.asarray(predictions, np.float64)
        if predictions.ndim not in (2, 3) or len(predictions) == 0:
            raise UserError(
                "an ensemble needs one member or more, with predictions [M, N, C] or [M, N], found "
                f"{predictions.shape}; name members."
            )
        if not np.isfinite(predictions).all():
            member = int((~np.isfinite(predictions)).reshape(len(predictions), -1).any(axis=1).argmax())
            raise UserError(
                f"predictions must be finite, found NaN or infinity for member {member + 1}; leave it out."
            )
        if predictions.ndim == 2 and not self.for_regression:
            raise UserError(
                f"{type(self).__name__} combines classes, found a regression; use an average, task_based, greedy or "
                "stacked."
            )
        return self.combine(predictions)

    @abstractmethod
    def combine(self, predictions: Array) -> Array:
        """Combine predictions that `__call__` has checked and converted to float64."""


@dataclass(frozen=True)
class Weighted(Combiner):
    """Base class of combiners that can weight their members.

    Args:
        weights: one non-negative weight for each member, `[M]`; only their ratios matter. None weights all the same.
    """

    weights: Sequence[float] | None = None

    def shares(self, count: int) -> Array:
        """Return the weights of `count` members, `[M]`, normalized to sum to 1.

        Raises:
            UserError: The number of weights differs from `count`, one is negative or not finite, or none is positive.
        """
        weights = np.ones(count) if self.weights is None else np.asarray(self.weights, np.float64)
        if weights.shape != (count,):
            raise UserError(
                f"weights must have one value for each of {count} members, found {weights.size}; correct them."
            )
        if not np.isfinite(weights).all() or (weights < 0).any() or weights.sum() == 0:
            raise UserError(
                f"weights must be finite, not negative and not all 0, found {weights.tolist()}; correct them."
            )
        return weights / weights.sum()


@dataclass(frozen=True)
class AverageLogits(Weighted):
    """Mean of the members' logits, or of their values (iterative ensembles, section 4.6)."""

    def combine(self, predictions: Array) -> Array:
        """Return the weighted mean of the logits or values."""
        return np.tensordot(self.shares(len(predictions)), predictions, axes=1)


@dataclass(frozen=True)
class AverageProbabilities(Weighted):
    """Mean of the members' probabilities, or of their values (SerBERTus, section 3: unrounded predictions)."""

    def combine(self, predictions: Array) -> Array:
        """Return the weighted mean of the probabilities, as logits, or of the values."""
        return average_probabilities(predictions, self.shares(len(predictions)))


@dataclass(frozen=True)
class MajorityVote(Weighted):
    """Majority vote over the members' classes (GRUBERT, section 2.4); ties go to the class with the largest sum of
    probabilities.

    The probability of a class is its share of the votes. Ties are broken within the width of a single vote.
    """

    for_regression: ClassVar[bool] = False

    def combine(self, predictions: Array) -> Array:
        """Return the shares of the votes as logits, ties broken by the mean probabilities."""
        shares = self.shares(len(predictions))
        ballots = np.eye(predictions.shape[2])[predictions.argmax(axis=2)]
        votes = np.tensordot(shares, ballots, axes=1).round(_DIGITS)
        means = np.tensordot(shares, softmax(predictions, axis=2), axes=1)
        most = votes.max(axis=1, keepdims=True)
        # The mean is scaled below the lead of the winners, so that it decides between ties and nowhere else.
        gap = most - np.where(votes < most, votes, 0).max(axis=1, keepdims=True)
        return as_logits((votes + gap * means) / (1 + gap))


def average_probabilities(predictions: Array, shares: Array) -> Array:
    """Return the weighted mean of probabilities as logits `[N, C]`, or of values `[N]`.

    Args:
        predictions: the members' predictions, `[M, N, C]` or `[M, N]`.
        shares: weights that sum to 1, `[M]`.
    """
    if predictions.ndim == 2:
        return shares @ predictions
    return as_logits(np.tensordot(shares, softmax(predictions, axis=2), axes=1))


def as_logits(probabilities: Array) -> Array:
    """Return finite logits whose softmax is `probabilities`."""
    return np.log(np.maximum(probabilities, _SMALLEST))
