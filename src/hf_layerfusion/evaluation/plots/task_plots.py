"""Figures of a multi-task model as PNG files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hf_layerfusion.evaluation.plots.run_plots import (
    BLUE,
    RED,
    STYLE,
    PathLike,
    metric_curve,
    plot_confusion_matrix,
    plot_regression,
    save_figure,
    shorten_label,
)


def plot_task_metrics(
    history: Sequence[Mapping[str, Any]], metrics: Mapping[str, str], path: PathLike, title: str
) -> None:
    """Draw a metric of each task by epoch, one panel per task with its own scale; a dashed line marks the task's best
    epoch.

    Args:
        history: `log_history` of a Trainer.
        metrics: Key of each task's metric in the history, such as `{"sst5": "eval_sst5_accuracy"}`.
        path: PNG file.
        title: Title of the figure.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(7, 0.8 + 1.9 * len(metrics)), layout="constrained")
        panels = figure.subplots(len(metrics), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (task, key) in zip(panels, metrics.items(), strict=True):
            curve = metric_curve(history, key)
            axes.set_ylabel(shorten_label(key.removeprefix("eval_").replace("_", " ")))
            axes.grid(axis="y", alpha=0.25)
            if len(curve):
                axes.plot(*curve.T, "o-", color=BLUE, markersize=4)
                best = curve[curve[:, 1].argmax()]
                axes.axvline(best[0], color="grey", linestyle="--", linewidth=1)
                axes.set_title(
                    f"{shorten_label(task)}: best {best[1]:.3f} after epoch {best[0]:g}", fontsize="medium"
                )
        panels[-1].set_xlabel("epoch")
        panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.suptitle(title)
        save_figure(figure, path)


def plot_task_predictions(
    labels: npt.NDArray[Any],
    predictions: npt.NDArray[Any],
    folder: Path,
    stem: str,
    title: str,
    names: Sequence[str] | None = None,
) -> tuple[str, str]:
    """Draw a task's confusion matrix, or its predicted against its true values, and the distributions of both.

    Args:
        labels: True classes or values, `[N]`.
        predictions: Predicted classes or values, `[N]`.
        folder: Folder of the two PNG files.
        stem: Prefix of their names.
        title: Title of the distributions.
        names: Names of the classes; None for values.

    Returns:
        The names of the two files.
    """
    matrix, distributions = f"{stem}.png", f"{stem}_distributions.png"
    if names is None:
        plot_regression(labels, predictions, folder / matrix)
    else:
        plot_confusion_matrix(labels, predictions, names, folder / matrix)
    plot_distributions(labels, predictions, folder / distributions, title, names)
    return matrix, distributions


def plot_distributions(
    labels: npt.NDArray[Any],
    predictions: npt.NDArray[Any],
    path: PathLike,
    title: str,
    names: Sequence[str] | None = None,
) -> None:
    """Draw the number of true and of predicted texts in each class or range of values, side by side (ExTraBERT, section
    6).

    Args:
        labels: True classes or values, `[N]`.
        predictions: Predicted classes or values, `[N]`.
        path: PNG file.
        title: Title of the figure.
        names: Names of the classes; None for values.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(7, 3.2), layout="constrained")
        axes = figure.subplots()
        if names is not None:
            places = np.arange(len(names))
            for offset, values, label, color in _sides(labels, predictions, 0.2):
                counts = np.bincount(values.astype(int), minlength=len(names))
                axes.bar(places + offset, counts, width=0.4, label=label, color=color)
            axes.set_xticks(places, [shorten_label(name) for name in names])
            axes.set_xlabel("class")
        else:
            edges = np.histogram_bin_edges(np.concatenate([labels, predictions]), bins=20).tolist()
            sides = _sides(labels, predictions, 0)
            axes.hist([values for _, values, _, _ in sides], edges, label=[side[2] for side in sides],
                      color=[side[3] for side in sides])  # fmt: skip
            axes.set_xlabel("value")
        axes.set_ylabel("texts")
        axes.set_title(title)
        figure.legend(loc="outside right center")
        save_figure(figure, path)


def _sides(
    labels: npt.NDArray[Any], predictions: npt.NDArray[Any], offset: float
) -> tuple[tuple[float, npt.NDArray[Any], str, str], ...]:
    return ((-offset, np.asarray(labels), "true", BLUE), (offset, np.asarray(predictions), "predicted", RED))
