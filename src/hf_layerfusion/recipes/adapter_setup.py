"""Adapters of a run: from arguments to an adapted model, and the adapters' part of the model card."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftConfig, PeftModel, get_peft_config

from hf_layerfusion.errors import UserError, one_line
from hf_layerfusion.hub.usage import ONE_TEXT, TWO_TEXTS, code_string
from hf_layerfusion.recipes.recipe_arguments import AdaptedEncoderArguments
from hf_layerfusion.training.adapters import add_adapters


def with_adapters(model: Any, arguments: AdaptedEncoderArguments) -> Any:
    """Return the model with the adapters that the arguments ask for, or unchanged if they ask for none.

    Raises:
        UserError: The settings name two methods or none, cannot be read or do not fit the model; or the model has
            adapters already.
    """
    if getattr(model, "peft_config", None):
        raise UserError(
            f"--model_name_or_path {arguments.model_name_or_path}: must be a model without adapters, found some; "
            "merge them "
            "first, load_adapter_model(FOLDER).merge_and_unload()."
        )
    config = adapter_config(arguments)
    if config is None:
        return model
    try:
        return add_adapters(model, config, each_task=getattr(arguments, "adapter_per_task", True))
    except UserError as error:
        option = "--use_lora" if arguments.use_lora else "--peft_config"
        message = str(error)
        raise UserError(
            option + message.removeprefix("peft_config") if message.startswith("peft_config") else message
        ) from error


def adapter_config(arguments: AdaptedEncoderArguments) -> PeftConfig | None:
    """Return the configuration of the adapter method, or None if the arguments name none.

    Raises:
        UserError: As `with_adapters`.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(arguments)}
    for name in ("lora_r", "lora_alpha", "lora_dropout"):
        if getattr(arguments, name) != defaults[name] and not arguments.use_lora:
            raise UserError(f"--{name} is a setting of LoRA, found no --use_lora; add --use_lora True.")
    if arguments.lora_target_modules and not arguments.use_lora:
        raise UserError(
            "--lora_target_modules is a setting of LoRA, found no --use_lora; add --use_lora True."
        )
    if arguments.use_lora and arguments.peft_config:
        raise UserError("--use_lora and --peft_config name a method each, found both; leave one out.")
    if not arguments.use_lora:
        return None if arguments.peft_config is None else read_peft_config(arguments.peft_config)
    if arguments.lora_r < 1:
        raise UserError(f"--lora_r must be 1 or more, found {arguments.lora_r}; try 8.")
    if not 0 <= arguments.lora_dropout < 1:
        raise UserError(
            f"--lora_dropout must lie in [0, 1), found {arguments.lora_dropout}; 0 switches it off."
        )
    targets: Any = arguments.lora_target_modules
    return LoraConfig(
        r=arguments.lora_r,
        lora_alpha=arguments.lora_alpha,
        lora_dropout=arguments.lora_dropout,
        target_modules="all-linear" if targets == ["all-linear"] else targets,
    )


def read_peft_config(path: str) -> PeftConfig:
    """Read an adapter configuration from a JSON file, whose `peft_type` names the method.

    Raises:
        UserError: The file cannot be read, names no method, or has a setting that the method does not have.
    """
    try:
        with open(path, encoding="utf-8") as file:
            settings = json.load(file)
        return get_peft_config(settings)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"--peft_config {path}: must be a json object with a peft_type and settings of that method, found "
            f"{type(error).__name__}: {one_line(error)}; see the method's class in peft."
        ) from error


def num_parameters(model: Any) -> int:
    """Return the number of parameters with adapters. Modules that peft copies to train in full are counted once."""
    return sum(
        parameter.numel() for name, parameter in model.named_parameters() if ".original_module." not in name
    )


def adapter_lines(model: Any) -> list[str]:
    """Return the card's line about a model's adapters in a list, which is empty without adapters."""
    if not isinstance(model, PeftModel):
        return []
    config: Any = next(iter(model.peft_config.values()))
    rank = f" of rank {config.r}" if isinstance(config, LoraConfig) else ""
    each = ", one for each task" if len(model.peft_config) > 1 else ""
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return [
        f"Adapter: {config.peft_type.value}{rank}{each}, on the encoder's layers; {trained:,} weights were trained, "
        "those beside the encoder in full"
    ]


def adapter_fields(model: Any, folder: Path, num_texts: int | dict[str, int]) -> dict[str, Any]:
    """Return the card's fields on loading a model with adapters, empty without adapters.

    Args:
        model: the model.
        folder: the folder it was saved to.
        num_texts: number of texts in an input; for several tasks, by task.
    """
    if not isinstance(model, PeftModel):
        return {}
    path = code_string(folder.name if folder.is_absolute() else str(folder))
    several = isinstance(num_texts, dict)
    shown = [
        (name, f"print(classifier({TWO_TEXTS if count == 2 else ONE_TEXT}))")
        for name, count in (num_texts if isinstance(num_texts, dict) else {"": num_texts}).items()
    ]
    pipe = 'classifier = pipeline("text-classification", model={}, tokenizer=tokenizer, truncation=True)'
    code = [
        f"from hf_layerfusion import {'MultitaskPipeline, ' if several else ''}load_adapter_model",
        "from transformers import AutoTokenizer, pipeline",
        "",
        f"model = load_adapter_model({path})",
        f"tokenizer = AutoTokenizer.from_pretrained({path})",
    ]
    if isinstance(num_texts, dict):
        asked = [text for count, text in ((1, ONE_TEXT), (2, TWO_TEXTS)) if count in num_texts.values()]
        code += ["ask = MultitaskPipeline(model, tokenizer)", *(f"print(ask({text}))" for text in asked)]
    else:
        code += [pipe.format("model.get_base_model()"), shown[0][1]]
    usage = [
        (
            "The folder holds an adapter, which is loaded onto the encoder that it was trained on:",
            "\n".join(code),
        )
    ]
    if several:
        switch = (
            "model.set_adapter({})\n" + pipe.format("model.get_base_model()")
            if len(model.peft_config) > 1
            else pipe.format("model.get_base_model().task({})")
        )
        each = "\n".join(f"{switch.format(code_string(name))}\n{line}" for name, line in shown)
        usage.append(("Each task by the pipeline of transformers:", each))
    if len(model.peft_config) == 1:
        usage.append(
            (
                "Merge the adapter into a complete model that needs no peft:",
                f'load_adapter_model({path}).merge_and_unload().save_pretrained("merged")',
            )
        )
    return {"usage": usage, "library_name": "peft"}
