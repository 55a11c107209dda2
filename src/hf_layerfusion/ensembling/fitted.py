"""Combiners that are fitted on predictions of texts that no member was trained on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, TypeVar

import numpy as np
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression, Ridge

from hf_layerfusion.ensembling.combiners import Array, Combiner, Score, average_probabilities
from hf_layerfusion.errors import UserError

AnyGreedy = TypeVar("AnyGreedy", bound="Greedy")


@dataclass(frozen=True)
class TaskBased(Combiner):
    """A single member answers each task (iterative ensembles, ensembles #1 and #2; SerBERTus, section 4.3.8, best of
    each).

    Args:
        member: index of that member; None until `fit` chooses the best.
    """

    learns: ClassVar[bool] = True

    member: int | None = None

    def fit(self, predictions: Array, labels: Array, score: Score) -> "TaskBased":
        """Return a combiner that uses the member with the best score; the first of equals."""
        scores = worst_if_undefined(score(predictions, labels))
        return TaskBased(int(scores.argmax()))

    def combine(self, predictions: Array) -> Array:
        """Return the chosen member's predictions."""
        if self.member is None and len(predictions) > 1:
            raise not_fitted_error("task_based")
        member = self.member or 0
        check_member_count(len(predictions), member + 1, at_least=True)
        chosen: Array = predictions[member]
        return chosen


@dataclass(frozen=True)
class Greedy(Combiner):
    """Mean of the probabilities (or values) of greedily selected members (SerBERTus, section 3).

    `fit` adds one member at a time, always the one that helps most, as long as the score does not drop.

    Args:
        order: indices of the members in the order in which they were added; empty until fitted.
    """

    learns: ClassVar[bool] = True
    # Whether a member may be added again and so gain weight (Caruana et al. 2004). If so, only where that improves
    # the score: an unchanged score would never end the search.
    replacement: ClassVar[bool] = False

    order: Sequence[int] = ()

    def fit(self: AnyGreedy, predictions: Array, labels: Array, score: Score) -> AnyGreedy:
        """Select members greedily; the first of equals. With replacement, stop at twice the number of members."""
        predicted = np.asarray(predictions, np.float64)
        if predicted.ndim == 3:
            predicted = softmax(predicted, axis=2)
        total, order, best = np.zeros(predicted.shape[1:]), list[int](), -np.inf
        while len(order) < (1 + self.replacement) * len(predicted):
            found = worst_if_undefined(
                score((total + predicted) / (len(order) + 1), labels), required=not order
            )
            is_in = np.isin(np.arange(len(predicted)), order)
            may_come = np.where(is_in, self.replacement & (found > best), found >= best)
            if not may_come.any():
                break
            chosen = int(np.where(may_come, found, -np.inf).argmax())
            order.append(chosen)
            total, best = total + predicted[chosen], found[chosen]
        return replace(self, order=tuple(order))

    def combine(self, predictions: Array) -> Array:
        """Return the mean over the selected members, each weighted by how often it was selected."""
        if not self.order:
            raise not_fitted_error("greedy")
        check_member_count(len(predictions), max(self.order) + 1, at_least=True)
        counts = np.bincount(self.order, minlength=len(predictions))
        return average_probabilities(predictions, counts / counts.sum())


@dataclass(frozen=True)
class GreedyReplacement(Greedy):
    """`Greedy` with replacement: a member may be added again if that improves the score (Caruana et al. 2004)."""

    replacement: ClassVar[bool] = True


@dataclass(frozen=True)
class Stacked(Combiner):
    """A linear model on the members' predictions (Wolpert 1992; on probabilities: Ting and Witten 1999).

    A logistic regression on their probabilities or a ridge regression on their values, both with scikit-learn's
    default L2 penalty of 1.

    Args:
        weights: `[C, M * C]`, for a regression `[1, M]`; empty until fitted.
        intercepts: `[C]` or `[1]`.
    """

    learns: ClassVar[bool] = True

    weights: Sequence[Sequence[float]] = ()
    intercepts: Sequence[float] = ()

    def fit(self, predictions: Array, labels: Array, score: Score) -> "Stacked":
        """Fit the linear model; `score` is not used.

        Raises:
            UserError: A class has no example among the labels.
        """
        if predictions.ndim == 2:
            ridge = Ridge(alpha=1.0).fit(predictions.T, labels)
            return Stacked(_rows(ridge.coef_[None]), (float(ridge.intercept_),))
        classes = predictions.shape[2]
        absent = sorted(set(range(classes)) - set(np.unique(labels).tolist()))
        if absent:
            raise UserError(
                f"stacked must be fitted on examples of all {classes} classes, found none of class number "
                f"{absent[0]}; add some or use another combiner."
            )
        learner = LogisticRegression(C=1.0, max_iter=1000).fit(features(predictions), labels)
        weights, intercepts = learner.coef_, learner.intercept_
        if classes == 2:  # one row, of the second class against the first
            weights = np.concatenate([np.zeros_like(weights), weights])
            intercepts = np.concatenate([[0.0], intercepts])
        return Stacked(_rows(weights), tuple(intercepts.tolist()))

    def combine(self, predictions: Array) -> Array:
        """Return the linear model's logits or values."""
        if not self.weights:
            raise not_fitted_error("stacked")
        weights = np.asarray(self.weights)
        inputs = predictions.T if predictions.ndim == 2 else features(predictions)
        check_member_count(inputs.shape[1], weights.shape[1])
        outputs: Array = inputs @ weights.T + np.asarray(self.intercepts)
        return outputs[:, 0] if predictions.ndim == 2 else outputs


def features(predictions: Array) -> Array:
    """Return the members' probabilities of each text side by side, `[N, M * C]`."""
    return softmax(predictions, axis=2).swapaxes(0, 1).reshape(predictions.shape[1], -1)


def worst_if_undefined(scores: Array, required: bool = True) -> Array:
    """Return the scores with minus infinity for each undefined one, such as the correlation of constant predictions.

    Raises:
        UserError: `required`, and none is defined.
    """
    if required and not np.isfinite(scores).any():
        raise UserError(
            "no member's score is defined, because all predictions are the same; fit on more examples or other members."
        )
    return np.where(np.isfinite(scores), scores, -np.inf)


def check_member_count(found: int, fitted: int, at_least: bool = False) -> None:
    """Raise `UserError` if a combiner was fitted on another number of members than it is given."""
    if found < fitted or (found > fitted and not at_least):
        raise UserError(
            f"the combiner was fitted on predictions of width {fitted}, found {found}; fit it on these members."
        )


def not_fitted_error(name: str) -> UserError:
    """Return the error for a combiner that was not fitted."""
    return UserError(f"{name} must be fitted on held-out predictions first, found none; fit it.")


def _rows(matrix: Array) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in matrix.tolist())
