"""Properties of encoders, of any architecture, that their configurations do not state."""

import inspect
import os
import sys
from typing import Any, Literal

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_MAPPING,
)
from transformers.utils import logging

logger = logging.get_logger(__name__)

# Architectures that are trained to write texts and yet see each text as a whole.
_BIDIRECTIONAL = ("bert-generation", "cpmant", "xlnet")


def is_causal(config: PreTrainedConfig) -> bool:
    """Return whether an encoder's tokens see only those before them, so that the first has seen nothing of the text.

    Args:
        config: an encoder's configuration, or a model's around it. Its `is_causal=False` and
            `use_bidirectional_attention` make an encoder of a decoder, `is_decoder=True` the reverse.
    """
    config = config.get_text_config()
    if getattr(config, "is_causal", None) is False:
        return False
    if getattr(config, "use_bidirectional_attention", None) in (True, "all"):
        return False
    if config.model_type in _BIDIRECTIONAL or config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        return bool(getattr(config, "is_decoder", False))
    if config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return True
    # The text part of a larger model: by the masks that its file makes.
    masks = vars(encoder_module(config))
    return "create_causal_mask" in masks and "create_bidirectional_mask" not in masks


def encoder_class(config: PreTrainedConfig) -> Any:
    """The class that `AutoModel` takes for a configuration, or `None`: code of the Hub is not known before it is read,
    and a few architectures lack theirs."""
    try:
        found = MODEL_MAPPING.get(type(config), None)
    except (ImportError, ValueError):
        return None
    return found[0] if isinstance(found, tuple) else found


def encoder_module(config: PreTrainedConfig) -> Any:
    """The module of `encoder_class`, or this one where there is none."""
    return sys.modules[getattr(encoder_class(config), "__module__", __name__)]


_OTHER_INPUTS = {"pixel_values", "pixel_values_videos", "input_features", "input_values"}

_UNFIT = {
    "bros": ("needs the place of each word on its page", "use BERT, of which it is made"),
    "canine": (
        "puts out states of characters and of groups of them",
        "use a multilingual encoder such as XLM-RoBERTa",
    ),
    "cpmant": ("puts out states of prompts beside those of the text", "use another decoder such as Qwen3"),
    "deepseek_v4": ("puts out several states of each token", "use another decoder such as Qwen3"),
    "dpr": ("puts out a vector of the text alone", "use BERT, of which it is made"),
    "falcon_h1": (
        "comes back from a file without the scales of its states",
        "use another decoder such as Qwen3",
    ),
    "fnet": ("takes no attention mask, so that it reads padding as text", "use BERT"),
    "mra": (
        "looks at single blocks of a text, and on the CPU at none beside a token's own",
        "use Longformer or BigBird",
    ),
    "reformer": ("puts out the states of two residual streams", "use Longformer or BigBird for long texts"),
}
"""Encoders that cannot be inside a model, why, and what to use."""


def refuse_unfit(config: PreTrainedConfig) -> None:
    """Raises `ValueError` if an encoder reads no texts, or puts out what the package cannot use.

    Args:
        config: the encoder's configuration.
    """
    if config.model_type in _UNFIT:
        reason, way_out = _UNFIT[config.model_type]
        raise ValueError(
            f"`encoder_config` must describe an encoder that puts out its tokens' states, found '{config.model_type}', "
            f"which {reason}; {way_out}."
        )
    if config.model_type == "xmod" and config.default_language is None:
        raise ValueError(
            "`encoder_config.default_language` must be given for 'xmod', which has layers for each language, found "
            'None; use from_pretrained(…, encoder_config={"default_language": "en_XX"}).'
        )
    model_class = encoder_class(config)
    if model_class is None:
        return
    known = inspect.signature(model_class.forward).parameters
    if "decoder_input_ids" in known:
        raise ValueError(
            f"`encoder_config` must describe an encoder, found '{config.model_type}', which AutoModel opens as an "
            "encoder-decoder; use an encoder such as BERT, RoBERTa, DeBERTa-v2 or ModernBERT."
        )
    if "input_ids" not in known or (_OTHER_INPUTS & known.keys() and config.model_type != "layoutlmv3"):
        raise ValueError(
            f"`encoder_config` must describe an encoder of texts, found '{config.model_type}', which reads "
            "something else or more; use an encoder such as BERT, RoBERTa, DeBERTa-v2 or ModernBERT."
        )


def refuse_first_token(config: PreTrainedConfig, name: str, value: str) -> None:
    """Raises `ValueError` if the first token of an encoder has seen nothing of the text.

    Args:
        config: the encoder's configuration.
        name: the setting by which the first token is to be the text's vector.
        value: its value.
    """
    if is_causal(config):
        raise ValueError(
            f"`{name}` must not be '{value}' for '{config.model_type}', whose tokens see only those before them: the "
            "first has seen nothing of the text; use 'last' or 'mean'."
        )
    refuse_one_token(config, name, value)


def refuse_one_token(config: PreTrainedConfig, name: str, value: str) -> None:
    """Raise `ValueError` if no token of an encoder has seen any other, so that none can stand for the text.

    The arguments are those of `refuse_first_token`.
    """
    if getattr(config, "context_free", False):
        raise ValueError(
            f"`{name}` must not be '{value}' for '{config.model_type}', whose words see no other words; use 'mean'."
        )


