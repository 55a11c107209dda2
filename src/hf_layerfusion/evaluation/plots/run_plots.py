"""Figures of a run as PNG files: training curves, confusion matrix, regression, and a table of results.

They are drawn on separate `Figure` objects without pyplot, so that they need no display and share no state. Text from
the user is never interpreted as mathematics (`$`).
"""

import math
import os
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy.stats import pearsonr
from sklearn.metrics import confusion_matrix

from hf_layerfusion.metric_registry import inline_name
from hf_layerfusion.storage import replacing

STYLE: dict[Any, Any] = {
    "text.parse_math": False,
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "legend.frameon": False,
}
DPI = 150
BLUE, RED, _GREY = "#1f6fb4", "#c8502d", "#777777"
MOST_NUMBERED, MOST_NAMED = 30, 100
"""Number of classes above which the cells of a confusion matrix have no numbers, and of its named classes."""
_LONGEST_NAME = 32
_TITLE_WIDTH = 72  # letters a line

PathLike = str | os.PathLike[str]


def save_figure(figure: Figure, path: PathLike) -> None:
    """Write a figure as a PNG file, atomically."""
    with replacing(path) as partial:
        figure.savefig(partial, dpi=DPI, format="png")


class TableRow(NamedTuple):
    """Row of `plot_table`.

    Attributes:
        name: Name of the variant.
        mean: Position of the dot, in the unit of the axis.
        error: Length of the bar to both sides, or to the left and to the right; None for no bar.
    """

    name: str
    mean: float
    error: float | tuple[float, float] | None


