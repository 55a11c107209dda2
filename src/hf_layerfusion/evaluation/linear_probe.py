"""Regularized linear models on fixed features, with the strength of the penalty chosen by cross-validation."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV, Ridge
from sklearn.model_selection import GridSearchCV, KFold, StratifiedKFold, train_test_split
from sklearn.preprocessing import StandardScaler

Floats = npt.NDArray[np.floating[Any]]
ProbeProblem = Literal["single_label_classification", "regression"]

NEGLIGIBLE = 1e-6
"""The share of the largest standard deviation below which a feature counts as constant."""

STRENGTHS = (1.0, 10.0, 100.0, 1e3, 1e4, 1e5)
"""Penalties on the squared weights of standardized features, relative to the sum of the losses.

They are 1/C in scikit-learn's logistic regression and alpha in its ridge regression.
"""

NUM_FOLDS = 3
_MOST_ROWS_TO_CHOOSE_ON = 4_000
_TOLERANCE, _MOST_STEPS = 1e-3, 500


@dataclass(frozen=True)
class LinearProbe:
    """Linear model on raw features; the standardization is part of its weights.

    Attributes:
        weight: `[C, D]`, where C is the number of classes, or 1 for a regression.
        bias: `[C]`.
        strength: Chosen penalty, one of `STRENGTHS`.
        cv_score: Cross-validation score of the chosen penalty: the mean log-likelihood, or the negative mean squared
            error in units of the targets' variance.
    """

    weight: npt.NDArray[np.float64]
    bias: npt.NDArray[np.float64]
    strength: float
    cv_score: float

    def outputs(self, features: Floats) -> npt.NDArray[np.float64]:
        """Return the logits or values `[N, C]` for features `[N, D]`."""
        return features @ self.weight.T.astype(features.dtype) + self.bias

    def predictions(self, features: Floats) -> npt.NDArray[Any]:
        """Return the classes or values `[N]` for features `[N, D]`."""
        outputs = self.outputs(features)
        return outputs[:, 0] if len(self.bias) == 1 else outputs.argmax(axis=1)


def fit_linear_probe(
    features: Floats,
    targets: npt.ArrayLike,
    problem: ProbeProblem,
    *,
    num_classes: int | None = None,
    seed: int = 0,
) -> LinearProbe:
    """Fit a logistic or ridge regression on standardized features.

    Features that vary by less than a millionth of the most variable one are not scaled up.

    The strength of the L2 penalty is chosen from `STRENGTHS` by cross-validation on the given rows, or on a random
    sample of 4,000 if there are more.

    Args:
        features: `[N, D]`.
        targets: `[N]`, classes from 0 or values.
        problem: Type of the targets.
        num_classes: Number C of classes; by default one more than the largest target. Classes without a row get the
            lowest logit.
        seed: Seed of the folds and the sample.

    Returns:
        The model fitted on all rows with the chosen strength.

    Raises:
        ValueError: If features or values are not finite, there are fewer than two rows of a class or six in total,
            there is only one class, or all values are equal.
    """
    y = np.asarray(targets)
    _check(features, y, problem)
    scaler = StandardScaler().fit(features)
    # Else the weight of a feature whose values are all but equal, around 1e-33, would overflow in float32.
    deviation = np.sqrt(scaler.var_)
    scaler.scale_[deviation <= NEGLIGIBLE * deviation.max()] = 1.0
    x = scaler.transform(features)
    chosen_on = _rows_to_choose_on(y, problem, seed)
    if problem == "regression":
        strength, score, weight, bias = _ridge(x, y.astype(np.float64), chosen_on, seed)
    else:
        strength, score, weight, bias = _logistic(x, y, chosen_on, num_classes, seed)
    weight = weight / scaler.scale_
    return LinearProbe(weight, bias - weight @ scaler.mean_, strength, score)


def _check(features: Floats, y: npt.NDArray[Any], problem: ProbeProblem) -> None:
    if not np.isfinite(features).all():
        rows = np.flatnonzero(~np.isfinite(features).all(axis=1))
        raise ValueError(
            f"features must be finite, found NaN or infinity in {len(rows)} rows, the first is row {rows[0]}; check "
            "the encoder's states"
        )
    check_targets(y, problem)


def check_targets(y: npt.NDArray[Any], problem: ProbeProblem) -> None:
    """Check that a probe can be fitted to targets `[N]`.

    Raises:
        ValueError: As `fit_linear_probe`, of the targets.
    """
    if len(y) < 2 * NUM_FOLDS:
        raise ValueError(f"targets must be at least {2 * NUM_FOLDS} rows, found {len(y)}; give more")
    if problem == "regression":
        if not np.isfinite(y).all():
            raise ValueError("targets must be finite numbers, found NaN or infinity; leave those rows out")
        if np.ptp(y) == 0:
            raise ValueError(f"targets must differ, found {y[0]} in every row; give rows with others")
        return
    classes, counts = np.unique(y, return_counts=True)
    if len(classes) < 2:
        raise ValueError(
            f"targets must have two classes or more, found {classes.tolist()}; give rows of others"
        )
    if counts.min() < 2:
        raise ValueError(
            f"targets must hold two rows of each class or more, found one of class {classes[counts.argmin()]}; add "
            "rows or leave that class out"
        )


def _rows_to_choose_on(y: npt.NDArray[Any], problem: ProbeProblem, seed: int) -> npt.NDArray[np.int64]:
    rows = np.arange(len(y))
    if len(y) <= _MOST_ROWS_TO_CHOOSE_ON:
        return rows
    stratify = y if problem != "regression" and np.unique(y, return_counts=True)[1].min() >= 4 else None
    drawn, _ = train_test_split(
        rows, train_size=_MOST_ROWS_TO_CHOOSE_ON, random_state=seed, stratify=stratify
    )
    return np.asarray(drawn)


def _ridge(
    x: Floats, y: npt.NDArray[np.float64], chosen_on: npt.NDArray[np.int64], seed: int
) -> tuple[float, float, npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    mean, deviation = y.mean(), y.std()
    scaled = (y - mean) / deviation
    folds = KFold(NUM_FOLDS, shuffle=True, random_state=seed)
    search = GridSearchCV(
        Ridge(),
        {"alpha": STRENGTHS},
        scoring="neg_mean_squared_error",
        cv=folds,
        refit=False,
        error_score="raise",
    ).fit(x[chosen_on], scaled[chosen_on])
    strength = float(search.best_params_["alpha"])
    model = Ridge(alpha=strength).fit(x, scaled)
    weight = np.asarray(model.coef_, np.float64)[None] * deviation
    bias = np.asarray([model.intercept_ * deviation + mean], np.float64)
    return strength, float(search.best_score_), weight, bias


def _logistic(
    x: Floats, y: npt.NDArray[Any], chosen_on: npt.NDArray[np.int64], num_classes: int | None, seed: int
) -> tuple[float, float, npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    settings = {"tol": _TOLERANCE, "max_iter": _MOST_STEPS}
    fewest = int(np.unique(y[chosen_on], return_counts=True)[1].min())
    folds = StratifiedKFold(min(NUM_FOLDS, fewest), shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # A weak penalty may reach the limit of steps; its current solution is used in the comparison.
        warnings.simplefilter("ignore", ConvergenceWarning)
        search = LogisticRegressionCV(
            Cs=[1 / strength for strength in reversed(STRENGTHS)],
            l1_ratios=(0.0,),
            cv=folds,
            scoring="neg_log_loss",
            refit=False,
            use_legacy_attributes=False,
            **settings,
        ).fit(x[chosen_on], y[chosen_on])
        scores = np.asarray(search.scores_).reshape(folds.get_n_splits(), len(STRENGTHS)).mean(axis=0)
        strength = STRENGTHS[::-1][int(scores.argmax())]
        model = LogisticRegression(C=1 / strength, **settings).fit(x, y)
    weight, bias = np.asarray(model.coef_, np.float64), np.asarray(model.intercept_, np.float64)
    if len(model.classes_) == 2:
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    count = int(y.max()) + 1 if num_classes is None else num_classes
    all_weights = np.zeros((count, x.shape[1]))
    # Far below the others, but finite, so that training can continue from here.
    all_biases = np.full(count, bias.min() - 10.0)
    all_weights[model.classes_], all_biases[model.classes_] = weight, bias
    return strength, float(scores.max()), all_weights, all_biases
