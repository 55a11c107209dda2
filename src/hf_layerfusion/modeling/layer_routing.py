"""Task-specific copies of an encoder's layers, for any encoder whose layers are in one list."""

import copy
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple, TypedDict

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.utils.output_capturing import CompileableContextVar

from .encoder_states import normalized_states
from .encoders import complete_inputs, length_before_padding

ALL_ROWS = slice(None)

_NOT_BY_ROWS = {
    "gemma4_text": "share keys and values with each other",
    "gemma4_unified_text": "share keys and values with each other",
    "mistral_large4_text": "share keys and values with each other",
    "squeezebert": "return dictionaries",
    "xlnet": "have the tokens first, [T, B, H]",
    "xmod": "look up the language of each text themselves",
}
"""Reason for each encoder whose layers cannot be run on some rows of a batch."""


class Route(NamedTuple):
    """Rows of a batch that belong to a task.

    A row may belong to several tasks; the shared layers then process it once.

    Attributes:
        task: Name of the task.
        rows: Rows of the task: a slice, or indices `[size]`.
        size: Number of rows.
    """

    task: str
    rows: slice | torch.Tensor
    size: int


class TaskStates(NamedTuple):
    """Encoder states of the rows of a task.

    Attributes:
        last: Output of the encoder, `[size, T, H]`.
        layers: Outputs of transformer layers 1 to L, each `[size, T, H]`; empty unless requested.
    """

    last: torch.Tensor
    layers: Sequence[torch.Tensor] = ()


class _Routing(TypedDict):
    routes: tuple[Route, ...]
    batch_size: int


# A context variable, because encoders do not pass our arguments on to their layers. torch.compile can trace it.
_ROUTING = CompileableContextVar("routing")


