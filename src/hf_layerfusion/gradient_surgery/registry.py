"""How the gradients of several tasks become one: rules from their Gram matrix to weights, by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

from torch import Generator, Tensor

from hf_layerfusion.errors import UserError, nearest, one_line
from hf_layerfusion.gradient_surgery.pcgrad import pcgrad

Aggregator = Callable[[Tensor, Generator], Tensor]
"""From the Gram matrix `[T, T]` and a generator to the weights `[T]` of the sum of the tasks' gradients."""

REDUCTIONS = ("sum", "mean")


def sum_weights(gramian: Tensor, generator: Generator) -> Tensor:
    """The gradient of the sum of the losses: what every other rule must be measured against."""
    return gramian.new_ones(len(gramian))


def torchjd_weights(gramian: Tensor, generator: Generator, *, weighting: str, **settings: Any) -> Tensor:
    """A weighting of TorchJD times T: its weightings stand beside the mean of the tasks' gradients.

    Raises:
        UserError: TorchJD, or what this weighting needs beside it, is not installed.
    """
    try:
        weigh = getattr(import_module("torchjd.aggregation"), weighting)(**settings)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"this aggregator needs {weighting} of the package torchjd, found: {one_line(error)}; "
            'run `pip install "hf_layerfusion[surgery]"`, or choose pcgrad'
        ) from error
    return weigh(gramian) * len(gramian)


AGGREGATORS: dict[str, Aggregator] = {
    "sum": sum_weights,
    "pcgrad": pcgrad,
    "upgrad": partial(torchjd_weights, weighting="UPGradWeighting"),
    "mgda": partial(torchjd_weights, weighting="MGDAWeighting"),
    "cagrad": partial(torchjd_weights, weighting="CAGradWeighting", c=0.5),
    "dualproj": partial(torchjd_weights, weighting="DualProjWeighting"),
    "imtl_g": partial(torchjd_weights, weighting="IMTLGWeighting"),
    "aligned_mtl": partial(torchjd_weights, weighting="AlignedMTLWeighting"),
}


def task_weights(name: str, gramian: Tensor, generator: Generator, reduction: str = "sum") -> Tensor:
    """The weights `[T]` that the rule `name` gives the tasks' gradients.

    Args:
        name: a name of `AGGREGATORS`.
        gramian: `[T, T]`, as `TaskGradients.gramian` gives it.
        generator: where rules draw from; the same on all processes.
        reduction: `"sum"`, which goes with the sum of the losses, or `"mean"`, the T-th part of it.

    Raises:
        UserError: an unknown name or reduction; a rule that is not installed.
    """
    if name not in AGGREGATORS:
        raise UserError(
            f"the aggregator must be one of {', '.join(AGGREGATORS)}, found '{name}'; {nearest(name, AGGREGATORS)}"
        )
    if reduction not in REDUCTIONS:
        raise UserError(f"the reduction must be one of {', '.join(REDUCTIONS)}, found '{reduction}'")
    # With weights of 1, a gradient that is not finite reaches those who look for it: the scaler of fp16, the Trainer.
    weights = sum_weights(gramian, generator)
    # A task without a gradient on what is shared has no part in it. MGDA would take that gradient of zero for all.
    shares = gramian.diagonal() > 0
    if gramian.isfinite().all() and shares.any():
        weights[shares] = AGGREGATORS[name](gramian[shares][:, shares], generator)
    return weights if reduction == "sum" else weights / len(gramian)
