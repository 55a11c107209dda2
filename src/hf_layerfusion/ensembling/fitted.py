"""Combiners that learn from predictions of texts that no member was trained on."""

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
    """One member answers: each task's own model (iterative ensembles, ensembles #1 and #2; SerBERTus, section 4.3.8,
    best of each).

    Args:
        member: which one; None until it is fitted, which takes the best.
    """

    learns: ClassVar[bool] = True

    member: int | None = None

    def fit(self, predictions: Array, labels: Array, score: Score) -> "TaskBased":
        """Takes the member with the best score; among equals the first."""
        scores = worst_if_undefined(score(predictions, labels))
        return TaskBased(int(scores.argmax()))

    def combine(self, predictions: Array) -> Array:
        """`__call__`, on sound predictions in float64."""
        if self.member is None and len(predictions) > 1:
            raise not_fitted_error("task_based")
        member = self.member or 0
        check_member_count(len(predictions), member + 1, at_least=True)
        chosen: Array = predictions[member]
        return chosen


@dataclass(frozen=True)
class Greedy(Combiner):
    """The mean of the probabilities (or values) of members that were added one after the other, each the best to add,
    as long as that improves or does not harm the score (SerBERTus, section 3).

    Args:
        order: the members in the order in which they were added; empty until it is fitted.
    """

    learns: ClassVar[bool] = True
    # Whether a member may be added again, and so count for more (Caruana et al. 2004). Then only if that improves,
    # for a score that stays would stay for ever.
    replacement: ClassVar[bool] = False

    order: Sequence[int] = ()

    def fit(self: AnyGreedy, predictions: Array, labels: Array, score: Score) -> AnyGreedy:
        """Adds members; of equally good ones the first. With replacement twice as many as there are at most."""
        answers = np.asarray(predictions, np.float64)
        if answers.ndim == 3:
            answers = softmax(answers, axis=2)
        total, order, best = np.zeros(answers.shape[1:]), list[int](), -np.inf
        while len(order) < (1 + self.replacement) * len(answers):
            found = worst_if_undefined(
                score((total + answers) / (len(order) + 1), labels), required=not order
            )
            is_in = np.isin(np.arange(len(answers)), order)
            may_come = np.where(is_in, self.replacement & (found > best), found >= best)
            if not may_come.any():
                break
            chosen = int(np.where(may_come, found, -np.inf).argmax())
            order.append(chosen)
            total, best = total + answers[chosen], found[chosen]
        return replace(self, order=tuple(order))

    def combine(self, predictions: Array) -> Array:
        """`__call__`, on sound predictions in float64."""
        if not self.order:
            raise not_fitted_error("greedy")
        check_member_count(len(predictions), max(self.order) + 1, at_least=True)
        counts = np.bincount(self.order, minlength=len(predictions))
        return average_probabilities(predictions, counts / counts.sum())


@dataclass(frozen=True)
class GreedyReplacement(Greedy):
    """As `Greedy`, where a member may be added again if that improves the score (Caruana et al. 2004)."""

    replacement: ClassVar[bool] = True


@dataclass(frozen=True)
class Stacked(Combiner):
    """A linear model on the members' probabilities, a logistic regression, or on their values, a ridge regression
    (Wolpert 1992; with probabilities, Ting and Witten 1999); both with scikit-learn's own L2 of 1.

    Args:
        weights: `[C, M * C]`, of a regression `[1, M]`; empty until it is fitted.
        intercepts: `[C]` or `[1]`.
    """

    learns: ClassVar[bool] = True

    weights: Sequence[Sequence[float]] = ()
    intercepts: Sequence[float] = ()

    def fit(self, predictions: Array, labels: Array, score: Score) -> "Stacked":
        """Fits the linear model; `score` has no say.

        Raises:
            UserError: a class that no label has.
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
        """`__call__`, on sound predictions in float64."""
        if not self.weights:
            raise not_fitted_error("stacked")
        weights = np.asarray(self.weights)
        inputs = predictions.T if predictions.ndim == 2 else features(predictions)
        check_member_count(inputs.shape[1], weights.shape[1])
        outputs: Array = inputs @ weights.T + np.asarray(self.intercepts)
        return outputs[:, 0] if predictions.ndim == 2 else outputs


def features(predictions: Array) -> Array:
    """The members' probabilities on a text side by side, `[N, M * C]`."""
    return softmax(predictions, axis=2).swapaxes(0, 1).reshape(predictions.shape[1], -1)


def worst_if_undefined(scores: Array, required: bool = True) -> Array:
    """Scores with one that is not defined (a constant prediction has no correlation) as the worst.

    Raises:
        UserError: where `required` and none is defined.
    """
    if required and not np.isfinite(scores).any():
        raise UserError(
            "no member's score is defined, as all predictions are the same; fit on more examples or other members."
        )
    return np.where(np.isfinite(scores), scores, -np.inf)


def check_member_count(found: int, fitted: int, at_least: bool = False) -> None:
    """Raises `UserError` where a combiner was fitted on other members than it is given."""
    if found < fitted or (found > fitted and not at_least):
        raise UserError(
            f"the combiner was fitted on predictions of width {fitted}, found {found}; fit it on these members."
        )


def not_fitted_error(name: str) -> UserError:
    """What to say of a combiner that was not fitted."""
    return UserError(f"{name} must be fitted on held-out predictions first, found none; fit it.")


def _rows(matrix: Array) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in matrix.tolist())
