"""Tests of tables of ensembles: valid declarations, and figures that follow from the members' run files."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import pearsonr
from sklearn.metrics import accuracy_score

from hf_layerfusion.ensembling.registry import make_combiner
from hf_layerfusion.errors import UserError
from hf_layerfusion.evaluation.significance import paired_bootstrap
from reproduction.ensemble_table import Combination, EnsembleTable, ensemble_table_names
from reproduction.ensemble_table_report import report_of_ensembles
from reproduction.ensemble_table_rows import RESAMPLES, combine_members
from reproduction.recorded_members import read_members
from reproduction.run_table import table_names

SIZES = {"validation": 60, "test": 80}
LABELS = {
    split: {
        "topic": np.random.default_rng(size).integers(0, 3, size),
        "score": np.random.default_rng(size + 1).normal(size=size).round(3),
    }
    for split, size in SIZES.items()
}


@pytest.mark.parametrize("name", ensemble_table_names())
def test_members_are_runs_that_tables_declare(name):
    table = EnsembleTable.load(name)
    assert table.runs()
    for run in table.runs():
        assert table.declared.get(run), f"no table runs {run}"
    made = set()
    for row, combination in table.rows.items():
        assert combination.members and set(combination.members) <= {*table.runs(), *made}
        make_combiner(combination.combiner)
        made.add(row)


def test_names_tell_tables_apart_and_unknown_ones_are_refused():
    assert not {*table_names()} & {*ensemble_table_names()}
    with pytest.raises(UserError, match=r"--table must be one of grubert-vote.*found 'nope'"):
        EnsembleTable.load("nope")


def text_of(values: np.ndarray) -> str:
    return " ".join(f"{value:.3f}" for value in values.reshape(-1))


def write_members(results: Path, skills: dict[str, tuple[float, float]]) -> dict[str, dict]:
    """Write runs whose predictions are noisy labels, `skill` strong; return the predictions."""
    found: dict[str, dict] = {}
    for number, (run, (of_topic, of_score)) in enumerate(skills.items()):
        rng = np.random.default_rng(number)
        found[run] = {}
        for split, labels in LABELS.items():
            logits = of_topic * np.eye(3)[labels["topic"]] + rng.normal(size=(SIZES[split], 3))
            values = of_score * labels["score"] + rng.normal(size=SIZES[split])
            found[run][split] = {"topic": logits.round(3), "score": values.round(3)}
        content = {
            "settings": {"tasks": {"topic": {}, "score": {"problem_type": "regression"}}},
            "predictions": {"topic": ""},
            "labels": {task: text_of(each) for task, each in LABELS["test"].items()},
            "validation_labels": {task: text_of(each) for task, each in LABELS["validation"].items()},
            "logits": {
                split: {task: text_of(each) for task, each in tasks.items()}
                for split, tasks in found[run].items()
            },
        }
        (results / "g" / run).parent.mkdir(parents=True, exist_ok=True)
        (results / "g" / f"{run}.json").write_text(json.dumps(content))
    return found


SKILLS = {"a/seed-0": (2.0, 0.5), "b/seed-0": (0.5, 2.0), "c/seed-0": (1.0, 1.0), "c/seed-1": (1.0, 1.0)}


def table_of(**rows: Combination) -> EnsembleTable:
    return EnsembleTable("t", "T", "g", rows, {})


def combined(table: EnsembleTable, results: Path):
    return {row.name: row for row in combine_members(table, read_members(table, results))}


def main_figures(predictions: dict, split: str) -> tuple[float, float]:
    labels = LABELS[split]
    return (
        accuracy_score(labels["topic"], predictions["topic"].argmax(axis=1)),
        pearsonr(predictions["score"], labels["score"]).statistic,
    )


def test_figures_are_those_of_the_members_predictions(tmp_path):
    """Against scikit-learn's and scipy's figures of predictions that are combined here by their definitions."""
    found = write_members(tmp_path, SKILLS)
    runs = tuple(SKILLS)
    table = table_of(
        logits=Combination("average_logits", runs),
        probabilities=Combination("average_probabilities", runs),
        each=Combination("task_based", runs),
        outer=Combination("average_logits", ("each", "logits")),
        two=Combination("average_logits", runs, best=2),
        best=Combination("average_logits", runs, best="of_each_task"),
    )
    rows = combined(table, tmp_path)

    def mean_of(names, split):
        return {
            task: np.mean([found[name][split][task] for name in names], axis=0) for task in ("topic", "score")
        }

    single = {name: np.mean(main_figures(each["validation"], "validation")) for name, each in found.items()}
    order = sorted(single, key=lambda name: -single[name])
    assert next(iter(rows)) == f"best member on validation: {order[0]}"
    for split in SIZES:
        own = {"topic": found["a/seed-0"][split]["topic"], "score": found["b/seed-0"][split]["score"]}
        every = mean_of(runs, split)
        chances = np.mean([softmax(found[name][split]["topic"], axis=1) for name in runs], axis=0)
        expected = {
            f"best member on validation: {order[0]}": found[order[0]][split],
            "logits": every,
            "probabilities": {"topic": chances, "score": every["score"]},
            "each": own,
            "outer": {task: (own[task] + every[task]) / 2 for task in own},
            "two": mean_of(order[:2], split),
            "best": mean_of(["a/seed-0", "b/seed-0"], split),
        }
        for name, predictions in expected.items():
            topic, score = main_figures(predictions, split)
            found_metrics = rows[name].metrics[split]
            assert found_metrics == pytest.approx(
                {"mean": (topic + score) / 2, "topic": topic, "score": score}
            )
    best = next(iter(rows.values()))
    for name in table.rows:
        gain = rows[name].gain
        assert gain.difference == pytest.approx(
            rows[name].metrics["test"]["mean"] - best.metrics["test"]["mean"], abs=1e-9
        )
        assert gain.low <= gain.difference <= gain.high
        assert rows[name].gain_over_mean is None
    assert rows["each"].used == {"topic": ["a/seed-0"], "score": ["b/seed-0"]}
    assert rows["logits"].used == {} and rows["logits"].counts == {"topic": 4, "score": 4}


def test_what_learns_learns_on_the_validation_data_alone(tmp_path):
    write_members(tmp_path, SKILLS)
    table = table_of(
        **{name: Combination(name, tuple(SKILLS)) for name in ("greedy", "stacked", "task_based")}
    )
    before = combined(table, tmp_path)
    for run in SKILLS:
        path = tmp_path / "g" / f"{run}.json"
        content = json.loads(path.read_text())
        numbers = np.array(content["logits"]["test"]["topic"].split(), float)
        content["logits"]["test"]["topic"] = text_of(-numbers)
        path.write_text(json.dumps(content))
    after = combined(table, tmp_path)
    for name in table.rows:
        assert after[name].used == before[name].used
        assert after[name].metrics["validation"] == before[name].metrics["validation"]
        assert after[name].metrics["test"]["topic"] != before[name].metrics["test"]["topic"]
    assert (
        before["greedy"].metrics["validation"]["topic"] >= before["task_based"].metrics["validation"]["topic"]
    )


def test_missing_members_are_counted_and_named(tmp_path):
    write_members(tmp_path, {"a/seed-0": (2.0, 1.0), "b/seed-0": (1.0, 2.0), "old/seed-0": (1.0, 1.0)})
    path = tmp_path / "g" / "old" / "seed-0.json"
    content = json.loads(path.read_text())
    del content["logits"]  # as run files were before logits were kept
    path.write_text(json.dumps(content))
    table = table_of(
        mean=Combination("average_logits", ("a/seed-0", "b/seed-0", "old/seed-0", "none/seed-0")),
        outer=Combination("average_logits", ("mean", "gone")),
        gone=Combination("average_logits", ("none/seed-0",)),
    )
    assert read_members(table, tmp_path).missing == ["old/seed-0", "none/seed-0"]
    rows = combined(table, tmp_path)
    assert rows["mean"].missing == 2 and rows["mean"].counts == {"topic": 2, "score": 2}
    assert rows["outer"].missing == 1 and "gone" not in rows
    report = report_of_ensembles(table, tmp_path)
    assert "- Missing members: old/seed-0, none/seed-0." in report.markdown()
    assert report_of_ensembles(table, tmp_path / "nowhere") is None


def test_members_of_other_examples_are_refused(tmp_path):
    write_members(tmp_path, {"a/seed-0": (1.0, 1.0), "b/seed-0": (1.0, 1.0)})
    path = tmp_path / "g" / "b" / "seed-0.json"
    content = json.loads(path.read_text())
    content["validation_labels"]["score"] = "0.5 " + content["validation_labels"]["score"]
    path.write_text(json.dumps(content))
    table = table_of(mean=Combination("average_logits", ("a/seed-0", "b/seed-0")))
    with pytest.raises(UserError, match=r"the same validation examples of task 'score' as a/seed-0"):
        read_members(table, tmp_path)


def test_a_vote_of_classes_is_compared_with_the_best_and_the_mean_member(tmp_path):
    """Runs of one task hold the classes of their test examples: against votes counted here."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 300)
    classes = np.array([np.where(rng.random(300) < 0.3, 1 - labels, labels) for _ in range(3)])
    for number, each in enumerate(classes):
        path = tmp_path / "g" / "m" / f"seed-{number}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        texts = {"predictions": " ".join(map(str, each)), "labels": " ".join(map(str, labels))}
        path.write_text(json.dumps({"settings": {}, **texts}))
    table = table_of(vote=Combination("majority_vote", tuple(f"m/seed-{number}" for number in range(3))))
    rows = combined(table, tmp_path)
    right = (classes.sum(axis=0) > 1) == labels
    each_right = (classes == labels).astype(float)
    best = int(each_right.mean(axis=1).argmax())
    assert list(rows) == [f"best member on test: m/seed-{best}", "vote"]
    vote = rows["vote"]
    assert vote.metrics == {"test": {"default": pytest.approx(right.mean())}}
    assert vote.gain.difference == pytest.approx(right.mean() - each_right[best].mean())
    expected = paired_bootstrap(each_right, right.astype(float), RESAMPLES)
    assert vote.gain_over_mean.difference == pytest.approx(expected.difference)
    assert (vote.gain_over_mean.low, vote.gain_over_mean.high) == pytest.approx(
        (expected.low, expected.high), abs=0.01
    )
    pairs = [(classes[a] != classes[b]).mean() for a, b in ((0, 1), (0, 2), (1, 2))]
    assert vote.disagreement == pytest.approx(np.mean(pairs))
    text = report_of_ensembles(table, tmp_path).markdown()
    assert "test, accuracy" in text and "gain over the mean member" in text and "validation" not in text
