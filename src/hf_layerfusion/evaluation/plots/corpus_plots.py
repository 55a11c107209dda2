"""Figures of a corpus as PNG files."""

from collections.abc import Hashable, Mapping

import numpy as np
import numpy.typing as npt
from matplotlib import rc_context
from matplotlib.figure import Figure

from hf_layerfusion.evaluation.plots.run_plots import STYLE, PathLike, save_figure, shorten_label

WordCounts = Mapping[Hashable, npt.NDArray[np.integer]]
"""Number of words of each text, by class."""


def plot_word_counts(path: PathLike, before: WordCounts, after: WordCounts) -> None:
    """Draw histograms of words per text by class, before and after cleaning (GRUBERT, appendix A.1, Figure 3).

    If cleaning changed no text's length, there is one panel.

    Args:
        path: PNG file.
        before: Word counts of the raw texts, from `data.statistics.word_counts`.
        after: Word counts of the cleaned texts.
    """
    most = max(counts.max() for split in (before, after) for counts in split.values())
    width = max(1, most // 100)
    edges = np.arange(-0.5, most + width + 0.5, width)
    labels = list({**before, **after})
    splits = {"before cleaning": before, "after cleaning": after}
    if same_counts(before, after):
        splits = {"": after}
    with rc_context(STYLE):
        figure = Figure(figsize=(2 + 4 * len(splits), 4 + 0.25 * len(labels)), layout="constrained")
        figure.suptitle("Words per text by class")
        panels = figure.subplots(1, len(splits), sharex=True, sharey=True, squeeze=False)[0]
        for axes, (when, split) in zip(panels, splits.items(), strict=True):
            for label, counts in split.items():
                name = f"{shorten_label(str(label))} ({len(counts):,} texts)"
                color = f"C{labels.index(label)}"
                axes.hist(counts, bins=edges, histtype="step", linewidth=1.8, color=color, label=name)
            axes.set(title=when, xlabel="words per text", ylabel="texts")
            axes.label_outer()
            axes.legend(title="class", loc="upper center", bbox_to_anchor=(0.5, -0.15))
        save_figure(figure, path)


def same_counts(before: WordCounts, after: WordCounts) -> bool:
    """Return whether two counts are the same, class by class."""
    return before.keys() == after.keys() and all(
        np.array_equal(counts, after[label]) for label, counts in before.items()
    )
