"""Tests of combiners against votes counted by hand, definitions in float64, and properties of all of them."""

import dataclasses
import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import accuracy_score
from transformers import EvalPrediction

from hf_layerfusion.ensembling.batched_metrics import SCORES, accuracy, pearsonr, score_of
from hf_layerfusion.ensembling.combiners import AverageLogits, AverageProbabilities, MajorityVote
from hf_layerfusion.ensembling.fitted import Greedy, GreedyReplacement, Stacked, TaskBased
from hf_layerfusion.ensembling.registry import COMBINERS, combiner_from_json, combiner_to_json, make_combiner
from hf_layerfusion.errors import UserError
from hf_layerfusion.evaluation.metrics import compute_metrics_for


def logits_of(*members):
    """Return the logits `[M, N, C]` of members' probabilities."""
    return np.log(np.array(members))


# Votes counted by hand


def test_the_class_with_most_votes_wins_even_against_a_surer_minority():
    predictions = logits_of([[0.6, 0.4]], [[0.6, 0.4]], [[0.01, 0.99]])
    found = softmax(MajorityVote()(predictions), axis=1)
    # Votes 2/3 and 1/3, which differ by 1/3; means 0.40333 and 0.59667.
    expected = [(2 / 3 + 1 / 3 * 1.21 / 3) / (4 / 3), (1 / 3 + 1 / 3 * 1.79 / 3) / (4 / 3)]
    np.testing.assert_allclose(found[0], expected, rtol=1e-9)
    assert found[0].argmax() == 0
    assert softmax(AverageProbabilities()(predictions), axis=1)[0].argmax() == 1


def test_a_tie_goes_to_the_larger_sum_of_probabilities():
    # One vote each for classes 0 and 1; class 2 has the largest probability of all, and no vote.
    predictions = logits_of([[0.40, 0.25, 0.35]], [[0.10, 0.46, 0.44]])
    assert predictions.mean(axis=0)[0].argmax() == 2
    assert MajorityVote()(predictions)[0].argmax() == 1
    # The other way round: 0.40 + 0.33 against 0.10 + 0.34.
    other = logits_of([[0.40, 0.10, 0.50 - 0.12]], [[0.33, 0.34, 0.33]])
    assert MajorityVote()(other)[0].argmax() == 0
    # Three of three classes: votes all alike.
    three = logits_of([[0.5, 0.3, 0.2]], [[0.1, 0.6, 0.3]], [[0.1, 0.4, 0.5]])
    assert MajorityVote()(three)[0].argmax() == 1


def test_weights_count_votes():
    predictions = logits_of([[0.9, 0.1]], [[0.2, 0.8]], [[0.4, 0.6]])
    assert MajorityVote((3, 1, 1))(predictions)[0].argmax() == 0
    assert MajorityVote((1, 1, 1))(predictions)[0].argmax() == 1
    # 0.1 + 0.2 and 0.3 are equal as votes, whatever floats make of them; class 0 has the larger sum.
    tied = logits_of([[0.4, 0.6]], [[0.4, 0.6]], [[0.99, 0.01]])
    assert MajorityVote((0.1, 0.2, 0.3))(tied)[0].argmax() == 0


# Definitions


@pytest.mark.parametrize("weights", [None, (2.0, 0.0, 1.0)])
def test_averages_are_what_they_are_called(weights):
    generator = np.random.default_rng(0)
    predictions = generator.normal(size=(3, 5, 4)).astype(np.float32)
    shares = [1 / 3] * 3 if weights is None else [2 / 3, 0, 1 / 3]
    for row in range(5):
        logits = [sum(shares[m] * float(predictions[m, row, c]) for m in range(3)) for c in range(4)]
        np.testing.assert_allclose(AverageLogits(weights)(predictions)[row], logits, rtol=1e-12)
        exponents = [[math.exp(float(value)) for value in predictions[m, row]] for m in range(3)]
        means = [sum(shares[m] * exponents[m][c] / sum(exponents[m]) for m in range(3)) for c in range(4)]
        found = softmax(AverageProbabilities(weights)(predictions)[row])
        np.testing.assert_allclose(found, means, rtol=1e-12)
    values = predictions[:, :, 0]
    for combiner in (AverageLogits(weights), AverageProbabilities(weights)):
        np.testing.assert_allclose(combiner(values), np.array(shares) @ values.astype(np.float64), rtol=1e-12)