class RoutedLayer(nn.Module):
    """Replacement for a layer of an encoder: one copy per task, each of which processes the rows of its task.

    Args:
        layer: The pretrained layer.
        tasks: Names of the tasks.
        is_lowest: Whether the layer below is shared. The input then holds each row once; otherwise it holds the rows of
            all tasks one task after the other.
    """

    def __init__(self, layer: nn.Module, tasks: Sequence[str], is_lowest: bool):
        super().__init__()
        self.copies = nn.ModuleDict({task: copy_module(layer) for task in tasks})
        self.is_lowest = is_lowest
        # Encoders read plain attributes of their layers, such as `attention_type` in ModernBERT, or of the layers'
        # class, as Inkling 2 does.
        of_class = {name: getattr(type(layer), name) for name in dir(type(layer))}
        plain = {
            name: value for name, value in of_class.items() if isinstance(value, bool | int | float | str)
        }
        for name, value in (plain | vars(layer)).items():
            if not name.startswith("_") and not hasattr(self, name):
                setattr(self, name, value)

    def set_attention_type(self, value: str, **kwargs: Any) -> None:
        """Set the attention type of every copy; BigBird calls this if a batch is too short for sparse attention."""
        layers: Any = self.copies.values()
        for layer in layers:
            layer.set_attention_type(value, **kwargs)

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Run the copy of each route on its rows of `hidden_states` `[B, T, H]` and of every argument with one row per
        text.
        """
        routing = _ROUTING.get()
        if routing is None:
            raise ValueError(
                f"an encoder with layers of {list(self.copies)} must be called through its model, which assigns "
                "the rows to tasks; call the model."
            )
        routes, batch_size = routing["routes"], routing["batch_size"]
        if self.is_lowest:
            parts = [hidden_states[route.rows] for route in routes]
        else:
            parts = list(hidden_states.split([route.size for route in routes]))
        length = hidden_states.shape[1]
        outputs = [
            self.copies[route.task](
                part,
                *(select_task_rows(value, route.rows, batch_size, length) for value in args),
                **{
                    name: select_task_rows(value, route.rows, batch_size, length)
                    if name != "alibi"
                    else select_biases(value, route.rows, batch_size)
                    for name, value in kwargs.items()
                },
            )
            for route, part in zip(routes, parts, strict=True)
        ]
        return join_outputs(outputs)


def select_biases(
    alibi: torch.Tensor | None, rows: slice | torch.Tensor, batch_size: int
) -> torch.Tensor | None:
    """Return the `rows` of the attention biases of BLOOM and Falcon, one for each text and head: `[B ·
    heads, 1, T]`.
    """
    if alibi is None:
        return None
    return alibi.unflatten(0, (batch_size, -1))[rows].flatten(0, 1)


def select_task_rows(value: Any, rows: slice | torch.Tensor, batch_size: int, length: int) -> Any:
    """Return the `rows` of a layer's argument if it has one row per text: `[B, T]`, `[B, …, …]`, or a tuple or
    dictionary of such.

    Raises:
        ValueError: If the argument is not a tensor, so that its rows are unknown.
    """
    if isinstance(rows, slice) and rows == ALL_ROWS:
        return value
    if isinstance(value, torch.Tensor):
        is_batch = value.shape[:1] == (batch_size,) and (value.dim() > 2 or value.shape[1:] == (length,))
        return value[rows] if is_batch else value
    if isinstance(value, tuple | list):
        return type(value)(select_task_rows(each, rows, batch_size, length) for each in value)
    if type(value) is dict:
        return {name: select_task_rows(each, rows, batch_size, length) for name, each in value.items()}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(
        f"the arguments of an encoder's layers must be tensors if several tasks share a pass, found a "
        f"{type(value).__name__}; choose attn_implementation='sdpa' or 'eager', and of a decoder "
        "use_cache=False."
    )


def join_outputs(outputs: list[Any]) -> Any:
    """Concatenate the outputs of the copies of a layer: tensors, or tuples of tensors and None."""
    if len(outputs) == 1 or outputs[0] is None:
        return outputs[0]
    if isinstance(outputs[0], tuple | list):
        return tuple(join_outputs(list(column)) for column in zip(*outputs, strict=True))
    return torch.cat(outputs)


def copy_module(module: nn.Module) -> Any:
    """Return a copy with its own weights and the same configuration object, so that a change of it reaches
    every copy.
    """
    configs = {id(m.config): m.config for m in module.modules() if getattr(m, "config", None) is not None}
    return copy.deepcopy(module, configs)


def find_layers(encoder: PreTrainedModel, rule: str = "`num_task_layers` must be 0") -> nn.ModuleList:
    """Return the list of an encoder's L transformer layers.

    Args:
        encoder: The encoder.
        rule: Rule for encoders without such a list, for the error message.

    Raises:
        ValueError: If there is not exactly one such list.
    """
    depth = encoder.config.num_hidden_layers
    lists = [m for m in encoder.modules() if isinstance(m, nn.ModuleList) and len(m) == depth]
    nested = {id(inner) for outer in lists for inner in outer.modules() if inner is not outer}
    lists = [found for found in lists if id(found) not in nested]
    if len(lists) != 1:
        raise ValueError(
            f"{rule} for '{encoder.config.model_type}', whose {depth} layers stand in {len(lists)} lists instead of "
            "one; use an encoder such as BERT, RoBERTa, ELECTRA or DistilBERT."
        )
    return lists[0]


def add_task_layers(encoder: PreTrainedModel, tasks: Sequence[str], num_layers: int) -> None:
    """Replace each of the top `num_layers` layers of `encoder` by one copy per task (SerBERTus, section 3: CerBERTus).

    Raises:
        ValueError: If the encoder's layers are not in one list, or cannot be run on some rows of a batch.
    """
    if not num_layers:
        return
    if reason := _NOT_BY_ROWS.get(encoder.config.model_type):
        raise ValueError(
            f"`num_task_layers` must be 0 for '{encoder.config.model_type}', whose layers {reason}; use an encoder "
            "such as BERT, RoBERTa, ELECTRA or DistilBERT."
        )
    layers = find_layers(encoder)
    lowest = len(layers) - num_layers
    for index in range(lowest, len(layers)):
        layers[index] = RoutedLayer(layers[index], tasks, is_lowest=index == lowest)


def run_routed(
    encoder: PreTrainedModel,
    inputs: Mapping[str, torch.Tensor],
    routes: Sequence[Route],
    num_task_layers: int,
    with_layers: bool,
    norm: nn.Module | None = None,
    **kwargs: Any,
) -> tuple[Any, list[TaskStates]]:
    """Run an encoder on a batch with the rows of several tasks.

    Shared layers run once on all rows, the layers of a task on the rows of that task.

    Args:
        encoder: The encoder.
        inputs: Tensors `[B, T]` by the names of the encoder's arguments.
        routes: Tasks and their rows.
        num_task_layers: Number k of layers of which each task has a copy.
        with_layers: Whether to return the states of all layers.
        norm: The encoder's final normalization if the states of all layers go through it; otherwise `None`.
        kwargs: Further arguments of the encoder.

    Returns:
        The encoder's own output, and the states of each route.

    Raises:
        ValueError: If the encoder does not return the states of its layers.
    """
    depth = encoder.config.num_hidden_layers
    if num_task_layers == depth and len(routes) > 1:
        # Only the embeddings are shared. Split the rows before them: some encoders use them again in higher layers.
        inputs = {name: torch.cat([value[route.rows] for route in routes]) for name, value in inputs.items()}
        ends = list(accumulate(route.size for route in routes))
        routes = [
            route._replace(rows=slice(end - route.size, end)) for route, end in zip(routes, ends, strict=True)
        ]
    token = _ROUTING.set(_Routing(routes=tuple(routes), batch_size=next(iter(inputs.values())).shape[0]))
    try:
        given = complete_inputs(encoder, {**inputs, **kwargs})
        outputs = encoder(**given, output_hidden_states=with_layers, return_dict=True)
    finally:
        _ROUTING.reset(token)
    sizes = [route.size for route in routes]
    last = outputs.last_hidden_state
    parts = last.split(sizes) if num_task_layers else [last[route.rows] for route in routes]
    if not with_layers:
        return outputs, [TaskStates(part) for part in parts]
    if outputs.hidden_states is None:
        raise ValueError(
            f"the encoder must return its layers' states, found none from '{encoder.config.model_type}'; use an "
            "encoder that does."
        )
    length = length_before_padding(encoder, given)
    if length is not None:
        outputs["hidden_states"] = tuple(state[:, :length] for state in outputs.hidden_states)
    first_own = depth - num_task_layers + 1
    shared, top = outputs.hidden_states[1:first_own], outputs.hidden_states[first_own:]
    if len(top) == num_task_layers:
        top = [state.split(sizes) for state in top]
    else:  # recorded once for each copy
        top = [top[start : start + len(routes)] for start in range(0, len(top), len(routes))]
    found = []
    for index, (route, part) in enumerate(zip(routes, parts, strict=True)):
        layers = [state[route.rows] for state in shared] + [states[index] for states in top]
        # What was recorded of the last layer may hold the rows of all tasks.
        states = normalized_states([*layers[:-1], part], part, norm, range(depth))
        found.append(TaskStates(part, states))
    return outputs, found