def has_training_curves(history: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether a log has a loss that `plot_training_curves` can draw."""
    return any(len(metric_curve(history, name)) for name in ("loss", "eval_loss"))


def plot_training_curves(
    history: Sequence[Mapping[str, Any]], path: PathLike, metric: str = "accuracy"
) -> None:
    """Draw loss (left axis) and a metric (right axis) by epoch, like Figure 2 of GRUBERT.

    A vertical line marks the epoch with the lowest validation loss, whose weights the paper keeps.

    Args:
        history: `log_history` of a `transformers.Trainer`. From each entry with an `epoch` it uses `loss` (training),
            `eval_loss`, `eval_<metric>`, and `train_<metric>`, which exists if the run also evaluated its training data
            with `metric_key_prefix="train"`.
        path: PNG file.
        metric: Name of the metric; if the history does not contain it, the figure shows only the losses.

    Raises:
        ValueError: If the history has no finite `loss` or `eval_loss`.
    """
    train_loss, eval_loss = metric_curve(history, "loss"), metric_curve(history, "eval_loss")
    if not has_training_curves(history):
        raise ValueError("history must hold a finite 'loss' or 'eval_loss' with an 'epoch'; found neither")
    eval_metric, train_metric = (
        metric_curve(history, f"eval_{metric}"),
        metric_curve(history, f"train_{metric}"),
    )

    with rc_context(STYLE):
        figure = Figure(figsize=(7, 4.2), layout="constrained")
        losses = figure.add_subplot()
        name = inline_name(metric)
        lines = _draw(losses, train_loss, "training loss", BLUE, "--")
        lines += _draw(losses, eval_loss, "validation loss", BLUE, "-")
        epochs = {epoch for curve in (train_loss, eval_loss, eval_metric) for epoch in curve[:, 0]}
        when = " by epoch" if len(epochs) > 1 else f": only epoch {min(epochs):g} was measured"
        losses.set(xlabel="epoch", ylabel="loss", title=f"Training and validation{when}")
        if len(epochs) == 1:
            losses.set_xlim(min(epochs) - 1, min(epochs) + 1)
        losses.xaxis.set_major_locator(MaxNLocator(integer=True))
        losses.grid(axis="y", alpha=0.25)
        if len(eval_metric) or len(train_metric):
            metrics = losses.twinx()
            lines += _draw(metrics, train_metric, f"training {name}", RED, "--")
            lines += _draw(metrics, eval_metric, f"validation {name}", RED, "-")
            metrics.set_ylabel(name)
            metrics.spines.right.set_visible(True)
        if len(eval_loss):
            best = eval_loss[eval_loss[:, 1].argmin()]
            label = f"lowest validation loss (epoch {best[0]:g})"
            lines.append(losses.axvline(best[0], color=_GREY, linestyle=":", label=label))
        figure.legend(handles=lines, loc="outside lower center", ncols=min(3, len(lines)), fontsize=9)
        save_figure(figure, path)


def plot_confusion_matrix(
    labels: npt.ArrayLike, predictions: npt.ArrayLike, names: Sequence[str], path: PathLike
) -> None:
    """Draw a matrix of true and predicted classes, with counts and percentages of each true class.

    With more than `MOST_NUMBERED` classes the cells have no numbers, and at most `MOST_NAMED` classes are named.

    Args:
        labels: True class of each text, `[N]`, as indices into `names`.
        predictions: Predicted class of each text, `[N]`.
        names: Names of the classes.
        path: PNG file.

    Raises:
        ValueError: If there are no rows, or an index has no name.
    """
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    indices = np.concatenate([labels, predictions])
    if not len(indices) or indices.min() < 0 or indices.max() >= len(names):
        raise ValueError(f"labels and predictions must be indices below {len(names)}, at least one of each")
    counts = confusion_matrix(labels, predictions, labels=range(len(names)))
    totals = counts.sum(axis=1, keepdims=True)
    percent = 100 * counts / np.maximum(totals, 1)

    with rc_context(STYLE | {"axes.spines.top": True, "axes.spines.right": True}):
        numbered = len(names) <= MOST_NUMBERED
        size = max(4.2, 1.6 + 0.85 * min(len(names), MOST_NUMBERED))
        figure = Figure(figsize=(size + 0.9, size), layout="constrained")
        axes = figure.add_subplot()
        image = axes.imshow(percent, cmap="Blues", vmin=0, vmax=100)
        shown = [shorten_label(name) for name in names]
        tilt = 45 if max(map(len, shown)) * len(names) > 36 else 0
        named = range(0, len(names), math.ceil(len(names) / MOST_NAMED))
        axes.set_xticks(named, shown[:: named.step], rotation=tilt, ha="right" if tilt else "center")
        axes.set_yticks(named, shown[:: named.step])
        axes.set(
            xlabel="predicted class", ylabel="true class", title=f"Confusion matrix, {len(labels):,} texts"
        )
        for row, column in np.ndindex(counts.shape) if numbered else ():
            axes.text(
                column,
                row,
                f"{counts[row, column]:,}\n{percent[row, column]:.1f} %",
                ha="center",
                va="center",
                fontsize=9 if len(names) < 8 else 7,
                color="white" if percent[row, column] > 55 else "black",
            )
        figure.colorbar(image, ax=axes, label="percent of the true class", shrink=0.8)
        save_figure(figure, path)


def plot_regression(targets: npt.ArrayLike, predictions: npt.ArrayLike, path: PathLike) -> None:
    """Draw predicted against true values, with the line of equality.

    Args:
        targets: True values, `[N]`.
        predictions: Predicted values, `[N]` or `[N, 1]`.
        path: PNG file.

    Raises:
        ValueError: If there are no rows, or their numbers differ.
    """
    true, predicted = np.asarray(targets, np.float64).ravel(), np.asarray(predictions, np.float64).ravel()
    if not len(true) or len(true) != len(predicted):
        raise ValueError(
            f"targets and predictions must hold as many values, at least one; found {len(true)} and "
            f"{len(predicted)}"
        )
    title = f"Predicted against true values, {len(true):,} texts"
    if np.ptp(true) > 0 and np.ptp(predicted) > 0:
        title += f", Pearson r = {pearsonr(true, predicted).statistic:.3f}"

    with rc_context(STYLE):
        figure = Figure(figsize=(5.4, 5.2), layout="constrained")
        axes = figure.add_subplot()
        axes.scatter(true, predicted, s=14, alpha=0.35, color=BLUE, linewidths=0, label="a text")
        ends = [min(true.min(), predicted.min()), max(true.max(), predicted.max())]
        axes.plot(ends, ends, color=_GREY, linestyle=":", label="predicted = true")
        axes.set(xlabel="true value", ylabel="predicted value", title=title)
        axes.set_aspect("equal", adjustable="datalim")
        axes.grid(alpha=0.25)
        figure.legend(loc="outside lower center", ncols=2)
        save_figure(figure, path)


def plot_table(rows: Sequence[TableRow], path: PathLike, xlabel: str, title: str) -> None:
    """Draw the rows of a results table from top to bottom: a dot for the mean, with a bar to each side.

    Dots are used instead of columns because the results in a table differ by a few percent, which columns from zero
    would hide and columns from any other value would exaggerate.

    Raises:
        ValueError: If there are no rows.
    """
    if not rows:
        raise ValueError("rows of a table's figure must not be empty")
    with rc_context(STYLE):
        figure = Figure(figsize=(7, 1.2 + 0.34 * len(rows)), layout="constrained")
        axes = figure.add_subplot()
        for position, row in enumerate(rows):
            ends = None if row.error is None else np.reshape(row.error, (-1, 1)) * np.ones((2, 1))
            axes.errorbar(row.mean, position, xerr=ends, fmt="o", color=BLUE, capsize=3, markersize=5)
        axes.set_yticks(range(len(rows)), [shorten_label(row.name) for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set(xlabel=xlabel)
        # Centred over the whole figure; over the axes, which begin after the row names, a long title would be cut off.
        figure.suptitle(textwrap.fill(title, _TITLE_WIDTH), fontsize=STYLE["axes.titlesize"])
        axes.grid(axis="x", alpha=0.25)
        save_figure(figure, path)


def metric_curve(history: Sequence[Mapping[str, Any]], key: str) -> npt.NDArray[np.float64]:
    """Return the epochs and finite values of `key`, `[points, 2]`.

    The first of several values at one epoch is used, because the last is the best checkpoint evaluated again at the
    end.
    """
    points: dict[float, float] = {}
    for entry in history:
        if key in entry and "epoch" in entry and np.isfinite(entry[key]):
            points.setdefault(float(entry["epoch"]), float(entry[key]))
    return np.asarray(list(points.items()), np.float64).reshape(-1, 2)


def _draw(axes: Axes, curve: npt.NDArray[np.float64], label: str, color: str, style: str) -> list[Any]:
    if not len(curve):
        return []
    marker = "o" if len(curve) <= 30 else None
    return list(axes.plot(*curve.T, style, color=color, marker=marker, markersize=4, label=label))


def shorten_label(name: str) -> str:
    """Return the name on one line, truncated to the length of a label.

    A space is put before a leading underscore, because matplotlib omits such names from a legend.
    """
    line = " ".join(name.split())
    line = line if len(line) <= _LONGEST_NAME else line[: _LONGEST_NAME - 1] + "…"
    return f" {line}" if line.startswith("_") else line
