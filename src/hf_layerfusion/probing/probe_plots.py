"""Figures of layer probes as PNG files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from hf_layerfusion.errors import UserError
from hf_layerfusion.evaluation.plots.run_plots import BLUE, STYLE, PathLike, save_figure, shorten_label
from hf_layerfusion.probing.layer_probe import LayerProbe, ProbeScore

_ALL = "#d55e00"


def plot_layer_probe(probes: LayerProbe | Sequence[LayerProbe], path: PathLike) -> None:
    """Draw the score of each layer with its interval, and that of all layers as a band, one panel per probe."""
    shown = _listed(probes)
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    with rc_context(STYLE):
        figure = Figure(figsize=(max(5.2, 3.9 * columns), 0.4 + 3.1 * rows), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes, probe in zip(panels, shown, strict=False):
            numbers = np.arange(1, len(probe.layers) + 1)
            scores = np.array([100 * each.score for each in probe.layers])
            axes.errorbar(
                numbers,
                scores,
                yerr=_reach(probe.layers),
                fmt="o-",
                color=BLUE,
                capsize=3,
                markersize=4,
                label="one layer",
            )
            axes.axhspan(100 * probe.all.low, 100 * probe.all.high, color=_ALL, alpha=0.15, linewidth=0)
            axes.axhline(100 * probe.all.score, color=_ALL, linewidth=1.5, label="all layers")
            axes.set_xticks(numbers if len(numbers) <= 12 else numbers[:: len(numbers) // 8])
            axes.set(xlabel="layer", ylabel=probe.metric.replace("_", " ") + " x 100")
            encoder = shorten_label(Path(probe.encoder).name)
            axes.set_title(f"{shorten_label(probe.data)}, {probe.num_train:,} rows\n{encoder}", fontsize=9)
            axes.grid(axis="y", alpha=0.25)
        for axes in panels[len(shown) :]:
            axes.set_axis_off()
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2)
        save_figure(figure, path)


def plot_gains(probes: LayerProbe | Sequence[LayerProbe], path: PathLike) -> None:
    """Draw the gain of all layers over the last one in each probe with its interval, the largest on top."""
    shown = sorted(_listed(probes), key=lambda probe: probe.gain.difference)
    points = np.array([100 * probe.gain.difference for probe in shown])
    ends = np.array([[100 * probe.gain.low, 100 * probe.gain.high] for probe in shown])
    with rc_context(STYLE):
        figure = Figure(figsize=(6.4, 1.1 + 0.33 * len(shown)), layout="constrained")
        axes = figure.subplots()
        places = np.arange(len(shown))
        reach = np.maximum(0, [points - ends[:, 0], ends[:, 1] - points])
        axes.errorbar(points, places, xerr=reach, fmt="o", color=BLUE, capsize=3, markersize=5)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_yticks(
            places, [f"{shorten_label(probe.data)} ({probe.num_train:,} rows)" for probe in shown]
        )
        axes.set_xlabel("points that all layers are ahead of the last one")
        axes.grid(axis="x", alpha=0.25)
        save_figure(figure, path)


def _listed(probes: LayerProbe | Sequence[LayerProbe]) -> list[LayerProbe]:
    shown = [probes] if isinstance(probes, LayerProbe) else list(probes)
    if not shown:
        raise UserError("probes must hold one or more, found none; give the result of layer_probe")
    return shown


def _reach(scores: Sequence[ProbeScore]) -> np.ndarray:
    """Return the distances from the scores to both ends of their intervals, `[2, L]`, times 100."""
    return 100 * np.array(
        [[max(0.0, s.score - s.low) for s in scores], [max(0.0, s.high - s.score) for s in scores]]
    )
