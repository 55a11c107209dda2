"""The figure of gain against members is drawn of what it is given, or refused."""

import pytest
from matplotlib.figure import Figure

from hf_layerfusion.evaluation.plots.ensemble_plots import plot_gain


def test_a_panel_for_each_task_and_a_line_for_each_split(tmp_path, monkeypatch):
    figures, save = [], Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *args, **kwargs: (figures.append(self), save(self, *args, **kwargs))
    )
    curves = {"sst5": {"validation": [0.4, 0.5, 0.45], "test": [0.41, 0.5, 0.5]}, "$sts$": {"test": [0.8]}}
    plot_gain(curves, tmp_path / "gain.png", "accuracy")
    first, second = figures[0].axes
    solid = [line for line in first.get_lines() if line.get_linestyle() == "-"]
    assert [list(line.get_ydata()) for line in solid] == list(curves["sst5"].values())
    assert list(solid[0].get_xdata()) == [1, 2, 3]
    assert second.get_title() == "$sts$"
    assert [text.get_text() for text in first.get_legend().get_texts()] == [
        "validation",
        "test",
        "the best alone",
    ]
    plot_gain({"default": {"test": [0.5, 0.6]}}, tmp_path / "gain.png", "accuracy")
    assert figures[1].axes[0].get_title() == "", "one task needs no name"
    assert (tmp_path / "gain.png").stat().st_size > 5000


def test_nothing_is_no_figure(tmp_path):
    for curves in ({}, {"a": {}}, {"a": {"test": []}}):
        with pytest.raises(ValueError, match="must hold a figure or more"):
            plot_gain(curves, tmp_path / "gain.png", "accuracy")
    assert not list(tmp_path.iterdir())
