"""Heads whose rows follow the names of their labels, where a trained model is loaded for other labels than its own."""

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
# What of a task says how its head's outputs are read.
OUTPUT_FIELDS = ("labels", "value_range", "problem_type", "loss", "output", "metric")


class AskedLabels(NamedTuple):
    """Labels that a model is to have.

    Attributes:
        names: The names of the classes in the order of their numbers; None leaves them.
        problem_type: As in the configuration; None leaves it.
        tasks: The tasks of a model of several; None leaves them.
    """

    names: list[str] | None = None
    problem_type: str | None = None
    tasks: dict[str, dict[str, Any]] | None = None


def set_aside(
    model_class: Any,
    source: str | os.PathLike[str],
    config: PreTrainedConfig | str | os.PathLike[str] | None,
    kwargs: dict[str, Any],
    options: dict[str, Any],
) -> tuple[PreTrainedConfig | str | os.PathLike[str] | None, AskedLabels]:
    """Take labels out of the arguments of `from_pretrained`, so that a checkpoint is loaded with the labels it has.

    Args:
        model_class: The class that is loaded; nothing is done for one without a head.
        source: Folder or Hub id of the checkpoint, or of the adapters with its head.
        config: The configuration that it is to be loaded with, if one was given.
        kwargs: The other arguments; those about labels are removed or changed.
        options: Which revision of the checkpoint and so on.

    Returns:
        `config` with the checkpoint's labels, and the labels to give the loaded model by `take_labels`.

    Raises:
        ValueError: Numbers of labels that contradict each other.
    """
    asked = any(kwargs.get(name) is not None for name in (*LABEL_FIELDS, "tasks"))
    if model_class._auto_class == "AutoModel" or (config is None and not asked):
        return config, AskedLabels()
    own = model_class.config_class.from_dict(PreTrainedConfig.get_config_dict(source, **options)[0])
    given = {name: kwargs.pop(name) for name in LABEL_FIELDS if kwargs.get(name) is not None}
    tasks = kwargs.get("tasks")
    loading: Any = copy.deepcopy(config)
    if loading is not None:
        if not isinstance(loading, PreTrainedConfig):
            loading = model_class.config_class.from_pretrained(loading, **options)
        # `label2id` alone may say another order.
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
            loading.tasks = with_outputs_of(loading.tasks, own.tasks)
    if kwargs.get("tasks") is not None and getattr(own, "tasks", None):
        kwargs["tasks"] = with_outputs_of(kwargs["tasks"], own.tasks)
    return loading, AskedLabels(_names(given, own), given.get("problem_type"), tasks)


def _names(given: Mapping[str, Any], own: PreTrainedConfig) -> list[str] | None:
    """The names that `id2label`, `label2id` and `num_labels` say, None if they say nothing new."""
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


def with_outputs_of(
    tasks: Mapping[str, Mapping[str, Any]], stored: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """`tasks` with the labels, and what else reads a head's outputs, of the stored tasks of the same names."""
    found = {}
    for name, fields in tasks.items():
        loading = dict(fields)
        if name in stored:
            loading = {key: value for key, value in fields.items() if key not in OUTPUT_FIELDS}
            loading |= {key: value for key, value in stored[name].items() if key in OUTPUT_FIELDS}
            try:
                TaskConfig(**loading)
            except (ValueError, TypeError, StrictDataclassError):
                loading = dict(fields)  # another kind of head, of which no row can be kept
        found[name] = loading
    return found


def take_labels(model: PreTrainedModel, asked: AskedLabels, values: Sequence[str] = ()) -> None:
    """Give a trained classifier other labels. The rows of its output layer follow the names of the labels; a label
    that it did not know gets a new row, and a warning says so. A regression's name says nothing.

    Args:
        model: A classifier of this package or of transformers.
        asked: The labels.
        values: The raw labels of the classes in the data, which are compared too: a model may have been trained on
            integers that have got names since.

    Raises:
        ValueError: An output layer that cannot be told.
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
    """Give a trained classifier of one task, of this package or of transformers, other labels; see `take_labels`.

    Args:
        model: The model; its configuration is changed too.
        names: The names of the classes in the order of their numbers.
        problem_type: As in the configuration; None leaves it.
        values: The raw labels of the classes in the data, where they are not the names.

    Raises:
        ValueError: As `take_labels`.
    """
    take_labels(model, AskedLabels(list(names), problem_type), values)


def rows_by_name(
    stored: Sequence[str],
    wanted: Sequence[str],
    stored_values: Sequence[str] = (),
    values: Sequence[str] = (),
) -> list[int | None]:
    """For each wanted label the row of the stored head that answers it, None for a label that it does not know."""
    if _unnamed(stored) or _unnamed(wanted):
        # Numbers are all there is to go by.
        return list(range(len(stored))) if len(stored) == len(wanted) else [None] * len(wanted)
    for ours, theirs in ((stored, wanted), (stored, values), (stored_values, wanted)):
        found = _rows_of(ours, theirs)
        if len(ours) == len(stored) and len(theirs) == len(wanted) and any(row is not None for row in found):
            return found
    return [None] * len(wanted)


def _rows_of(names: Sequence[str], wanted: Sequence[str]) -> list[int | None]:
    """The place of each wanted name in `names`. Capitals, and blanks around a name, may differ where that leaves no
    doubt: of "pos" and "Pos", each is only itself."""
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
    """The linear layers that put out the logits: one, or one for each copy that adapters keep of the head."""
    heads = [module for module in model.modules() if isinstance(module, ClassificationHead)]
    if heads:
        return [layer for head in heads for layer in last_layers(head)]
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


def last_layers(head: ClassificationHead) -> list[nn.Linear]:
    """Return the layers that put out a head's logits: one, or one for each copy that adapters keep of it."""
    return [
        layer
        for name, layer in head.named_modules()
        if isinstance(layer, nn.Linear) and name.split(".")[0] == "out_proj"
    ]


def replace_rows(
    model: PreTrainedModel, layers: list[nn.Linear], rows: list[int | None], names: Sequence[str], what: str
) -> None:
    """Put layers with these rows in the place of `layers`."""
    new = [name for name, row in zip(names, rows, strict=True) if row is None]
    if len(new) == len(names):
        logger.warning(
            f"{what} was trained on other labels than {', '.join(names)}: its output layer starts at random; train it."
        )
    elif new:
        logger.warning(
            f"{what} was not trained on {', '.join(new)}: these rows of its output layer start at random."
        )
    for layer in layers:
        set_rows(model, layer, rows)


def set_rows(
    model: PreTrainedModel, layer: nn.Linear, rows: list[int | None], sign: float = 1.0, shift: float = 0.0
) -> None:
    """Give a linear layer other rows.

    Args:
        model: The model, which initialises new rows.
        layer: The layer.
        rows: For each row the one that it is made of, None for a new one.
        sign: Factor on the rows that are kept.
        shift: Added to their biases.
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
