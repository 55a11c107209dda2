"""LoRA and other methods of PEFT on any classifier: adding, saving and loading adapters."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

from huggingface_hub import snapshot_download
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME, ModulesToSaveWrapper, PeftType
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel
from transformers.utils import CONFIG_NAME as MODEL_CONFIG_NAME

from hf_layerfusion.errors import LOADING_ERRORS, NETWORK_ERROR, UserError, one_line
from hf_layerfusion.hub.manifest import write_model_manifest
from hf_layerfusion.hub.portable import LOCAL
from hf_layerfusion.training.adapter_settings import check_numbers, check_settings, check_task_names
from hf_layerfusion.training.adapter_targets import completed, task_names
from hf_layerfusion.training.training_arguments import CHECKPOINTING, LayerFusionTrainingArguments

ONLY_ADAPTER = "default"
"""The name of an adapter that is the model's only one."""

BELOW = "below"
"""The subfolder for the configuration of transformers' own classifiers: beside an adapter, it would be taken for that
of a whole model."""


class AdaptedModel(PeftModel):
    """A `PeftModel` whose folder holds everything that loading needs, and whose task adapters follow the task.

    See `add_adapters`.
    """

    def save_pretrained(self, save_directory: str, *args: Any, **kwargs: Any) -> None:
        """Save as in peft, with the model's configuration, the code of a model of this package, and a manifest of
        checksums."""
        # The adapted layers lie inside the encoders: no embedding is trained.
        kwargs.setdefault("save_embedding_layers", False)
        super().save_pretrained(save_directory, *args, **kwargs)
        if not kwargs.get("is_main_process", True):
            return
        model: Any = self.get_base_model()
        if hasattr(model, "save_configuration"):
            model.save_configuration(save_directory)
        else:
            model.config.save_pretrained(os.path.join(save_directory, BELOW))
        write_model_manifest(save_directory)

    def load_adapter(
        self, model_id: str | os.PathLike[str], adapter_name: str, *args: Any, **kwargs: Any
    ) -> Any:
        """Load an adapter, as in peft.

        An adapter that the model already has is given the weights of the folder, all of which must be there. What is
        trained stays as it is, as a resumed run needs it.
        """
        if adapter_name not in self.peft_config:
            return super().load_adapter(model_id, adapter_name, *args, **kwargs)
        return set_peft_model_state_dict(
            self, _checked_weights(self, adapter_name, Path(model_id)), adapter_name=adapter_name
        )

    def set_adapter(self, adapter_name: str, inference_mode: bool = False) -> None:
        """Set the active adapter, as in peft; that of a task makes the task the default. Trained parameters stay the
        same."""
        flags = [(parameter, parameter.requires_grad) for parameter in self.parameters()]
        super().set_adapter(adapter_name, inference_mode)
        if self.adapts_tasks:
            for parameter, flag in flags:
                parameter.requires_grad_(flag and not inference_mode)
            model: Any = self.get_base_model()
            if adapter_name in task_names(model):
                model.choose_task(adapter_name)

    def merge_and_unload(self, *args: Any, **kwargs: Any) -> Any:
        """Return the model itself, its weights changed by the adapter, as in peft.

        Raises:
            UserError: adapters of several tasks, of which layers that the tasks share can take up one, or of a method
                that peft cannot merge.
        """
        if self.adapts_tasks:
            raise UserError(
                f"merge_and_unload needs one adapter of all tasks, found those of {', '.join(self.peft_config)}, which "
                "share the encoder's layers; keep them apart, or train with each_task=False"
            )
        tuner: Any = self.base_model
        model: Any = self.get_base_model()
        for name, module in list(model.named_modules()):
            # By most methods peft itself unwraps only modules with one weight.
            if isinstance(module, ModulesToSaveWrapper):
                unwrapped = module.unload_and_optionally_merge_module(True, False, None)
                model.set_submodule(name, unwrapped)
        try:
            model = tuner.merge_and_unload(*args, **kwargs)
        except NotImplementedError as error:
            raise UserError(
                f"merge_and_unload needs a method that can be merged, found {one_line(error)}; keep the adapter"
            ) from error
        model.requires_grad_(True)  # as of any model that was loaded
        return _frozen_as_configured(model)

    @property
    def adapts_tasks(self) -> bool:
        """True if each task has an adapter of its own."""
        return not set(self.peft_config).isdisjoint(task_names(self.get_base_model()))


