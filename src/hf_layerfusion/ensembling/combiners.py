"""How the predictions of several models become one: arrays in, arrays out. Here those that learn nothing.

Predictions of M members on N texts are logits `[M, N, C]` or, for a regression, values `[M, N]`. What comes out are the
ensemble's own, `[N, C]` or `[N]`: logits whose softmax are its probabilities, so that an ensemble may be a member.
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
# Predictions of K candidates, `[K, N, C]` or `[K, N]`, and labels `[N]`: how good each is, `[K]`.
Score = Callable[[Array, Array], Array]

_SMALLEST = np.finfo(np.float64).tiny
_DIGITS = 12  # shares of votes that differ by rounding alone are equal

AnyCombiner = TypeVar("AnyCombiner", bound="Combiner")


class Combiner(ABC):
    """Makes one prediction of several.

    Attributes:
        learns: it must be fitted, on predictions of texts that no member was trained on.
        for_regression: it combines values too.
    """

    learns: ClassVar[bool] = False
    for_regression: ClassVar[bool] = True

    def fit(self: AnyCombiner, predictions: Array, labels: Array, score: Score) -> AnyCombiner:
        """The combiner that these held-out predictions teach; itself where it learns nothing.

        Args:
            predictions: of the members, `[M, N, C]` or `[M, N]`.
            labels: classes or values, `[N]`.
            score: what is to be high.
        """
        return self

    def __call__(self, predictions: Array) -> Array:
        """Combines.

        Args:
            predictions: of the members, `[M, N, C]` or `[M, N]`.

        Returns:
            Logits `[N, C]` or values `[N]`, in float64.

        Raises:
            UserError: no members, predictions that are not finite or of another number of members than it was made for,
                a regression that it cannot combine.
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
                f"predictions must be finite, found NaN or infinity of member {member + 1}; leave it out."
            )
        if predictions.ndim == 2 and not self.for_regression:
            raise UserError(
                f"{type(self).__name__} combines classes, found a regression; use an average, task_based, greedy or "
                "stacked."
            )
        return self.combine(predictions)

    @abstractmethod
    def combine(self, predictions: Array) -> Array:
        """`__call__`, on sound predictions in float64."""


@dataclass(frozen=True)
class Weighted(Combiner):
    """A combiner that can count its members unequally.

    Args:
        weights: of each member, `[M]`, not negative; only their ratio matters. None: all the same.
    """

    weights: Sequence[float] | None = None

    def shares(self, count: int) -> Array:
        """Each of `count` members' weight, `[M]`, 1 in sum.

        Raises:
            UserError: another number of weights, one that is negative or not finite, none above 0.
        """
        weights = np.ones(count) if self.weights is None else np.asarray(self.weights, np.float64)
        if weights.shape != (count,):
            raise UserError(
                f"weights must be one for each of {count} members, found {weights.size}; correct them."
            )
        if not np.isfinite(weights).all() or (weights < 0).any() or weights.sum() == 0:
            raise UserError(
                f"weights must be finite, not negative and not all 0, found {weights.tolist()}; correct them."
            )
        return weights / weights.sum()


@dataclass(frozen=True)
class AverageLogits(Weighted):
    """The mean of the members' logits, or of their values (iterative ensembles, section 4.6)."""

    def combine(self, predictions: Array) -> Array:
        """`__call__`, on sound predictions in float64."""
        return np.tensordot(self.shares(len(predictions)), predictions, axes=1)


@dataclass(frozen=True)
class AverageProbabilities(Weighted):
    """The mean of the members' probabilities, or of their values (SerBERTus, section 3: unrounded predictions)."""

    def combine(self, predictions: Array) -> Array:
        """`__call__`, on sound predictions in float64."""
        return average_probabilities(predictions, self.shares(len(predictions)))


@dataclass(frozen=True)
class MajorityVote(Weighted):
    """The class that most members answer (GRUBERT, section 2.4); among equals the one with the largest sum of
    probabilities. A class's probability is its share of the votes, ties being broken within one vote's width."""

    for_regression: ClassVar[bool] = False

    def combine(self, predictions: Array) -> Array:
        """`__call__`, on sound predictions in float64."""
        shares = self.shares(len(predictions))
        ballots = np.eye(predictions.shape[2])[predictions.argmax(axis=2)]
        votes = np.tensordot(shares, ballots, axes=1).round(_DIGITS)
        means = np.tensordot(shares, softmax(predictions, axis=2), axes=1)
        most = votes.max(axis=1, keepdims=True)
        # Less than what separates the most from the next: the mean decides among equals and nowhere else.
        gap = most - np.where(votes < most, votes, 0).max(axis=1, keepdims=True)
        return as_logits((votes + gap * means) / (1 + gap))


def average_probabilities(predictions: Array, shares: Array) -> Array:
    """The mean of probabilities as logits `[N, C]`, or of values `[N]`; `shares` `[M]` are 1 in sum."""
    if predictions.ndim == 2:
        return shares @ predictions
    return as_logits(np.tensordot(shares, softmax(predictions, axis=2), axes=1))


def as_logits(probabilities: Array) -> Array:
    """Logits whose softmax are `probabilities`; one of 0 stays finite."""
    return np.log(np.maximum(probabilities, _SMALLEST))