def test_a_probability_of_zero_stays_finite():
    predictions = np.array([[[0.0, -2000.0]], [[0.0, -3000.0]]])
    for name in ("majority_vote", "average_logits", "average_probabilities"):
        found = make_combiner(name)(predictions)
        assert np.isfinite(found).all() and found[0].argmax() == 0


# What is fitted


def answers(seed, members=6, rows=40, classes=3, skill=1.0):
    """Return labels, and logits of members that are better than chance."""
    generator = np.random.default_rng(seed)
    labels = np.arange(rows) % classes
    logits = generator.normal(size=(members, rows, classes)) + skill * np.eye(classes)[labels]
    return logits, labels


def greedy_by_hand(predictions, labels, replacement):
    """Return the result of the greedy rule, member by member and example by example."""
    chances = softmax(predictions, axis=2)
    order, best = [], -1.0
    while len(order) < len(chances) * (2 if replacement else 1):
        found = []
        for member in range(len(chances)):
            together = sum(chances[each] for each in [*order, member])
            score = accuracy_score(labels, [int(np.argmax(row)) for row in together])
            improves, harms = score > best, score < best
            if (member not in order and not harms) or (member in order and replacement and improves):
                found.append((-score, member))
        if not found:
            break
        score, member = min(found)
        best = -score
        order.append(member)
    return tuple(order)


