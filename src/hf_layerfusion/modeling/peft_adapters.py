"""PEFT adapters in the package's models: loading them from folders and switching between the adapters of tasks."""

import json
import math
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel
from transformers.utils import ADAPTER_CONFIG_NAME, cached_file, find_adapter_config_file
from transformers.utils.output_capturing import CompileableContextVar

from .label_rows import RequestedLabels

ADAPTER_WEIGHTS = "adapter_model.safetensors"
# peft's name for the only adapter of a folder. Several adapters are in subfolders named after them.
ONLY_ADAPTER = "default"
# The running task, if it has an adapter. A context variable, because threads may share one model.
_TASK = CompileableContextVar("adapted_task")
_ADAPTED_CLASSES: dict[type, type] = {}


def find_adapters(source: str | os.PathLike[str], tasks: Sequence[str], **options: Any) -> dict[str, str]:
    """Find the adapters in a folder or repository.

    Args:
        source: Folder or Hub id.
        tasks: Names of subfolders to search for adapters.
        options: Hub options of `from_pretrained`, such as the revision.

    Returns:
        The subfolder of each adapter by the name of the adapter.
    """
    top = options.pop("subfolder", "")
    places = {ONLY_ADAPTER: top}
    if adapter_config_file(source, top, **options) is None:
        # A name from a repository must not point outside its folder.
        places = {task: os.path.join(top, task) for task in tasks if re.fullmatch(r"[\w-]+", task)}
    found = {
        name: place
        for name, place in places.items()
        if adapter_config_file(source, place, **options) is not None
    }
    return found


def adapter_config_file(source: str | os.PathLike[str], subfolder: str, **options: Any) -> str | None:
    """Return the path of the adapter configuration in a subfolder, or None if there is no such adapter."""
    if os.path.isdir(source):
        # transformers before 5.23 does not search the subfolders of local folders.
        path = os.path.join(source, subfolder, ADAPTER_CONFIG_NAME)
        return path if os.path.isfile(path) else None
    return find_adapter_config_file(os.fspath(source), subfolder=subfolder, **options)


def from_adapters(
    model_class: Any,
    source: str | os.PathLike[str],
    adapters: dict[str, str],
    options: dict[str, Any],
    config: PreTrainedConfig | str | os.PathLike[str] | None,
    labels: RequestedLabels,
    output_loading_info: bool,
    **kwargs: Any,
) -> Any:
    """Load the checkpoint that adapters name, together with the adapters.

    Args:
        model_class: Class to load.
        source: Folder or Hub id of the adapters.
        adapters: Subfolders by name, as returned by `find_adapters`.
        options: Hub options of the adapters, as for `from_pretrained`.
        config: Configuration as for `from_pretrained`; None uses the one saved with the adapters.
        labels: Labels to set, if they differ from those of the adapters.
        output_loading_info: Whether to return the model and `missing_keys`, the weights missing from an adapter, which
            are then not an error.
        kwargs: Arguments of `from_pretrained`.

    Raises:
        ValueError: If the adapters were trained in another kind of model, or lack weights.
    """
    if not isinstance(config, PreTrainedConfig):
        name = source if config is None else config
        model_type = PreTrainedConfig.get_config_dict(name, **options)[0].get("model_type")
        if model_type != model_class.config_class.model_type:
            raise ValueError(
                f"the adapter '{source}' must be opened as what it was trained in, '{model_type}', found "
                f"{model_class.__name__}; use AutoModelForSequenceClassification."
            )
        config = model_class.config_class.from_pretrained(name, **options)
    if model_class._auto_class == "AutoModel":
        # Adapters belong to classifiers: load the classifier and take its base model.
        code = kwargs.get("trust_remote_code")
        whole, info = AutoModelForSequenceClassification.from_pretrained(
            source, config=config, trust_remote_code=code, output_loading_info=True, **options
        )
        model, missing = whole.base_model, info["missing_keys"]
    else:
        model = load_base_checkpoint(model_class, source, adapters, options, config, **kwargs)
        missing = load_adapters(model, source, adapters, **without_subfolder(options))
    if missing and not output_loading_info:
        raise ValueError(
            f"the adapter '{source}' must hold every weight of its own, found none for {sorted(missing)[:3]}, which "
            "would stay random; save it again."
        )
    model.set_labels(labels)
    return (model, {"missing_keys": missing}) if output_loading_info else model