def without_pooler(config: PreTrainedConfig) -> dict[str, bool]:
    """The keyword that leaves out an encoder's pooler, empty where its class has none."""
    model_class = encoder_class(config)
    if model_class is None or "add_pooling_layer" not in inspect.signature(model_class.__init__).parameters:
        return {}
    return {"add_pooling_layer": False}


_SEES_PADDING = {
    "convbert": "its convolutions run over padding",
    "yoso": "it draws its attention by chance",
    "nystromformer": "its landmarks and convolutions run over padding",
}
"""Encoders whose answers depend on how far a text is padded, and why."""


def sees_padding(config: PreTrainedConfig) -> bool:
    """Return whether an encoder's states of a text depend on how far the text is padded."""
    return config.get_text_config().model_type in _SEES_PADDING


def warn_of_padding(config: PreTrainedConfig) -> None:
    """Warns, once, where `sees_padding`."""
    if sees_padding(config):
        logger.warning_once(
            f"What '{config.model_type}' says of a text depends on how far it is padded, as "
            f"{_SEES_PADDING[config.model_type]}: pad all texts to one length, in training and after."
        )


def adopt_encoder_config(config: Any, encoder: PreTrainedModel) -> None:
    """Makes the encoder's own configuration part of the model's: one object for both and for every layer, as a copy
    would not know which attention the encoder uses. `config` then says so too. Keys and values of attention, which are
    of use in writing texts, are not kept."""
    if hasattr(encoder.config, "use_cache"):
        encoder.config.use_cache = False
    warn_of_padding(encoder.config)
    config.encoder_config = encoder.config
    config._attn_implementation = encoder.config._attn_implementation


def freeze_word_encoder(encoder: PreTrainedModel) -> None:
    """Freeze an encoder of word embeddings unless its configuration says `train_embeddings`; leave others alone."""
    # By the method and not the class, which may be that of another copy of this code.
    freeze = getattr(encoder, "freeze_embeddings", None)
    if freeze is not None:
        freeze()


def default_vector(config: PreTrainedConfig) -> Literal["cls", "last", "mean"]:
    """Return the default vector of a text: that of the first token, of the last one for a causal encoder, or the mean
    for word embeddings, none of whose positions stands for the text."""
    if getattr(config.get_text_config(), "word_level", False):
        return "mean"
    return "last" if is_causal(config) else "cls"


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
    """Return whether an encoder numbers a text's positions from `pad_token_id + 1` on, as RoBERTa and its kin."""
    name, module = "create_position_ids_from_input_ids", encoder_module(config)
    classes = [each for each in vars(module).values() if isinstance(each, type)]
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


def text_shape(inputs: dict[str, Any]) -> torch.Size:
    """Return the shape `[B, T]` of the texts in an encoder's inputs, which are `input_ids` or `inputs_embeds`."""
    given = inputs.get("input_ids")
    return (inputs["inputs_embeds"] if given is None else given).shape[:2]


_PADS_INSIDE = ("_pad_to_block_size", "_pad_to_window_size")
"""Methods of encoders that pad texts to whole blocks: BigBird's and Longformer's."""


def length_before_padding(encoder: PreTrainedModel, inputs: dict[str, Any]) -> int | None:
    """Return the length T of the texts if the encoder pads them to whole blocks inside, so that the states of its
    layers may be longer than T; else `None`.

    Args:
        encoder: the encoder.
        inputs: its inputs by name.
    """
    return text_shape(inputs)[1] if any(hasattr(encoder, name) for name in _PADS_INSIDE) else None


def refuse_long(inputs: dict[str, Any], limit: int | None) -> None:
    """Raises `ValueError` if a batch has more tokens than an encoder has positions.

    Args:
        inputs: the encoder's inputs by name.
        limit: as `position_limit` gives it.
    """
    if limit is None or torch.compiler.is_compiling():
        return
    length = text_shape(inputs)[1]
    if length > limit:
        raise ValueError(
            f"`input_ids` must have at most {limit} tokens, the positions of the encoder, found {length}; cut texts "
            f"off: tokenizer(…, truncation=True, max_length={limit}), or pipeline(…, truncation=True, "
            f"max_length={limit})."
        )


def complete_inputs(encoder: PreTrainedModel, inputs: dict[str, Any]) -> dict[str, Any]:
    """An encoder's inputs with those that follow from them, unless they are given:

    - `position_ids` of a causal encoder count the real tokens, as most tokenizers of such pad on the left;
    - `global_attention_mask` of Longformer gives global attention to the first token, as transformers' classifiers do.

    Args:
        encoder: the encoder.
        inputs: by name; `attention_mask` is `[B, T]` or missing.
    """
    known = inspect.signature(encoder.forward).parameters
    mask = inputs.get("attention_mask")
    added = {}
    if mask is not None and "position_ids" in known and is_causal(encoder.config):
        added["position_ids"] = (mask.long().cumsum(dim=1) - 1).clamp(min=0)
    if "global_attention_mask" in known:
        shape = text_shape(inputs)
        real = torch.ones(shape, dtype=torch.long, device=encoder.device) if mask is None else mask.long()
        added["global_attention_mask"] = (real.cumsum(dim=1) == 1).long() * real
    return inputs | {name: value for name, value in added.items() if inputs.get(name) is None}
