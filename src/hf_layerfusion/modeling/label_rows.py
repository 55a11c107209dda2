"""Output layers whose rows follow the names of their labels when a trained model is loaded with other labels."""

import copy
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from .heads import ClassificationHead, ZeroLinear
from .task_config import TaskConfig

logger = logging.get_logger(__name__)

LABEL_FIELDS = ("num_labels", "id2label", "label2id", "problem_type")
# Fields of a task that determine the meaning of its head's outputs.
OUTPUT_FIELDS = ("labels", "value_range", "problem_type", "loss", "output", "metric")


class RequestedLabels(NamedTuple):
    """Labels that a loaded model should have.

    Attributes:
        names: Names of the classes in the order of their ids; None keeps the stored ones.
        problem_type: Problem type as in the configuration; None keeps the stored one.
        tasks: Tasks of a multi-task model; None keeps the stored ones.
    """

    names: list[str] | None = None
    problem_type: str | None = None
    tasks: dict[str, dict[str, Any]] | None = None


def pop_labels(
    model_class: Any,
    source: str | os.PathLike[str],
    config: PreTrainedConfig | str | os.PathLike[str] | None,
    kwargs: dict[str, Any],
    options: dict[str, Any],
) -> tuple[PreTrainedConfig | str | os.PathLike[str] | None, RequestedLabels]:
    """Remove labels from the arguments of `from_pretrained`, so that a checkpoint is loaded with the labels it was
    saved with.

    Args:
        model_class: Class to load; classes without a head are ignored.
        source: Folder or Hub id of the checkpoint, or of the adapters that include its head.
        config: Configuration passed to `from_pretrained`, if any.
        kwargs: Other arguments; those about labels are removed or changed in place.
        options: Hub options of the checkpoint, such as its revision.

    Returns:
        `config` with the labels of the checkpoint, and the labels to pass to `set_labels` after loading.

    Raises:
        ValueError: If the numbers of labels contradict each other.
    """
    asked = any(kwargs.get(name) is not None for name in (*LABEL_FIELDS, "tasks"))
    if model_class._auto_class == "AutoModel" or (config is None and not asked):
        return config, RequestedLabels()
    own = model_class.config_class.from_dict(PreTrainedConfig.get_config_dict(source, **options)[0])
    given = {name: kwargs.pop(name) for name in LABEL_FIELDS if kwargs.get(name) is not None}
    tasks = kwargs.get("tasks")
    loading: Any = copy.deepcopy(config)
    if loading is not None:
        if not isinstance(loading, PreTrainedConfig):
            loading = model_class.config_class.from_pretrained(loading, **options)
        # `label2id` alone may give another order.
        by_number = loading.id2label != own.id2label or loading.label2id == own.label2id
        fields = {"id2label": loading.id2label} if by_number else {"label2id": loading.label2id}
        given = {**fields, "problem_type": loading.problem_type, **given}
        loading.id2label, loading.label2id, loading.problem_type = (
            own.id2label,
            own.label2id,
            own.problem_type,
        )
        if getattr(loading, "tasks", None) and getattr(own, "tasks", None):
            tasks = tasks or loading.tasks
            loading.tasks = with_stored_outputs(loading.tasks, own.tasks)
    if kwargs.get("tasks") is not None and getattr(own, "tasks", None):
        kwargs["tasks"] = with_stored_outputs(kwargs["tasks"], own.tasks)
    return loading, RequestedLabels(_names(given, own), given.get("problem_type"), tasks)


