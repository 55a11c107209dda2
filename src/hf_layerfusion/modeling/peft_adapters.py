"""PEFT's adapters in our models: opened from their folders and, where each task has one, switched by task."""

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib import import_module
from typing import Any

from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel
from transformers.utils import ADAPTER_CONFIG_NAME, cached_file, find_adapter_config_file

ADAPTER_WEIGHTS = "adapter_model.safetensors"
# peft's name for the only adapter of a folder. Others stand in folders called as they are.
ONLY_ADAPTER = "default"


def find_adapters(source: str | os.PathLike[str], tasks: Sequence[str], **options: Any) -> dict[str, str]:
    """The adapters in a folder or repository.

    Args:
        source: folder or Hub id.
        tasks: names that adapters in folders of their own may have.
        options: which revision and so on, as `from_pretrained` takes it.

    Returns:
        The subfolder of each adapter by the adapter's name.
    """
    top = options.pop("subfolder", "")
    places = {ONLY_ADAPTER: top}
    if settings_file(source, top, **options) is None:
        # A name from a repository must not lead out of its folder.
        places = {task: os.path.join(top, task) for task in tasks if re.fullmatch(r"[\w-]+", task)}
    found = {
        name: place for name, place in places.items() if settings_file(source, place, **options) is not None
    }
    return found


def settings_file(source: str | os.PathLike[str], subfolder: str, **options: Any) -> str | None:
    """The file with the settings of the adapter in a subfolder, None where there is no such adapter."""
    if os.path.isdir(source):
        # Not by transformers, which before 5.23 looks into no subfolder of a local folder.
        path = os.path.join(source, subfolder, ADAPTER_CONFIG_NAME)
        return path if os.path.isfile(path) else None
    return find_adapter_config_file(os.fspath(source), subfolder=subfolder, **options)


def from_adapters(
    model_class: Any,
    source: str | os.PathLike[str],
    adapters: dict[str, str],
    options: dict[str, Any],
    config: PreTrainedConfig | str | os.PathLike[str] | None,
    output_loading_info: bool,
    **kwargs: Any,
) -> Any:
    """Loads the checkpoint that adapters name, with the adapters in it.

    Args:
        model_class: the class that is asked for.
        source: folder or Hub id of the adapters.
        adapters: as `find_adapters` gives them.
        options: which revision of the adapters and so on, as `from_pretrained` takes it.
        config: as for `from_pretrained`; None for what lies beside the adapters.
        output_loading_info: returns the model and `missing_keys`, what an adapter should have and has not, which is
            then the caller's to judge.
        kwargs: those of `from_pretrained`.

    Raises:
        ValueError: if the adapters were trained in another kind of model, or lack weights.
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
        # An adapter is a classifier's; its base model is opened by way of it.
        code = kwargs.get("trust_remote_code")
        whole, info = AutoModelForSequenceClassification.from_pretrained(
            source, config=config, trust_remote_code=code, output_loading_info=True, **options
        )
        model, missing = whole.base_model, info["missing_keys"]
    else:
        model = checkpoint_below(model_class, source, adapters, options, config, **kwargs)
        missing = put_in_adapters(model, source, adapters, **without_subfolder(options))
    if missing and not output_loading_info:
        raise ValueError(
            f"the adapter '{source}' must hold every weight of its own, found none for {sorted(missing)[:3]}, which "
            "would stay random; save it again."
        )
    return (model, {"missing_keys": missing}) if output_loading_info else model


def checkpoint_below(
    model_class: Any,
    source: str | os.PathLike[str],
    adapters: dict[str, str],
    options: dict[str, Any],
    config: PreTrainedConfig,
    **kwargs: Any,
) -> Any:
    """The checkpoint that adapters name, as `model_class`; the arguments are those of `from_adapters`."""
    first = settings_file(source, next(iter(adapters.values())), **without_subfolder(options))
    with open(str(first), encoding="utf-8") as file:
        settings = json.load(file)
    # The revision and subfolder that were asked for are the adapter's.
    kwargs = {name: value for name, value in kwargs.items() if name not in ("revision", "subfolder")}
    return model_class.from_pretrained(
        settings["base_model_name_or_path"],
        config=config,
        revision=settings.get("revision") or "main",
        **kwargs,
    )


def without_subfolder(options: dict[str, Any]) -> dict[str, Any]:
    """`options` but for the subfolder, which the adapters' places hold already."""
    return {name: value for name, value in options.items() if name != "subfolder"}