def add_adapters(
    model: PreTrainedModel, peft_config: PeftConfig | None = None, each_task: bool = True
) -> AdaptedModel:
    """Freeze a pretrained encoder and add adapters to its layers.

    Everything else (fuser, heads, poolers) is trained in full and saved with them.

    Args:
        model: a classifier, loaded from a checkpoint, which must be there when the adapters are opened again.
        peft_config: any method of peft that changes layers; `LoraConfig()` by default. Its `target_modules` are those
            that peft has for the encoder's architecture, or else every linear layer (every norm, if the method tunes
            norms); names given there are looked for in the encoder's layers only. What its `modules_to_save` names
            comes on top of what is computed here.
        each_task: of a model of several tasks, an adapter for each, called as the task, which is active whenever the
            task is answered; else one for all of them.

    Returns:
        A `PeftModel`.

    Raises:
        UserError: a method or setting that cannot be trained, saved and opened again here (`adapter_settings` lists
            them), modules or layers that the encoder has not, a number that is not finite or larger than the layers,
            with an adapter for each task a task called as a module, or a model that came from no checkpoint.
    """
    peft_config = LoraConfig() if peft_config is None else peft_config
    if not model.name_or_path:
        raise UserError(
            "model must come from a checkpoint, which its adapter will be put on again, found one of random weights; "
            "save it and load it"
        )
    tasks = task_names(model) if each_task else []
    check_settings(peft_config, tasks)
    check_task_names(model, tasks)
    check_numbers(peft_config, model)
    configs = {
        name: completed(peft_config, model, name if tasks else None) for name in tasks or [ONLY_ADAPTER]
    }
    return _adapted(model, configs)


def _frozen_as_configured(model: Any) -> Any:
    """Return `model`, without gradients for what its configuration freezes: adapters save it, but do not train it."""
    if hasattr(model, "freeze"):
        model.freeze()
    return model


def _adapted(model: Any, configs: dict[str, PeftConfig]) -> AdaptedModel:
    (first, config), *others = configs.items()
    try:
        adapted = AdaptedModel(model, config, first)
        for name, other in others:
            adapted.add_adapter(name, other)
    except (ValueError, TypeError, LookupError, AttributeError, RuntimeError, NotImplementedError) as error:
        raise UserError(
            f"peft_config: {PeftType(config.peft_type).value} cannot be used so, found {one_line(error)}"
        ) from error
    if adapted.adapts_tasks:
        adapted.set_requires_grad(list(configs), True)
        adapted.set_adapter(model.config.default_task)
    _frozen_as_configured(model)
    return adapted


def load_adapter_model(
    name_or_path: str | os.PathLike[str],
    revision: str | None = None,
    token: str | None = None,
    **kwargs: Any,
) -> AdaptedModel:
    """Load adapters and the checkpoint that they name, as `AdaptedModel.save_pretrained` or a run has saved them.

    The weights are the same bit for bit. Like any loaded model, it can be trained further.

    Args:
        name_or_path: folder or Hub id.
        revision: of the adapters, on the Hub.
        token: for the Hub.
        kwargs: those of `from_pretrained` for the checkpoint below.

    Raises:
        UserError: no adapters there, or they cannot be downloaded; weights of them missing, or a checkpoint whose
            vocabulary is another.
    """
    folder = Path(name_or_path)
    if not folder.is_dir():
        patterns = ["*.json", f"*{SAFETENSORS_WEIGHTS_NAME}", "*.py"]
        try:
            folder = Path(
                snapshot_download(str(name_or_path), revision=revision, token=token, allow_patterns=patterns)
            )
        except LOADING_ERRORS as error:
            raise UserError(
                f"{name_or_path}: is no folder, and cannot be had from the Hub: {type(error).__name__}: "
                f"{one_line(error)}"
            ) from error
    places = adapter_places(folder)
    if not places:
        raise UserError(
            f"{name_or_path}: must hold {CONFIG_NAME}, in itself or in a folder for each adapter, found none; load a "
            "whole model by AutoModelForSequenceClassification"
        )
    configs = {name: read_settings(place) for name, place in places.items()}
    first = next(iter(configs.values()))
    bases = {str(config.base_model_name_or_path) for config in configs.values()}
    if len(bases) > 1:
        raise UserError(
            f"{name_or_path}: adapters must name one checkpoint, found {', '.join(sorted(bases))}"
        )
    kwargs = {"use_safetensors": True, "token": token, "revision": first.revision, **kwargs}
    below = folder if (folder / MODEL_CONFIG_NAME).exists() else folder / BELOW
    config = AutoConfig.from_pretrained(below, trust_remote_code=kwargs.get("trust_remote_code"))
    saved = config.get_text_config().vocab_size
    inside: list[str] = []
    try:
        if hasattr(config, "encoder_config"):
            model = AutoModelForSequenceClassification.from_pretrained(
                first.base_model_name_or_path, config=config, **kwargs
            )
        else:
            # The adapters bring the head, which may have another width than that of the checkpoint below.
            options = {"ignore_mismatched_sizes": True, "output_loading_info": True, **kwargs}
            model, info = AutoModelForSequenceClassification.from_pretrained(
                first.base_model_name_or_path, config=config, **options
            )
            names = [str(name) for name, *_ in info["mismatched_keys"]]
            inside = [name for name in names if name.startswith(f"{model.base_model_prefix}.")]
    except (OSError, NETWORK_ERROR) as error:
        raise UserError(
            f"{name_or_path}: the checkpoint below, {first.base_model_name_or_path}, cannot be loaded: "
            f"{type(error).__name__}: {one_line(error)}"
        ) from error
    if inside:
        raise UserError(
            f"{first.base_model_name_or_path}: must be the checkpoint that the adapters were trained on, found another "
            f"size of {sorted(inside)[0]}; name that checkpoint"
        )
    found = model.get_input_embeddings().num_embeddings
    if found != saved:
        raise UserError(
            f"{first.base_model_name_or_path}: must be the checkpoint that the adapters were trained on, with a "
            f"vocabulary of {saved}, found {found}; save a model whose vocabulary was resized before adding adapters"
        )
    for adapter in configs.values():
        cast(Any, adapter).inference_mode = False
        check_numbers(adapter, model)
    adapted = _adapted(model, configs)
    read_adapters(adapted, folder)
    return adapted.eval()