@pytest.mark.parametrize("replacement", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_greedy_is_its_rule_followed_by_hand(seed, replacement):
    # Continuous logits: sums in another order decide no example otherwise.
    predictions, labels = answers(seed)
    combiner = GreedyReplacement() if replacement else Greedy()
    fitted = combiner.fit(predictions, labels, accuracy)
    assert fitted.order == greedy_by_hand(predictions, labels, replacement)
    best = max(accuracy_score(labels, each.argmax(axis=1)) for each in predictions)
    assert accuracy(fitted(predictions)[None], labels)[0] >= best
    counts = np.bincount(fitted.order, minlength=len(predictions))
    expected = np.average(softmax(predictions, axis=2), axis=0, weights=counts)
    np.testing.assert_allclose(softmax(fitted(predictions), axis=1), expected, rtol=1e-9)


def test_greedy_adds_what_does_not_harm_but_nothing_twice_for_that():
    predictions, labels = answers(0, members=1)
    twins = np.repeat(predictions, 3, axis=0)
    assert Greedy().fit(twins, labels, accuracy).order == (0, 1, 2)
    assert GreedyReplacement().fit(twins, labels, accuracy).order == (0, 1, 2)
    liar = np.stack([predictions[0], 100 * np.eye(3)[(labels + 1) % 3]])
    assert Greedy().fit(liar, labels, accuracy).order == (0,)


def test_greedy_on_values_never_falls_below_the_best_and_passes_over_constants():
    generator = np.random.default_rng(0)
    labels = generator.normal(size=30)
    values = labels + generator.normal(size=(5, 30))
    values[0] = 2.0
    fitted = Greedy().fit(values, labels, pearsonr)
    best = max(np.corrcoef(each, labels)[0, 1] for each in values[1:])
    assert np.corrcoef(fitted(values), labels)[0, 1] >= best
    assert fitted.order[0] == 1 + np.argmax([np.corrcoef(each, labels)[0, 1] for each in values[1:]])
    with pytest.raises(UserError, match="no member's score is defined"):
        Greedy().fit(values[:1], labels, pearsonr)


def test_task_based_takes_the_best_member_or_the_only_one():
    predictions, labels = answers(1)
    fitted = TaskBased().fit(predictions, labels, accuracy)
    scores = [accuracy_score(labels, each.argmax(axis=1)) for each in predictions]
    assert fitted.member == int(np.argmax(scores))
    np.testing.assert_array_equal(fitted(predictions), predictions[fitted.member])
    np.testing.assert_array_equal(TaskBased()(predictions[:1]), predictions[0])


@pytest.mark.parametrize("classes", [2, 3])
def test_stacked_is_scikit_learns_own(classes):
    predictions, labels = answers(2, classes=classes)
    unseen, _ = answers(3, classes=classes)
    side_by_side = [np.concatenate(list(softmax(each, axis=2)), axis=1) for each in (predictions, unseen)]
    learner = LogisticRegression(max_iter=1000).fit(side_by_side[0], labels)
    fitted = Stacked().fit(predictions, labels, accuracy)
    expected = learner.predict_proba(side_by_side[1])
    np.testing.assert_allclose(softmax(fitted(unseen), axis=1), expected, rtol=1e-9)
    values, targets = predictions[:, :, 0], predictions[:, :, 0].sum(axis=0)
    ridge = Ridge().fit(values.T, targets)
    fitted = Stacked().fit(values, targets, pearsonr)
    np.testing.assert_allclose(fitted(unseen[:, :, 0]), ridge.predict(unseen[:, :, 0].T), rtol=1e-9)


# What holds for any members


@st.composite
def members(draw):
    count, rows, classes = draw(st.integers(1, 5)), draw(st.integers(1, 6)), draw(st.integers(2, 4))
    # Distinct numbers, so that no class or member is first by chance of place.
    numbers = draw(st.permutations(range(count * rows * classes)))
    return np.array(numbers, np.float64).reshape(count, rows, classes) * 0.37


@settings(max_examples=40, deadline=None)
@given(members(), st.randoms(use_true_random=False))
def test_the_order_of_members_changes_nothing(predictions, random):
    order = list(range(len(predictions)))
    random.shuffle(order)
    weights = np.arange(1.0, len(order) + 1)
    for combiner in (MajorityVote, AverageLogits, AverageProbabilities):
        expected = combiner(tuple(weights))(predictions)
        found = combiner(tuple(weights[order]))(predictions[order])
        np.testing.assert_allclose(softmax(found, axis=1), softmax(expected, axis=1), atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(members(), st.integers(2, 3))
def test_a_member_given_twice_is_one_of_twice_the_weight(predictions, times):
    repeated = np.concatenate([predictions, *[predictions[:1]] * (times - 1)])
    weights = (float(times), *[1.0] * (len(predictions) - 1))
    for combiner in (MajorityVote, AverageLogits, AverageProbabilities):
        found, expected = combiner()(repeated), combiner(weights)(predictions)
        np.testing.assert_allclose(softmax(found, axis=1), softmax(expected, axis=1), atol=1e-12)
        same = combiner()(np.repeat(predictions, times, axis=0))
        np.testing.assert_allclose(softmax(same, 1), softmax(combiner()(predictions), 1), atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(members())
def test_a_single_member_is_answered_as_it_answers(predictions):
    for combiner in (MajorityVote(), AverageLogits(), AverageProbabilities(), TaskBased(), Greedy((0,))):
        found = combiner(predictions[:1])
        np.testing.assert_array_equal(found.argmax(axis=1), predictions[0].argmax(axis=1))


def test_stacked_does_not_depend_on_the_order_of_members():
    predictions, labels = answers(4)
    order = np.random.default_rng(0).permutation(len(predictions))
    one = Stacked().fit(predictions, labels, accuracy)(predictions)
    other = Stacked().fit(predictions[order], labels, accuracy)(predictions[order])
    np.testing.assert_allclose(softmax(one, axis=1), softmax(other, axis=1), atol=1e-3)


# Scores


@pytest.mark.parametrize("classes", [2, 4])
def test_scores_are_the_metrics_of_a_run(classes):
    predictions, labels = answers(5, members=4, rows=23, classes=classes)
    labels[labels == classes - 1] = 0  # a class that is predicted and never true
    predictions[1, :, :] = np.eye(classes)[0]
    metrics = compute_metrics_for("single_label_classification")
    for name, score in SCORES["single_label_classification"].items():
        expected = [metrics(EvalPrediction(each, labels))[name] for each in predictions]
        np.testing.assert_allclose(score(predictions, labels), expected, rtol=1e-12)
    targets = np.random.default_rng(0).normal(size=23)
    metrics = compute_metrics_for("regression")
    expected = [metrics(EvalPrediction(each[:, 0], targets))["pearsonr"] for each in predictions]
    np.testing.assert_allclose(pearsonr(predictions[:, :, 0], targets), expected, rtol=1e-9)
    assert np.isnan(expected[1])


# As JSON


def test_a_combiner_comes_back_from_json_with_what_it_learned():
    predictions, labels = answers(6)
    for name in COMBINERS:
        combiner = make_combiner(name).fit(predictions, labels, accuracy)
        again = combiner_from_json(json.loads(json.dumps(combiner_to_json(combiner))))
        assert type(again) is type(combiner)
        np.testing.assert_array_equal(again(predictions), combiner(predictions))


# Mistakes

GOOD = np.zeros((2, 4, 3))
MISTAKES = {
    "no members": (lambda: MajorityVote()(GOOD[:0]), "needs one member or more"),
    "one prediction": (lambda: MajorityVote()(np.zeros(3)), "needs one member or more"),
    "not finite": (lambda: AverageLogits()(np.stack([GOOD[0], GOOD[0] * np.nan])), "infinity for member 2"),
    "vote on values": (lambda: MajorityVote()(GOOD[:, :, 0]), "MajorityVote combines classes"),
    "too few weights": (lambda: AverageLogits((1.0,))(GOOD), "one value for each of 2 members, found 1"),
    "negative weight": (lambda: AverageLogits((1.0, -1.0))(GOOD), "not negative and not all 0"),
    "no weight": (lambda: AverageLogits((0.0, 0.0))(GOOD), "not negative and not all 0"),
    "unfitted greedy": (lambda: Greedy()(GOOD), "greedy must be fitted"),
    "unfitted stacked": (lambda: Stacked()(GOOD), "stacked must be fitted"),
    "unfitted task-based": (lambda: TaskBased()(GOOD), "task_based must be fitted"),
    "member that is not there": (lambda: Greedy((0, 2))(GOOD), "fitted on predictions of width 3, found 2"),
    "class without examples": (
        lambda: Stacked().fit(GOOD, np.array([0, 0, 2, 2]), accuracy), "found none of class number 1",
    ),
    "unknown name": (lambda: make_combiner("vote"), "must be one of majority_vote"),
    "unknown setting": (lambda: make_combiner("stacked", depth=2), "has no argument 'depth'"),
    "unknown metric": (lambda: score_of("regression", "accuracy"), "must be one of pearsonr"),
    "several labels": (lambda: score_of("multi_label_classification"), "problem type must be one of"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_line(mistake):
    call, message = MISTAKES[mistake]
    with pytest.raises(UserError) as caught:
        call()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_table_has_every_combiner_once():
    assert len(set(COMBINERS.values())) == len(COMBINERS)
    assert all(dataclasses.is_dataclass(combiner) for combiner in COMBINERS.values())
    assert [name for name, combiner in COMBINERS.items() if combiner.learns] == [
        "task_based", "greedy", "greedy_replacement", "stacked",
    ]  # fmt: skip
    assert not list(itertools.filterfalse(str.isidentifier, COMBINERS))
