"""Figures of a hyperparameter search as PNG files: its history, and the objective by setting."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from hf_layerfusion.evaluation.plots.run_plots import BLUE, RED, STYLE, PathLike, save_figure, shorten_label

_GREY = "#777777"
_MOST_TICKS = 8


@dataclass(frozen=True)
class SearchTrial:
    """Trial of a hyperparameter search.

    Attributes:
        number: Number of the trial, from 0.
        state: `finished`, `pruned`, `failed` or `interrupted`.
        objective: Objective of the search; the last measured value of a pruned trial.
        settings: Drawn settings by name.
        seconds: Duration.
        error: Reason for a failure.
        folder: Folder of its checkpoints, relative to the search's; empty if it has none.
    """

    number: int
    state: str
    objective: float | None
    settings: dict[str, Any]
    seconds: float | None = None
    error: str = ""
    folder: str = ""


def best_of(trials: Sequence[SearchTrial], maximize: bool) -> SearchTrial:
    """Return the best of the finished trials, the first in case of ties.

    Raises:
        ValueError: If none has finished.
    """
    finished = _measured(trials, "finished")
    if not finished:
        raise ValueError("trials must hold one that has finished; found none")
    return min(finished, key=lambda trial: _value(trial) * (-1 if maximize else 1))


def plot_history(trials: Sequence[SearchTrial], objective: str, maximize: bool, path: PathLike) -> None:
    """Draw each trial's objective in the order of the trials, and the best so far as a line.

    Args:
        trials: Trials, of which at least one has finished.
        objective: Name of the objective for the axis, such as "validation loss".
        maximize: Whether higher values are better.
        path: PNG file.

    Raises:
        ValueError: If no trial has finished.
    """
    best = best_of(trials, maximize)
    finished = _measured(trials, "finished")
    values = np.array([_value(trial) for trial in finished])
    numbers = [trial.number for trial in finished]
    so_far = np.maximum.accumulate(values) if maximize else np.minimum.accumulate(values)
    with rc_context(STYLE):
        figure = Figure(figsize=(7, 4.2), layout="constrained")
        axes = figure.add_subplot()
        axes.step(
            [*numbers, trials[-1].number],
            [*so_far, so_far[-1]],
            where="post",
            color=BLUE,
            label="best so far",
        )
        _points(axes, [(trial.number, trial) for trial in trials], best)
        direction = "highest" if maximize else "lowest"
        axes.set(
            xlabel="trial",
            ylabel=objective,
            title=f"{_count(trials)}; {direction} {objective}: {_value(best):.4g} in trial {best.number}",
        )
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _finish(axes)
        figure.legend(loc="outside lower center", ncols=4)
        save_figure(figure, path)


def plot_settings(
    trials: Sequence[SearchTrial], objective: str, maximize: bool, log_settings: Sequence[str], path: PathLike
) -> None:
    """Draw the objective against each setting, one panel each; integers and names are placed as categories.

    Args:
        trials: Trials, of which at least one has finished.
        objective: Name of the objective for the axis.
        maximize: Whether higher values are better.
        log_settings: Settings with a logarithmic axis.
        path: PNG file.

    Raises:
        ValueError: If no trial has finished.
    """
    best = best_of(trials, maximize)
    names = list(best.settings)
    columns = min(len(names), 3)
    lines = -(-len(names) // columns)
    with rc_context(STYLE):
        figure = Figure(figsize=(1 + 3.6 * columns, 0.9 + 3.1 * lines), layout="constrained")
        panels = figure.subplots(lines, columns, sharey=True, squeeze=False).reshape(-1)
        for axes in panels[len(names) :]:
            axes.set_axis_off()
        for axes, name in zip(panels, names, strict=False):
            known = [trial for trial in trials if name in trial.settings]
            places = _places(axes, [trial.settings[name] for trial in known], name in log_settings)
            _points(axes, list(zip(places, known, strict=True)), best)
            axes.set(xlabel=shorten_label(name))
            _finish(axes)
        for axes in panels[::columns]:
            axes.set_ylabel(objective)
        figure.suptitle(f"{objective[:1].upper()}{objective[1:]} by setting, {_count(trials)}")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3)
        save_figure(figure, path)


def _count(trials: Sequence[SearchTrial]) -> str:
    failed = sum(trial.state in ("failed", "interrupted") for trial in trials)
    return f"{len(trials)} trials" + (f", {failed} failed" if failed else "")


def _measured(trials: Sequence[SearchTrial], state: str) -> list[SearchTrial]:
    return [trial for trial in trials if trial.state == state and trial.objective is not None]


def _value(trial: SearchTrial) -> float:
    return float("nan") if trial.objective is None else trial.objective


def _places(axes: Axes, values: Sequence[Any], log: bool) -> list[float]:
    """Return the positions of the values on the axis, and set its scale or its category names."""
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    if numbers and (len(set(values)) > _MOST_TICKS or any(isinstance(value, float) for value in values)):
        if log:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.tick_params(axis="x", labelrotation=45)
        return [float(value) for value in values]
    kinds = sorted(set(values)) if numbers else sorted({str(value) for value in values})
    axes.set_xticks(range(len(kinds)), [shorten_label(str(kind)) for kind in kinds])
    axes.set_xlim(-0.5, len(kinds) - 0.5)
    return [float(kinds.index(value if numbers else str(value))) for value in values]


def _points(axes: Axes, placed: Sequence[tuple[float, SearchTrial]], best: SearchTrial) -> None:
    shapes: dict[str, dict[str, Any]] = {
        "finished": {"marker": "o", "color": BLUE, "s": 26},
        "pruned": {"marker": "o", "facecolors": "none", "edgecolors": _GREY, "s": 26},
    }
    for state, shape in shapes.items():
        shown = [(place, _value(trial)) for place, trial in placed if trial in _measured([trial], state)]
        if shown:
            axes.scatter(*zip(*shown, strict=True), label=state, zorder=3, **shape)
    at = [place for place, trial in placed if trial is best]
    axes.scatter(at, [_value(best)] * len(at), marker="*", s=150, color=RED, label="best", zorder=4)


def _finish(axes: Axes) -> None:
    axes.grid(axis="y", alpha=0.25)
    axes.set_axisbelow(True)
