"""The figure of conflicts shows what the history holds."""

import pytest
from matplotlib import image
from matplotlib.figure import Figure

from hf_layerfusion.evaluation.plots.surgery_plots import plot_conflicts

HISTORY = [
    {"step": 10, "loss": 1.0, "cosine_a_b": 0.1, "conflict_a_b": 0.25, "conflict": 0.5},
    {
        "step": 20,
        "loss": 0.9,
        "cosine_a_b": -0.2,
        "conflict_a_b": 0.75,
        "cosine_a_c": 0.0,
        "conflict_a_c": 0.5,
    },
    {"step": 20, "eval_loss": 1.0},
]


def test_cosines_and_shares_by_step(tmp_path, monkeypatch):
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (figures.append(self), save(self, *a, **k)))
    plot_conflicts(HISTORY, tmp_path / "conflicts.png")
    pixels = image.imread(tmp_path / "conflicts.png")
    assert min(pixels.shape[:2]) > 300 and pixels.std() > 0.02
    angles, shares = figures[0].axes
    lines = {
        line.get_label(): line.get_xydata().tolist() for line in angles.lines if line.get_marker() == "o"
    }
    assert lines == {"a_b": [[10, 0.1], [20, -0.2]], "a_c": [[20, 0.0]]}
    assert [line.get_xydata().tolist() for line in shares.lines] == [[[10, 25], [20, 75]], [[20, 50]]]
    assert [text.get_text() for text in figures[0].legends[0].get_texts()] == ["a_b", "a_c"]


def test_nothing_to_draw(tmp_path):
    with pytest.raises(ValueError, match="cosine_<task>_<task>"):
        plot_conflicts([{"step": 1, "loss": 1.0}], tmp_path / "none.png")
