"""Figures of an ensemble as PNG files."""

from collections.abc import Mapping, Sequence

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hf_layerfusion.evaluation.plots.run_plots import BLUE, RED, STYLE, PathLike, save_figure, shorten_label


def plot_gain(curves: Mapping[str, Mapping[str, Sequence[float]]], path: PathLike, metric: str) -> None:
    """Draw the gain from each further member: for each task a panel with a line for each split, of the ensembles of the
    first 1, 2, … members.

    A dashed line marks the first member alone, which is the best.

    Args:
        curves: Metric of the ensembles by their number of members, for each task and split.
        path: PNG file.
        metric: Description of the metric.

    Raises:
        ValueError: If there are no curves.
    """
    if not curves or not all(splits and all(splits.values()) for splits in curves.values()):
        raise ValueError("curves must hold a figure or more for each task and split; found none")
    with rc_context(STYLE):
        figure = Figure(figsize=(7, 0.9 + 2.6 * len(curves)), layout="constrained")
        panels = figure.subplots(len(curves), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (task, splits) in zip(panels, curves.items(), strict=True):
            for (split, values), color in zip(splits.items(), (BLUE, RED), strict=False):
                counts = range(1, len(values) + 1)
                axes.plot(counts, values, "o-", color=color, markersize=4, label=split)
                alone = axes.axhline(values[0], color=color, linestyle="--", linewidth=1)
            alone.set_label("the best alone")
            axes.set_ylabel(shorten_label(metric))
            axes.grid(axis="y", alpha=0.25)
            axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
            if len(curves) > 1:
                axes.set_title(shorten_label(task), fontsize="medium")
        panels[-1].set_xlabel("members whose predictions are averaged, the best first")
        panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
        save_figure(figure, path)
