"""Registry of the aggregators, which compute weights of the tasks' gradients from their Gram matrix."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

from torch import Generator, Tensor

from hf_layerfusion.errors import UserError, nearest, one_line
from hf_layerfusion.gradient_surgery.pcgrad import pcgrad

Aggregator = Callable[[Tensor, Generator], Tensor]
"""Function from the Gram matrix `[T, T]` and a generator to the weights `[T]` in the sum of the tasks' gradients."""

REDUCTIONS = ("sum", "mean")


def sum_weights(gramian: Tensor, generator: Generator) -> Tensor:
    """Return weights of 1: the gradient of the sum of the losses, the baseline for all other aggregators."""
    return gramian.new_ones(len(gramian))


def torchjd_weights(gramian: Tensor, generator: Generator, *, weighting: str, **settings: Any) -> Tensor:
    """Return T times the weights of a TorchJD weighting, because TorchJD's are relative to the mean of the gradients.

    Raises:
        UserError: If TorchJD, or a package that the weighting requires, is not installed.
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
    """Return the weights `[T]` that an aggregator gives to the tasks' gradients.

    Args:
        name: Name in `AGGREGATORS`.
        gramian: Gram matrix `[T, T]` from `TaskGradients.gramian`.
        generator: Random generator of the aggregators, the same on all processes.
        reduction: `"sum"`, which matches the sum of the losses, or `"mean"`, 1/T of it.

    Raises:
        UserError: If the name or reduction is unknown, or the aggregator is not installed.
    """
    if name not in AGGREGATORS:
        raise UserError(
            f"the aggregator must be one of {', '.join(AGGREGATORS)}, found '{name}'; {nearest(name, AGGREGATORS)}"
        )
    if reduction not in REDUCTIONS:
        raise UserError(f"the reduction must be one of {', '.join(REDUCTIONS)}, found '{reduction}'")
    # Weights of 1 pass non-finite gradients on to the code that handles them: the fp16 scaler and the Trainer.
    weights = sum_weights(gramian, generator)
    # Leave out tasks without a gradient on shared parameters, because MGDA would choose the zero gradient for all.
    shares = gramian.diagonal() > 0
    if gramian.isfinite().all() and shares.any():
        weights[shares] = AGGREGATORS[name](gramian[shares][:, shares], generator)
    return weights if reduction == "sum" else weights / len(gramian)
