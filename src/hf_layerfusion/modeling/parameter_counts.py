"""Parameter counts of the parts of a multi-task model."""

import copy
from typing import NamedTuple

import torch
from torch import nn

from .configuration_cerbertus import CerbertusConfig
from .layer_routing import RoutedLayer
from .modeling_cerbertus import CerbertusForMultitask


class ParameterCounts(NamedTuple):
    """Numbers of parameters (SerBERTus, Table 7).

    Attributes:
        shared: Parameters of the shared encoder, without the tasks' copies of its layers.
        frozen: Parameters of the frozen encoder.
        tasks: Parameters of each task: its layers, its own encoder and its head.
        total: All parameters.
    """

    shared: int
    frozen: int
    tasks: dict[str, int]
    total: int


def parameter_counts(model: "CerbertusForMultitask | CerbertusConfig") -> ParameterCounts:
    """Count the parameters of a model, or of the model that a configuration describes, without allocating memory for
    it.
    """
    if isinstance(model, CerbertusConfig):
        with torch.device("meta"):
            model = CerbertusForMultitask(copy.deepcopy(model))

    def count(*modules: nn.Module) -> int:
        return sum(parameter.numel() for module in modules for parameter in module.parameters())

    encoders = model.model.encoders
    layers = [module.copies for module in encoders.modules() if isinstance(module, RoutedLayer)]
    tasks = {}
    for name, head in model.heads.items():
        own = [encoders[f"own_{name}"]] if "own" in model.config.encoders else []
        tasks[name] = count(head, *own, *(copies[name] for copies in layers))
    frozen = count(encoders["frozen"]) if "frozen" in encoders else 0
    total = count(model)
    return ParameterCounts(total - frozen - sum(tasks.values()), frozen, tasks, total)
