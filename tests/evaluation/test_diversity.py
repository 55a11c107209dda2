"""Diversity counted by hand, and as scipy has it."""

import numpy as np
from scipy.stats import pearsonr

from hf_layerfusion.evaluation.diversity import disagreement, error_correlation, mean_of_pairs


def test_disagreement_is_the_share_of_texts_answered_differently():
    found = disagreement(np.array([[0, 1, 2, 0], [0, 1, 1, 0], [2, 0, 1, 1]]))
    np.testing.assert_allclose(found, [[0, 0.25, 1], [0.25, 0, 0.75], [1, 0.75, 0]])
    assert mean_of_pairs(found) == (0.25 + 1 + 0.75) / 3


def test_errors_correlate_as_scipy_has_it():
    errors = np.array([[1, 0, 0, 1, 0], [1, 0, 1, 1, 0], [0, 1, 1, 0, 1], [0, 0, 0, 0, 0]])
    found = error_correlation(errors)
    for one in range(3):
        for other in range(3):
            np.testing.assert_allclose(found[one, other], pearsonr(errors[one], errors[other]).statistic)
    assert np.isnan(found[3]).all() and np.isnan(found[:, 3]).all()
    np.testing.assert_allclose(found[0, 2], -1)  # the third is wrong exactly where the first is right
    assert np.isfinite(mean_of_pairs(found))
    assert np.isnan(mean_of_pairs(error_correlation(np.full((2, 3), 0.1))))