def _names(given: Mapping[str, Any], own: PreTrainedConfig) -> list[str] | None:
    """Return the names given by `id2label`, `label2id` and `num_labels`, or None if they say nothing new."""
    names: list[str] | None = None
    if given.get("id2label"):
        numbered = {int(number): str(name) for number, name in given["id2label"].items()}
        names = [numbered[number] for number in sorted(numbered)]
    elif given.get("label2id"):
        label2id: dict[str, Any] = given["label2id"]
        names = sorted(label2id, key=lambda name: int(label2id[name]))
    count = given.get("num_labels")
    if names is None and count not in (None, own.num_labels):
        names = [f"LABEL_{number}" for number in range(int(count))]
    if names is not None and count not in (None, len(names)):
        raise ValueError(
            f"`num_labels` must be the number of names, found {count} and {len(names)} names; leave out one of them."
        )
    return names


def with_stored_outputs(
    tasks: Mapping[str, Mapping[str, Any]], stored: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Return `tasks` with the labels and other output fields of the stored tasks of the same names."""
    found = {}
    for name, fields in tasks.items():
        loading = dict(fields)
        if name in stored:
            loading = {key: value for key, value in fields.items() if key not in OUTPUT_FIELDS}
            loading |= {key: value for key, value in stored[name].items() if key in OUTPUT_FIELDS}
            try:
                TaskConfig(**loading)
            except (ValueError, TypeError, StrictDataclassError):
                loading = dict(fields)  # a different kind of head: no row can be kept
        found[name] = loading
    return found


def set_labels(model: PreTrainedModel, asked: RequestedLabels, values: Sequence[str] = ()) -> None:
    """Change the labels of a trained classifier.

    The rows of its output layer follow the names of the labels. A label that the model does not know gets a new row,
    which is logged as a warning. The name of a regression output is ignored.

    Args:
        model: Classifier of this package or of transformers.
        asked: Labels to set.
        values: Raw labels of the classes in the data. They are compared too, because the model may have been trained on
            integers that have names by now.

    Raises:
        ValueError: If the output layer cannot be found.
    """
    config: Any = model.config
    if asked.names is not None:
        stored = [str(config.id2label[number]) for number in range(config.num_labels)]
        problem_type = asked.problem_type or config.problem_type
        rows = rows_by_name(stored, asked.names, getattr(config, "label_values", None) or (), values)
        if problem_type == "regression" and config.problem_type in (None, "regression") and len(stored) == 1:
            rows = [0]
        if rows != list(range(len(stored))):
            replace_rows(model, _output_layers(model, len(stored)), rows, asked.names, "the model")
        config.id2label = dict(enumerate(asked.names))
        config.label2id = {name: number for number, name in enumerate(asked.names)}
        model.num_labels = len(asked.names)
    if asked.problem_type is not None:
        config.problem_type = asked.problem_type


def relabel(
    model: PreTrainedModel, names: Sequence[str], problem_type: str | None = None, values: Sequence[str] = ()
) -> None:
    """Change the labels of a trained single-task classifier of this package or of transformers; see `set_labels`.

    Args:
        model: The model; its configuration is changed too.
        names: Names of the classes in the order of their ids.
        problem_type: Problem type as in the configuration; None keeps it.
        values: Raw labels of the classes in the data, if they differ from the names.

    Raises:
        ValueError: If the output layer cannot be found.
    """
    set_labels(model, RequestedLabels(list(names), problem_type), values)


def rows_by_name(
    stored: Sequence[str],
    wanted: Sequence[str],
    stored_values: Sequence[str] = (),
    values: Sequence[str] = (),
) -> list[int | None]:
    """Return for each wanted label its row in the stored output layer, or None for an unknown label."""
    if _unnamed(stored) or _unnamed(wanted):
        # There are only indices to compare.
        return list(range(len(stored))) if len(stored) == len(wanted) else [None] * len(wanted)
    for ours, theirs in ((stored, wanted), (stored, values), (stored_values, wanted)):
        found = _rows_of(ours, theirs)
        if len(ours) == len(stored) and len(theirs) == len(wanted) and any(row is not None for row in found):
            return found
    return [None] * len(wanted)


def _rows_of(names: Sequence[str], wanted: Sequence[str]) -> list[int | None]:
    """Return the index of each wanted name in `names`.

    Letter case and surrounding whitespace may differ if the match is unambiguous: "pos" and "Pos" match only themselves
    if both occur.
    """
    exact = {name: row for row, name in enumerate(names)}
    plain = [name.strip().casefold() for name in names]
    plainly_wanted = [name.strip().casefold() for name in wanted]

    def row_of(name: str, plain_name: str) -> int | None:
        if name in exact:
            return exact[name]
        is_sure = plain.count(plain_name) == 1 == plainly_wanted.count(plain_name)
        return plain.index(plain_name) if is_sure else None

    return [row_of(name, plain_name) for name, plain_name in zip(wanted, plainly_wanted, strict=True)]


def _unnamed(names: Sequence[str]) -> bool:
    return list(names) == [f"LABEL_{number}" for number in range(len(names))]


def _output_layers(model: PreTrainedModel, num_labels: int) -> list[nn.Linear]:
    """Return the linear layers that compute the logits: one, or one for each copy of the head kept by adapters."""
    heads = [module for module in model.modules() if isinstance(module, ClassificationHead)]
    if heads:
        return [layer for head in heads for layer in output_layers(head)]
    inner = {id(module) for module in model.base_model.modules()} if model.base_model is not model else set()
    layers = [
        module
        for module in model.modules()
        if isinstance(module, nn.Linear) and module.out_features == num_labels and id(module) not in inner
    ]
    if not layers:
        raise ValueError(
            f"the labels of a '{model.config.model_type}' classifier cannot be changed, found no linear layer of "
            f"{num_labels} outputs outside of its encoder; name the encoder that it was trained from."
        )
    return layers[-1:]


def output_layers(head: ClassificationHead) -> list[nn.Linear]:
    """Return the output layers of a head: one, or one for each copy kept by adapters."""
    return [
        layer
        for name, layer in head.named_modules()
        if isinstance(layer, nn.Linear) and name.split(".")[0] == "out_proj"
    ]


def replace_rows(
    model: PreTrainedModel, layers: list[nn.Linear], rows: list[int | None], names: Sequence[str], what: str
) -> None:
    """Replace the rows of `layers` and log which labels start from random weights."""
    new = [name for name, row in zip(names, rows, strict=True) if row is None]
    if len(new) == len(names):
        logger.warning(
            f"{what} was trained on other labels than {', '.join(names)}: its output layer is initialized at random; "
            "train it."
        )
    elif new:
        logger.warning(
            f"{what} was not trained on {', '.join(new)}: these rows of its output layer are initialized at random."
        )
    for layer in layers:
        set_rows(model, layer, rows)


def set_rows(
    model: PreTrainedModel, layer: nn.Linear, rows: list[int | None], sign: float = 1.0, shift: float = 0.0
) -> None:
    """Replace the rows of a linear layer.

    Args:
        model: Model that initializes new rows.
        layer: The layer, changed in place.
        rows: For each new row the index of the old row to copy, or None for a newly initialized one.
        sign: Factor applied to the copied rows.
        shift: Value added to the copied biases.
    """
    old_weight, old_bias = layer.weight.detach(), None if layer.bias is None else layer.bias.detach()
    linear = ZeroLinear if isinstance(layer, ZeroLinear) else nn.Linear
    fresh = linear(layer.in_features, len(rows), bias=old_bias is not None)
    model._init_weights(fresh)
    weight = fresh.weight.detach().to(old_weight)
    bias = None if fresh.bias is None else fresh.bias.detach().to(old_weight)
    for number, row in enumerate(rows):
        if row is not None:
            weight[number] = sign * old_weight[row]
            if bias is not None and old_bias is not None:
                bias[number] = sign * old_bias[row] + shift
    layer.out_features = len(rows)
    layer.weight = nn.Parameter(weight, requires_grad=layer.weight.requires_grad)
    if bias is not None:
        layer.bias = nn.Parameter(bias, requires_grad=layer.bias.requires_grad)
