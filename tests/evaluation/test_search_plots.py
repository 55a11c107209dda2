"""The figures of a search show its trials, the best one, and what failed."""

import pytest
from matplotlib import image
from matplotlib.figure import Figure

from hf_layerfusion.evaluation.plots.search_plots import SearchTrial, best_of, plot_history, plot_settings

TRIALS = [
    SearchTrial(0, "finished", 0.50, {"learning_rate": 1e-5, "fusion": "cat", "batch": 8}),
    SearchTrial(1, "failed", None, {"learning_rate": 1e-2, "fusion": "cat", "batch": 8}, error="diverged"),
    SearchTrial(2, "finished", 0.75, {"learning_rate": 1e-4, "fusion": "share", "batch": 16}),
    SearchTrial(3, "pruned", 0.90, {"learning_rate": 1e-3, "fusion": "cat", "batch": 4}),
    SearchTrial(4, "finished", 0.75, {"learning_rate": 2e-4, "fusion": "share", "batch": 8}),
]


@pytest.fixture
def figures(monkeypatch):
    saved = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (saved.append(self), save(self, *a, **k)))
    return saved


def points(axes, label):
    collections = [entry for entry in axes.collections if entry.get_label() == label]
    return [tuple(point) for entry in collections for point in entry.get_offsets().tolist()]


def test_the_best_is_the_first_of_equal_finished_trials():
    assert best_of(TRIALS, maximize=True).number == 2
    assert best_of(TRIALS, maximize=False).number == 0
    with pytest.raises(ValueError, match="has finished; found none"):
        best_of(TRIALS[1:2], maximize=True)


def test_history(tmp_path, figures):
    plot_history(TRIALS, "validation accuracy", True, tmp_path / "history.png")
    assert image.imread(tmp_path / "history.png").std() > 0.02
    axes = figures[0].axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("trial", "validation accuracy")
    assert axes.get_title() == "5 trials, 1 failed; highest validation accuracy: 0.75 in trial 2"
    assert axes.lines[0].get_xydata().tolist() == [[0, 0.5], [2, 0.75], [4, 0.75], [4, 0.75]]
    assert points(axes, "finished") == [(0, 0.5), (2, 0.75), (4, 0.75)]
    assert points(axes, "pruned") == [(3, 0.9)]
    assert points(axes, "best") == [(2, 0.75)]


def test_settings(tmp_path, figures):
    plot_settings(TRIALS, "validation accuracy", True, ["learning_rate"], tmp_path / "settings.png")
    assert image.imread(tmp_path / "settings.png").std() > 0.02
    rate, fusion, batch = figures[0].axes
    assert (rate.get_xlabel(), rate.get_xscale(), fusion.get_xscale()) == ("learning_rate", "log", "linear")
    assert points(rate, "finished") == [(1e-5, 0.5), (1e-4, 0.75), (2e-4, 0.75)]
    assert [tick.get_text() for tick in fusion.get_xticklabels()] == ["cat", "share"]
    assert points(fusion, "finished") == [(0, 0.5), (1, 0.75), (1, 0.75)]
    assert [tick.get_text() for tick in batch.get_xticklabels()] == ["4", "8", "16"]
    assert points(batch, "best") == [(2, 0.75)]


def test_many_whole_numbers_stand_on_an_axis_of_numbers(tmp_path, figures):
    trials = [SearchTrial(n, "finished", float(n), {"dense_size": 10 * n}) for n in range(12)]
    plot_settings(trials, "validation loss", False, [], tmp_path / "settings.png")
    assert points(figures[0].axes[0], "finished") == [(10.0 * n, float(n)) for n in range(12)]
