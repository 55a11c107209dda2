"""What is known of an encoder, of any architecture, beyond its configuration."""

import inspect
import os
import sys
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_MAPPING

from .configuration_layer_fusion import LayerFusionConfig


def without_pooler(config: PreTrainedConfig) -> dict[str, bool]:
    """The keyword that leaves out an encoder's pooler, empty where its class has none."""
    model_class = MODEL_MAPPING.get(type(config), None)
    if model_class is None or "add_pooling_layer" not in inspect.signature(model_class.__init__).parameters:
        return {}
    return {"add_pooling_layer": False}


def adopt_encoder_config(config: LayerFusionConfig, encoder: PreTrainedModel) -> None:
    """Makes the encoder's own configuration part of the model's: one object for both and for every layer, as a copy
    would not know which attention the encoder uses. `config` then says so too."""
    config.encoder_config = encoder.config
    config._attn_implementation = encoder.config._attn_implementation


def refuse_missing(missing: list[str], name_or_path: str | os.PathLike[str], model_type: str) -> None:
    """Raises `ValueError` if weights of the encoder are missing in a checkpoint."""
    if missing:
        raise ValueError(
            f"the checkpoint '{name_or_path}' must hold every weight of its encoder, found none for {len(missing)} "
            f"({', '.join(sorted(missing)[:3])}…), which would stay random; check that its keys are those of a "
            f"'{model_type}' encoder."
        )


def max_tokens(config: PreTrainedConfig) -> int | None:
    """The most tokens of a text, special ones included, for which an encoder has positions: 512 for BERT and RoBERTa.

    Args:
        config: an encoder's configuration, or a model's around it.

    Returns:
        The number, or `None` where the configuration states no limit.
    """
    config = config.get_text_config()
    positions = getattr(config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions <= 0:
        return None
    if counts_from_padding(config):
        # MPNet's code takes 1 for the id of padding, whatever the configuration says.
        padding = 1 if config.model_type == "mpnet" else config.pad_token_id or 0
        positions -= padding + 1
    return positions


def counts_from_padding(config: PreTrainedConfig) -> bool:
    """Whether an encoder numbers a text's positions from `pad_token_id + 1` on, as RoBERTa and its kin."""
    name = "create_position_ids_from_input_ids"
    module = sys.modules.get(getattr(MODEL_MAPPING.get(type(config), None), "__module__", ""))
    classes = [each for each in vars(module).values() if isinstance(each, type)] if module else []
    return any(hasattr(each, name) for each in (module, *classes))


def position_limit(encoder: PreTrainedModel) -> int | None:
    """`max_tokens` of an encoder that looks its positions up in a table, and so fails beyond them; else `None`."""
    positions = getattr(encoder.config.get_text_config(), "max_position_embeddings", None)
    for name, module in encoder.named_modules():
        leaf = name.rpartition(".")[2]
        is_table = isinstance(module, nn.Embedding) and ("position" in leaf or leaf == "wpe")
        # Some tables have two rows before the first position.
        if is_table and positions and module.num_embeddings in (positions, positions + 2):
            return max_tokens(encoder.config)
    return None


def refuse_long(inputs: dict[str, Any], limit: int | None) -> None:
    """Raises `ValueError` if a batch has more tokens than an encoder has positions.

    Args:
        inputs: the encoder's inputs by name.
        limit: as `position_limit` gives it.
    """
    if limit is None or torch.compiler.is_compiling():
        return
    given = inputs.get("input_ids")
    length = (inputs["inputs_embeds"] if given is None else given).shape[1]
    if length > limit:
        raise ValueError(
            f"`input_ids` must have at most {limit} tokens, the positions of the encoder, found {length}; cut texts "
            f"off: tokenizer(…, truncation=True, max_length={limit}), or pipeline(…, truncation=True, "
            f"max_length={limit})."
        )
