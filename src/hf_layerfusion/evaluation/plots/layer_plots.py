"""Figures of the states in a model's layers and of their use, as PNG files."""

from collections.abc import Mapping, Sequence, Sized
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps, rc_context
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from sklearn.decomposition import PCA

from hf_layerfusion.evaluation.layer_use import LayerUse
from hf_layerfusion.evaluation.plots.run_plots import BLUE, STYLE, PathLike, save_figure, shorten_label

# Starts with blue, green and red as in the paper, in shades that are distinguishable for the colour-blind.
_CLASS_COLORS = ("#0072b2", "#009e73", "#d55e00", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#b8a800")


def plot_layer_use(use: LayerUse, path: PathLike) -> None:
    """Draw the drop in accuracy by layer as bars with their 95 % intervals, or the rise in loss for regressions and
    multi-label tasks.

    If the fuser has weights, a second panel shows their mean as a line, and a thin line for each class.
    """
    numbers = range(1, len(use.loss_rise) + 1)
    heights, errors, label = use.loss_rise, use.loss_rise_error, "rise in loss"
    if use.accuracy_drop is not None:
        heights, label = [100 * drop for drop in use.accuracy_drop], "drop in accuracy, points"
        drops = use.accuracy_drop_error
        errors = None if drops is None else [100 * error for error in drops]

    with rc_context(STYLE):
        count = 1 if use.weights is None else 2
        figure = Figure(
            figsize=(7, max(0.9 + 2.6 * count, _key_height(use.weights_by_class))), layout="constrained"
        )
        panels = figure.subplots(count, 1, sharex=True, squeeze=False)[:, 0]
        panels[0].bar(numbers, heights, color=BLUE, width=0.6, yerr=errors, ecolor="black", capsize=3)
        panels[0].axhline(0, color="black", linewidth=0.8)
        intervals = "" if errors is None else ", with 95 % intervals"
        panels[0].set_title(f"Each layer replaced by its mean, {use.num_texts:,} texts{intervals}")
        panels[0].set_ylabel(label)
        if use.weights is not None:
            colors = _class_colors(len(use.weights_by_class))
            for (name, weights), color in zip(use.weights_by_class.items(), colors, strict=True):
                shares = [100 * weight for weight in weights]
                panels[1].plot(numbers, shares, color=color, linewidth=1, label=shorten_label(name))
            shares = [100 * weight for weight in use.weights]
            panels[1].plot(numbers, shares, "o-", color="black", markersize=4, label="all texts")
            panels[1].set_ylim(0, 1.08 * 100 * max(map(max, [use.weights, *use.weights_by_class.values()])))
            panels[1].set(ylabel="weight, %", title="Weight that the model gives each layer")
            figure.legend(loc="outside right center")
        for axes in panels:
            axes.grid(axis="y", alpha=0.25)
            axes.set_axisbelow(True)
        panels[-1].set_xticks(numbers)
        panels[-1].set_xlabel("layer")
        save_figure(figure, path)


def plot_layer_pca(
    states: Mapping[str, npt.NDArray[Any]],
    labels: npt.ArrayLike,
    names: Sequence[str],
    path: PathLike,
    layers: Sequence[int],
) -> None:
    """Draw the texts' states at each layer on their first two principal components, coloured by class (Song et al.
    2020, Figure 2).

    Each panel has its own components and scale.

    Args:
        states: States by model, or model and epoch, one row of panels each: `[N, len(layers), H]` from `cls_states`.
        labels: Class of each text, `[N]`, as indices into `names`; the same texts in all rows.
        names: Names of the classes.
        path: PNG file.
        layers: Numbers of the layers, one column each.

    Raises:
        ValueError: If there are no states, fewer than two texts, shapes that do not match, or a class without a name.
    """
    labels = np.asarray(labels)
    for title, values in states.items():
        if values.ndim != 3 or values.shape[:2] != (len(labels), len(layers)):
            raise ValueError(
                f"states of {title!r} must be [{len(labels)}, {len(layers)}, H], a row a label and a column a layer; "
                f"found {values.shape}"
            )
    if not states or len(labels) < 2 or not layers:
        raise ValueError(
            f"a figure of layers needs a model, two texts and a layer; found {len(states)} models, {len(labels)} "
            f"texts and {len(layers)} layers"
        )
    if labels.min() < 0 or labels.max() >= len(names):
        raise ValueError(f"labels must be indices below {len(names)}; found {labels.min()} to {labels.max()}")
    palette = _class_colors(len(names))
    colors = [palette[label] for label in labels]

    with rc_context(STYLE | {"axes.spines.top": True, "axes.spines.right": True}):
        height = max(0.4 + 1.9 * len(states), _key_height(names))
        figure = Figure(figsize=(2 + 1.9 * len(layers), height), layout="constrained")
        panels = figure.subplots(len(states), len(layers), squeeze=False)
        for row, (title, values) in zip(panels, states.items(), strict=True):
            row[0].set_ylabel(shorten_label(title))
            for column, axes in enumerate(row):
                # Texts are drawn in their order; class by class, the last class would hide the others.
                points = PCA(n_components=2).fit_transform(values[:, column].astype(np.float64))
                axes.scatter(*points.T, s=9, c=colors, alpha=0.6, linewidths=0)
                axes.set(xticks=[], yticks=[], box_aspect=1)
        for axes, layer in zip(panels[0], layers, strict=True):
            axes.set_title(f"layer {layer}")
        handles = [
            Line2D([], [], linestyle="", marker="o", color=palette[index], label=shorten_label(name))
            for index, name in enumerate(names)
        ]
        figure.legend(handles=handles, loc="outside right center")
        save_figure(figure, path)


def _class_colors(count: int) -> list[Any]:
    if count <= len(_CLASS_COLORS):
        return list(_CLASS_COLORS[:count])
    return list(colormaps["turbo"](np.linspace(0, 1, count)))


def _key_height(names: Sized) -> float:
    """Return the height of the vertical legend of the classes in inches."""
    return 0.8 + 0.22 * len(names)
