"""Figures of the conflicts between the tasks' gradients during training, as PNG files."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import colormaps, rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hf_layerfusion.evaluation.plots.run_plots import STYLE, PathLike, save_figure, shorten_label

_COSINE, _CONFLICT = "cosine_", "conflict_"


def plot_conflicts(history: Sequence[Mapping[str, Any]], path: PathLike) -> None:
    """Draw the cosine between the gradients of each pair of tasks by step, and below it the share of steps in which
    they conflicted.

    Args:
        history: `log_history` of a Trainer. From each entry with a `step` it uses `cosine_<pair>` and
            `conflict_<pair>`, means over the steps since the previous entry.
        path: PNG file.

    Raises:
        ValueError: If the history contains none of them.
    """
    pairs = sorted(
        {name.removeprefix(_COSINE) for entry in history for name in entry if name.startswith(_COSINE)}
    )
    if not pairs:
        raise ValueError("history must hold 'cosine_<task>_<task>' of two tasks with a 'step'; found none")
    colors = colormaps["tab10" if len(pairs) <= 10 else "turbo"]
    with rc_context(STYLE):
        figure = Figure(figsize=(8, 5.6), layout="constrained")
        angles, shares = figure.subplots(2, 1, sharex=True)
        for index, pair in enumerate(pairs):
            entries = [entry for entry in history if _COSINE + pair in entry and "step" in entry]
            steps = [entry["step"] for entry in entries]
            color = colors(index if len(pairs) <= 10 else index / (len(pairs) - 1))
            style: dict[str, Any] = {"color": color, "linewidth": 1.2, "marker": "o", "markersize": 2.5}
            angles.plot(
                steps, [entry[_COSINE + pair] for entry in entries], label=shorten_label(pair), **style
            )
            shares.plot(steps, [100 * entry[_CONFLICT + pair] for entry in entries], **style)
        angles.axhline(0, color="black", linewidth=0.8)
        angles.set(ylabel="cosine", title="Gradients of two tasks: below 0 they conflict")
        shares.set(ylabel="steps in conflict, %", ylim=(-3, 103), xlabel="step")
        shares.xaxis.set_major_locator(MaxNLocator(integer=True))
        for axes in (angles, shares):
            axes.grid(axis="y", alpha=0.25)
            axes.set_axisbelow(True)
        figure.legend(loc="outside right center")
        save_figure(figure, path)