def load_base_checkpoint(
    model_class: Any,
    source: str | os.PathLike[str],
    adapters: dict[str, str],
    options: dict[str, Any],
    config: PreTrainedConfig,
    **kwargs: Any,
) -> Any:
    """Load the checkpoint that adapters name as `model_class`; the arguments are those of `from_adapters`."""
    hub = without_subfolder(options)
    settings, *others = (
        read_adapter_config(str(adapter_config_file(source, at, **hub))) for at in adapters.values()
    )
    bases = {each["base_model_name_or_path"] for each in (settings, *others)}
    if len(bases) > 1:
        raise ValueError(f"the adapters in '{source}' must name one checkpoint, found {sorted(bases)}.")
    # The requested revision and subfolder are those of the adapter.
    kwargs = {name: value for name, value in kwargs.items() if name not in ("revision", "subfolder")}
    return model_class.from_pretrained(
        settings["base_model_name_or_path"],
        config=config,
        revision=settings.get("revision") or "main",
        **kwargs,
    )


def read_adapter_config(path: str) -> dict[str, Any]:
    """Return the settings in the configuration file of an adapter.

    Raises:
        ValueError: If they cannot be read, or name no checkpoint.
    """
    try:
        with open(path, encoding="utf-8") as file:
            settings = json.load(file)
        base = settings["base_model_name_or_path"]
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise ValueError(
            f"'{path}' must hold the settings of an adapter, found {type(error).__name__}: {error}; save it again."
        ) from error
    if not isinstance(base, str) or not base:
        raise ValueError(
            f"'{path}': `base_model_name_or_path` must name the checkpoint below the adapter, found {base!r}; write "
            "its folder or Hub id there."
        )
    return settings


def check_numbers(config: Any, weights: dict[str, torch.Tensor], source: str | os.PathLike[str]) -> None:
    """Raise `ValueError` if a number in an adapter's settings is not finite, or a rank exceeds the shapes of its
    weights.

    Such a rank could exhaust the memory.
    """
    # Before training, `training/adapter_settings.py` compares these numbers with the model's layers. Here the weights
    # are known and the layers do not exist yet, and this folder must not import from `training`.
    largest = max((max(weight.shape, default=1) for weight in weights.values()), default=0)
    ranks = {"r": getattr(config, "r", None), **(getattr(config, "rank_pattern", None) or {})}
    numbers = {**vars(config), **(getattr(config, "alpha_pattern", None) or {})}
    wrong = {name: rank for name, rank in ranks.items() if isinstance(rank, int) and rank > largest}
    wrong |= {name: n for name, n in numbers.items() if isinstance(n, float) and not math.isfinite(n)}
    for name, number in wrong.items():
        raise ValueError(
            f"the adapter '{source}': `{name}` must be a finite number that fits its weights, found {number}; save it "
            "again."
        )


def without_subfolder(options: dict[str, Any]) -> dict[str, Any]:
    """Return `options` without the subfolder, which is already part of the adapters' paths."""
    return {name: value for name, value in options.items() if name != "subfolder"}


def load_adapters(
    model: PreTrainedModel, source: str | os.PathLike[str], adapters: dict[str, str], **options: Any
) -> set[str]:
    """Load adapters into a model.

    Args:
        model: Model of the kind that they were trained in, around the same checkpoint.
        source: Folder or Hub id.
        adapters: Subfolders by name, as returned by `find_adapters`.
        options: Hub options of `from_pretrained`, such as the revision.

    Returns:
        The names of the weights missing from the adapters.

    Raises:
        OSError: If an adapter has no weights in safetensors.
        ValueError: If its settings are damaged.
    """
    # A plain import would make peft a requirement of every model loaded by remote code. transformers' `load_adapter`
    # would mistake modules named like a task for the weights of the task's adapter.
    peft = import_module("peft")
    adapted, missing = None, set()
    for name, subfolder in adapters.items():
        path = cached_file(os.fspath(source), ADAPTER_WEIGHTS, subfolder=subfolder, **options)
        weights = load_file(str(path))
        try:
            config = peft.PeftConfig.from_pretrained(
                os.fspath(source), subfolder=subfolder or None, **options
            )
            check_numbers(config, weights, source)
            # Not frozen, like any loaded model: a frozen GRU rounds differently on a CPU.
            config.inference_mode = False
            if adapted is None:
                adapted = peft.PeftModel(model, config, name)
            else:
                adapted.add_adapter(name, config)
        except (TypeError, LookupError, AttributeError, RecursionError) as error:
            raise ValueError(
                f"the adapter '{source}' must have the settings of a method of peft, found {type(error).__name__}: "
                f"{error}; save it again."
            ) from error
        expected = peft.get_peft_model_state_dict(adapted, adapter_name=name, save_embedding_layers=False)
        missing |= expected.keys() - weights.keys()
        if not missing:
            peft.set_peft_model_state_dict(adapted, weights, adapter_name=name)
    model._hf_peft_config_loaded = True  # so that transformers' own methods for adapters work
    model.eval()
    return missing