def read_settings(folder: Path) -> PeftConfig:
    """Return the settings of the adapter in a folder.

    Raises:
        UserError: if they are none, or name no checkpoint.
    """
    try:
        config = PeftConfig.from_pretrained(str(folder))
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{folder / CONFIG_NAME}: must hold the settings of an adapter, found {type(error).__name__}: "
            f"{one_line(error)}; save it again"
        ) from error
    if not isinstance(config.base_model_name_or_path, str) or not config.base_model_name_or_path:
        raise UserError(
            f"{folder / CONFIG_NAME}: base_model_name_or_path must name the checkpoint below the adapter, found "
            f"{config.base_model_name_or_path!r}; write its folder or Hub id there"
        )
    if config.base_model_name_or_path.startswith(LOCAL):
        raise UserError(
            f"{folder / CONFIG_NAME}: base_model_name_or_path must name the checkpoint below the adapter, found "
            f"{config.base_model_name_or_path!r}, a folder of the machine that it was trained on; write the folder of "
            "that checkpoint or its Hub id there"
        )
    return config


def adapter_places(folder: str | Path) -> dict[str, Path]:
    """Return the folder of each adapter in `folder` by name: `folder` itself, or subfolders named as the adapters."""
    if (Path(folder) / CONFIG_NAME).exists():
        return {ONLY_ADAPTER: Path(folder)}
    return {path.parent.name: path.parent for path in sorted(Path(folder).glob(f"*/{CONFIG_NAME}"))}


def read_adapters(model: PeftModel, folder: str | Path) -> None:
    """Read the weights of every adapter of `model` from a folder that it was saved to.

    Raises:
        UserError: The folder does not hold the weights of exactly these adapters.
    """
    for name, weights in adapter_weights(model, folder).items():
        set_peft_model_state_dict(model, weights, adapter_name=name)


def adapter_weights(model: PeftModel, folder: str | Path) -> dict[str, dict[str, Tensor]]:
    """Return the weights of every adapter of `model` in a folder that it was saved to.

    Raises:
        UserError: The folder does not hold the weights of exactly these adapters.
    """
    folder = Path(folder)
    return {
        name: _checked_weights(model, name, folder if name == ONLY_ADAPTER else folder / name)
        for name in model.peft_config
    }


def _checked_weights(model: PeftModel, name: str, folder: Path) -> dict[str, Tensor]:
    path = folder / SAFETENSORS_WEIGHTS_NAME
    if not path.exists():
        raise UserError(
            f"{folder}: must hold the adapter '{name}', found no {path.name} of it; save it again"
        )
    weights: dict[str, Tensor] = load_file(path)
    expected = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    if weights.keys() != expected.keys():
        differing = sorted(weights.keys() ^ expected.keys())
        raise UserError(
            f"{path}: must hold the weights of the model's adapter '{name}', found {len(differing)} others or "
            f"missing, such as {differing[0]}; open it with the model that it was saved from"
        )
    return weights


def check_adapters(model: Any, args: LayerFusionTrainingArguments) -> None:
    """Check that the adapters of a model, if it has any, can be trained as the arguments say.

    Raises:
        UserError: an encoder that is to stay as it is; with an adapter for each task also surgery on gradients that no
            two of them share, or layers that are run again in the backward, when another task's adapter may be active.
    """
    if not isinstance(model, PeftModel):
        return
    if args.head_first_epochs is not None:
        raise UserError(
            "head_first_epochs trains the head on the encoder as it is and excludes adapters, which change its "
            "layers; leave one of them out"
        )
    if args.freeze_encoder:
        raise UserError(
            "freeze_encoder keeps the encoder as it is and excludes adapters, which change its layers; drop one"
        )
    if set(model.peft_config).isdisjoint(task_names(model.get_base_model())):
        return
    if args.gradient_surgery is not None:
        raise UserError(
            f"gradient_surgery={args.gradient_surgery} needs parameters that tasks share, found an adapter for each; "
            "give them one adapter (each_task=False) or leave surgery out"
        )
    for name in (CHECKPOINTING, "low_memory"):
        if getattr(args, name):
            raise UserError(
                f"{name} runs layers again in the backward, where another task's adapter may be active, found an "
                "adapter for each task; give them one adapter (each_task=False) or leave it out"
            )
