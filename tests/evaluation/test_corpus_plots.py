"""Figures of a corpus."""

from pathlib import Path

import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from hf_layerfusion.data.statistics import word_counts
from hf_layerfusion.evaluation.plots.corpus_plots import plot_word_counts


def test_plot_shows_names_that_matplotlib_reads_as_something_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mathematics between dollar signs, and names that start with an underscore, which legends leave out."""
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *args, **kw: (figures.append(self), save(self, *args, **kw))
    )
    counts = word_counts(["a", "b c", "d"], ["$x^{$", "_hidden", "long " * 60])

    plot_word_counts(tmp_path / "words.png", counts, counts)

    shown = [text.get_text().strip() for text in figures[0].axes[0].get_legend().get_texts()]
    assert shown[:2] == ["$x^{$ (1 texts)", "_hidden (1 texts)"]
    assert len(shown[2]) < 60


@pytest.mark.parametrize("longest", [0, 5, 3_000])
def test_plot_is_a_picture_with_something_on_it(tmp_path: Path, longest: int) -> None:
    path = tmp_path / "words.png"
    counts = word_counts(["a " * longest, "a", "a b"], ["negative", "positive", "positive"])

    plot_word_counts(path, counts, {"positive": counts["positive"]})

    picture = imread(path)
    assert picture.shape[0] > 300
    assert picture.shape[1] > 600
    assert picture.std() > 0.05