@contextmanager
def adapter_of(model: PreTrainedModel, task: str, tasks: Sequence[str]) -> Iterator[None]:
    """Context in which the layers of `model` use the adapter named `task`.

    Nothing changes if no adapter is named after one of `tasks`, or if adapters are disabled. The choice is kept in a
    context variable instead of the layers, so that threads can run different tasks with one model, and neither active
    adapters nor `requires_grad` flags change.

    Raises:
        ValueError: If other tasks have adapters of their own but this one has none.
    """
    layers = adapted_layers(model) if may_have_task_adapters(model, tasks) else []
    names = {name for layer in layers for name in adapter_names(layer)}
    if names.isdisjoint(tasks) or any(layer.disable_adapters for layer in layers if not is_wrapper(layer)):
        yield
        return
    if task not in names:
        raise ValueError(
            f"`task` must be one that has an adapter, {sorted(names)}, found {task!r}; add one for it."
        )
    for layer in layers:
        switch_by_task(layer)
    token = _TASK.set(task)
    try:
        yield
    finally:
        _TASK.reset(token)


def has_task_adapters(model: PreTrainedModel, tasks: Sequence[str]) -> bool:
    """Return whether a classifier has adapters named after its tasks."""
    return not set(tasks).isdisjoint(getattr(model, "peft_config", ()))


def may_have_task_adapters(model: PreTrainedModel, tasks: Sequence[str]) -> bool:
    """Return `has_task_adapters`, or True for a base model, on which peft does not store the names."""
    return model.base_model is model or has_task_adapters(model, tasks)


def adapted_layers(model: PreTrainedModel) -> list[Any]:
    """Return the modules that peft has added to a model: its layers, and the wrappers of fully trained modules."""
    return [
        module
        for module in model.modules()
        if hasattr(type(module), "active_adapters") and not isinstance(module, PreTrainedModel)
    ]


def is_wrapper(layer: Any) -> bool:
    """Return whether a module of `adapted_layers` is the wrapper of a fully trained module."""
    return hasattr(layer, "original_module")


def adapter_names(layer: Any) -> set[str]:
    """Return the names of the adapters in a module of `adapted_layers`."""
    return layer._get_available_adapters()


class TaskAdapterMixin:
    """Mixin for the modules that peft adds to a model: while a task is running, its adapter is the active one.

    It overrides the adapters that peft has set; see `switch_by_task`.

    Raises:
        ValueError: If the layer is run again in a backward pass, where the task is unknown.
    """

    _disable_adapters: bool

    @property
    def active_adapter(self) -> Any:
        """Adapter of the running task, otherwise the one set in peft."""
        task = self._current_task()
        return super().active_adapter if task is None else [task]  # type: ignore[misc]

    @property
    def active_adapters(self) -> list[str]:
        """Adapters in use: that of the running task, otherwise those set in peft."""
        task = self._current_task()
        return super().active_adapters if task is None else [task]  # type: ignore[misc]

    @property
    def disable_adapters(self) -> bool:
        """True if adapters are disabled; the wrappers of fully trained modules never are while a task is running."""
        # transformers' `enable_adapters` does not enable the wrappers that its `disable_adapters` has disabled.
        return self._disable_adapters and (not is_wrapper(self) or self._current_task() is None)

    def _current_task(self) -> str | None:
        task = _TASK.get()
        if task is None and torch._C._current_graph_task_id() != -1:
            raise ValueError(
                "activation checkpointing must be off where each task has an adapter of its own, found a layer run "
                "again in the backward pass, which knows of no task; switch it off, or give all tasks one adapter."
            )
        return task if not is_wrapper(self) or task in adapter_names(self) else None

    def __reduce_ex__(self, protocol: Any) -> Any:
        # Makes models picklable: the class is created again when they are loaded.
        return _new_adapted_module, (type(self).__mro__[2],), vars(self)


def switch_by_task(layer: object) -> None:
    """Make a module of `adapted_layers` follow the running task by giving its class the `TaskAdapterMixin`."""
    if not isinstance(layer, TaskAdapterMixin):
        layer.__class__ = _adapted_class(type(layer))


def _adapted_class(layer_class: type) -> type:
    if layer_class not in _ADAPTED_CLASSES:
        fields = {"__module__": layer_class.__module__}
        _ADAPTED_CLASSES.setdefault(
            layer_class, type(layer_class.__name__, (TaskAdapterMixin, layer_class), fields)
        )
    return _ADAPTED_CLASSES[layer_class]


def _new_adapted_module(layer_class: type) -> Any:
    return object.__new__(_adapted_class(layer_class))