def put_in_adapters(
    model: PreTrainedModel, source: str | os.PathLike[str], adapters: dict[str, str], **options: Any
) -> set[str]:
    """Puts the adapters that `find_adapters` found into a model.

    Args:
        model: the model that they were trained in, around the same checkpoint.
        source: folder or Hub id.
        adapters: as `find_adapters` gives them.
        options: which revision and so on, as `from_pretrained` takes it.

    Returns:
        The names of weights that an adapter should have and has not.

    Raises:
        OSError: if an adapter has no weights in safetensors.
    """
    # Not by an import, which would make peft a need of every model that is opened by remote code. And not by
    # transformers' `load_adapter`, which takes what is called as a task for the weights of the task's adapter.
    peft = import_module("peft")
    adapted, missing = None, set()
    for name, subfolder in adapters.items():
        config = peft.PeftConfig.from_pretrained(os.fspath(source), subfolder=subfolder or None, **options)
        # Not frozen, as no loaded model is: a frozen GRU rounds differently on a CPU.
        config.inference_mode = False
        if adapted is None:
            adapted = peft.PeftModel(model, config, name)
        else:
            adapted.add_adapter(name, config)
        path = cached_file(os.fspath(source), ADAPTER_WEIGHTS, subfolder=subfolder, **options)
        weights = load_file(str(path))
        expected = peft.get_peft_model_state_dict(adapted, adapter_name=name, save_embedding_layers=False)
        missing |= expected.keys() - weights.keys()
        if not missing:
            peft.set_peft_model_state_dict(adapted, weights, adapter_name=name)
    model._hf_peft_config_loaded = True  # so that transformers' own methods for adapters work
    model.eval()
    return missing


def adapter_of(model: PreTrainedModel, task: str, tasks: Sequence[str]) -> AbstractContextManager[None]:
    """Inside the block, the adapter that is called as the task is the active one. Nothing happens where no adapter is
    called as one of `tasks`, or adapters are switched off. What is trained stays as it was.

    Raises:
        ValueError: if other tasks have adapters of their own and this one has none.
    """
    return _switched_to(model, task) if has_task_adapters(model, tasks) else nullcontext()


@contextmanager
def _switched_to(model: PreTrainedModel, task: str) -> Iterator[None]:
    put_in = [
        module
        for module in model.modules()
        if hasattr(type(module), "active_adapters") and not isinstance(module, PreTrainedModel)
    ]
    heads = [layer for layer in put_in if hasattr(layer, "original_module")]
    layers = [layer for layer in put_in if not hasattr(layer, "original_module")]
    if any(layer.disable_adapters for layer in layers):
        yield
        return
    if task not in model.peft_config:
        raise ValueError(
            f"`task` must be one that has an adapter, {sorted(model.peft_config)}, found {task!r}; add one for it."
        )
    heads = [head for head in heads if task in head.modules_to_save]
    before = [(layer, layer.active_adapters) for layer in layers]
    disabled = [(head, head.active_adapters, head.disable_adapters) for head in heads]
    trained = [(weight, weight.requires_grad) for layer in layers + heads for weight in layer.parameters()]
    for layer in layers:
        layer.set_adapter([task])
    for head in heads:
        head.enable_adapters(True)
        head.set_adapter([task])
    _set_gradients(trained)
    try:
        yield
    finally:
        for layer, active in before:
            layer.set_adapter(active)
        for head, active, was_disabled in disabled:
            head.set_adapter(active)
            head.enable_adapters(not was_disabled)
        _set_gradients(trained)


def has_task_adapters(model: PreTrainedModel, tasks: Sequence[str]) -> bool:
    """Whether adapters are called as tasks of the model."""
    return not set(tasks).isdisjoint(getattr(model, "peft_config", ()))


def _set_gradients(flags: list[tuple[nn.Parameter, bool]]) -> None:
    for weight, flag in flags:
        weight.requires_grad_(flag)
