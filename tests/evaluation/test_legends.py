"""Tests that no legend covers what is drawn, and that figures of little data say so."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from hf_layerfusion.evaluation.layer_use import LayerUse
from hf_layerfusion.evaluation.plots.corpus_plots import plot_word_counts
from hf_layerfusion.evaluation.plots.ensemble_plots import plot_gain
from hf_layerfusion.evaluation.plots.layer_plots import plot_layer_use
from hf_layerfusion.evaluation.plots.run_plots import plot_regression, plot_training_curves
from hf_layerfusion.evaluation.plots.surgery_plots import plot_conflicts
from hf_layerfusion.evaluation.plots.task_plots import plot_distributions

USE = LayerUse(
    32, 0.4, 0.85, [0.1, 0.2], [0.0, 0.03], [0.5, 0.5], {"good": [0.5, 0.5]}, [0.1, 0.1], [0.05, 0.06]
)
HISTORY = [{"loss": 0.7, "epoch": 1.0}, {"eval_loss": 0.5, "eval_pearsonr": 0.7, "epoch": 1.0}]
COUNTS = {"good": np.arange(20), "bad": np.arange(20)}
LABELS = np.array([0, 1] * 8)

FIGURES: dict[str, Callable[[Path], None]] = {
    "words": lambda path: plot_word_counts(path, COUNTS, {"good": COUNTS["good"] // 2, "bad": COUNTS["bad"]}),
    "curves": lambda path: plot_training_curves(HISTORY, path, "pearsonr"),
    "layers": lambda path: plot_layer_use(USE, path),
    "gain": lambda path: plot_gain({"one": {"validation": [0.5, 0.5], "test": [0.4, 0.6]}}, path, "accuracy"),
    "classes": lambda path: plot_distributions(LABELS, 1 - LABELS, path, "mood", ["bad", "good"]),
    "values": lambda path: plot_distributions(LABELS * 1.0, LABELS * 2.0, path, "near"),
    "regression": lambda path: plot_regression([0.0, 4.0], [4.0, 0.0], path),
    "conflicts": lambda path: plot_conflicts([{"step": 1, "cosine_a_b": 0.5, "conflict_a_b": 0.1}], path),
}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were saved."""
    figures: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *args, **kwargs: (save(self, *args, **kwargs), figures.append(self))
    )
    return figures


@pytest.mark.parametrize("name", FIGURES)
def test_a_legend_lies_beside_the_axes(name: str, tmp_path: Path, drawn: list[Figure]) -> None:
    FIGURES[name](tmp_path / "figure.png")
    (figure,) = drawn
    legends = [
        *figure.legends,
        *(legend for axes in figure.axes if (legend := axes.get_legend()) is not None),
    ]
    assert legends
    for legend in legends:
        box = legend.get_window_extent()
        assert not [axes.get_title() for axes in figure.axes if box.overlaps(axes.bbox)]


def test_one_epoch_is_said_to_be_the_only_one(tmp_path: Path, drawn: list[Figure]) -> None:
    plot_training_curves(HISTORY, tmp_path / "curves.png", "pearsonr")
    losses, metrics = drawn[0].axes
    assert losses.get_title() == "Training and validation: only epoch 1 was measured"
    assert losses.get_xlim() == (0, 2) and metrics.get_ylabel() == "Pearson correlation"


def test_bars_of_the_layers_have_their_intervals(tmp_path: Path, drawn: list[Figure]) -> None:
    plot_layer_use(USE, tmp_path / "layers.png")
    drops = drawn[0].axes[0]
    (lines,) = drops.containers[0].lines[2]
    ends = [segment[:, 1].tolist() for segment in lines.get_segments()]
    assert ends == [pytest.approx([-5, 5]), pytest.approx([-3, 9])]
    assert drops.get_title() == "Each layer replaced by its mean, 32 texts, with 95 % intervals"
    earlier = dataclasses.replace(USE, accuracy_drop_error=None, loss_rise_error=None)
    plot_layer_use(earlier, tmp_path / "earlier.png")
    assert drawn[1].axes[0].get_title().endswith("32 texts")


def test_words_that_cleaning_leaves_alone_have_one_panel(tmp_path: Path, drawn: list[Figure]) -> None:
    plot_word_counts(tmp_path / "words.png", COUNTS, COUNTS)
    (axes,) = drawn[0].axes
    assert "cleaning" not in axes.get_title()
