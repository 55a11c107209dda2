from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hf_layerfusion.evaluation.linear_probe import STRENGTHS, fit_linear_probe

CLASSES = "single_label_classification"


def data(classes: int, rows: int = 240) -> tuple[np.ndarray, np.ndarray]:
    """Features of unlike scales and means, of which the first tell the class."""
    generator = np.random.default_rng(0)
    targets = np.arange(rows) % classes
    features = generator.normal(size=(rows, 6))
    features[:, : classes - 1] += 2 * np.eye(classes)[targets][:, 1:]
    return (features * [1, 10, 0.1, 5, 1, 1] + [3, -20, 0, 1, 0, 7]).astype(np.float32), targets


@pytest.mark.parametrize("classes", [2, 3])
def test_the_classifier_is_scikit_learns_on_standardised_features(classes: int) -> None:
    features, targets = data(classes)
    probe = fit_linear_probe(features, targets, CLASSES)
    assert probe.strength in STRENGTHS
    expected = make_pipeline(StandardScaler(), LogisticRegression(C=1 / probe.strength, tol=1e-3)).fit(
        features, targets
    )
    logits = probe.outputs(features)
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(chances, expected.predict_proba(features), atol=1e-3)
    assert (probe.predictions(features) == expected.predict(features)).mean() > 0.99
    assert probe.weight.shape == (classes, 6)


def test_the_regression_is_scikit_learns_on_standardised_features() -> None:
    features, _ = data(2)
    values = features @ np.arange(6) + np.random.default_rng(1).normal(size=len(features))
    probe = fit_linear_probe(features, values, "regression")
    scaled = (values - values.mean()) / values.std()
    expected = (
        make_pipeline(StandardScaler(), Ridge(alpha=probe.strength)).fit(features, scaled).predict(features)
    )
    np.testing.assert_allclose(
        probe.predictions(features), expected * values.std() + values.mean(), rtol=1e-4, atol=1e-3
    )


def test_a_feature_that_hardly_varies_gets_no_weight() -> None:
    features, y = np.random.default_rng(0).normal(size=(200, 3)), np.arange(200) % 2
    features[:, 0] += y
    features[:, 2] = 3e-33 + 8e-33 * (features[:, 2] + y)  # as one of all-MiniLM-L6-v2's
    probe = fit_linear_probe(features, y, "single_label_classification")
    assert np.abs(probe.weight).max() < 10
    assert np.abs(probe.weight[:, 2]).max() == pytest.approx(0, abs=1e-6)
    small = fit_linear_probe(1e-9 * features[:, :2], y, "single_label_classification")
    assert np.abs(small.weight * 1e-9).max() > 0.1, "no feature counts as constant beside others of its size"


def test_more_noise_asks_for_more_strength() -> None:
    features, targets = data(2)
    noise = np.random.default_rng(2).normal(size=(len(features), 300)).astype(np.float32)
    few = fit_linear_probe(features, targets, CLASSES).strength
    assert fit_linear_probe(np.hstack([features, noise]), targets, CLASSES).strength > few


def test_a_class_without_rows_is_never_predicted() -> None:
    features, targets = data(2)
    probe = fit_linear_probe(features, targets * 2, CLASSES, num_classes=4)
    assert probe.weight.shape == (4, 6)
    assert set(probe.predictions(features)) == {0, 2}
    assert np.isfinite(probe.outputs(features)).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x, y * 0), "two classes or more, found \\[0\\]"),
        (lambda x, y: (x[:4], y[:4]), "at least 6 rows, found 4"),
        (lambda x, y: (x, np.where(np.arange(len(y)) == 5, 2, y)), "found one of class 2"),
        (lambda x, y: (np.where(np.arange(len(y))[:, None] == 7, np.nan, x), y), "the first is row 7"),
    ],
)
def test_what_no_probe_can_be_fitted_on_is_refused(change, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_linear_probe(*change(*data(2)), CLASSES)


def test_values_that_are_all_equal_are_refused() -> None:
    features, targets = data(2)
    with pytest.raises(ValueError, match=r"found 1\.5 in every row"):
        fit_linear_probe(features, np.full(len(targets), 1.5), "regression")
