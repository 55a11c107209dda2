"""Properties of encoders of any architecture that their configurations do not state."""

import inspect
import os
import sys
from typing import Any, Literal

import torch
from torch import nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_MAPPING,
)
from transformers.utils import logging

logger = logging.get_logger(__name__)

# Architectures trained to generate text that nevertheless attend to the whole text.
_BIDIRECTIONAL = ("bert-generation", "cpmant", "xlnet")
# Decoders that neither the list of causal language models nor the masks of their module tell.
_CAUSAL = ("imagegpt", "molmo2_text")


def is_causal(config: PreTrainedConfig) -> bool:
    """Return whether the tokens of an encoder attend only to earlier tokens, so that the first sees nothing of the
    text.

    Args:
        config: Configuration of an encoder, or of a model around one. `is_causal=False` and
            `use_bidirectional_attention` turn a decoder into a bidirectional encoder; `is_decoder=True` does the
            reverse.
    """
    config = config.get_text_config()
    if getattr(config, "is_causal", None) is False or has_decoder(config):
        return False
    if getattr(config, "use_bidirectional_attention", None) in (True, "all"):
        return False
    if config.model_type in _BIDIRECTIONAL or config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        return bool(getattr(config, "is_decoder", False))
    if config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or config.model_type in _CAUSAL:
        return True
    # For the text part of a larger model, look at which masks its module creates.
    masks = vars(encoder_module(config))
    return "create_causal_mask" in masks and "create_bidirectional_mask" not in masks


def encoder_class(config: PreTrainedConfig) -> Any:
    """Return the class that `AutoModel` uses for a configuration.

    It is `None` for remote code, which is unknown before it is loaded, and for a few architectures without such a
    class.
    """
    try:
        found = MODEL_MAPPING.get(type(config), None)
    except (ImportError, ValueError):
        return None
    return found[0] if isinstance(found, tuple) else found


def encoder_module(config: PreTrainedConfig) -> Any:
    """Return the module of `encoder_class`, or this module if there is no such class."""
    return sys.modules[getattr(encoder_class(config), "__module__", __name__)]


def forward_inputs(config: PreTrainedConfig) -> set[str]:
    """Return the names of the inputs of `encoder_class`; only `input_ids` where there is no such class."""
    model_class = encoder_class(config)
    return {"input_ids"} if model_class is None else set(inspect.signature(model_class.forward).parameters)


def has_decoder(config: PreTrainedConfig) -> bool:
    """Return whether `AutoModel` opens an encoder-decoder such as T5 or BART, of which the encoder alone is used."""
    return "decoder_input_ids" in forward_inputs(config)


def text_part(config: PreTrainedConfig) -> PreTrainedConfig:
    """Return the configuration of the part of a model that reads texts, such as Gemma 3's; the configuration itself if
    the model reads nothing else.
    """
    part = config.get_text_config()
    if part is config or encoder_class(part) is None or not _OTHER_INPUTS & forward_inputs(config):
        return config
    return part


def encoder_of(whole: PreTrainedModel) -> PreTrainedModel:
    """Return the part of a model that encodes texts: the encoder of an encoder-decoder, the text part of a model of
    texts and images, the model itself otherwise.

    Raises:
        ValueError: If the model does not hold that part as a module of its own.
    """
    config: Any = whole.config
    if not has_decoder(config) and text_part(config) is config:
        return whole
    if has_decoder(config):
        part: Any = whole.get_encoder()
    else:
        text_class = encoder_class(text_part(config))
        part = next((each for each in whole.modules() if type(each) is text_class), whole)
    is_part = isinstance(part, PreTrainedModel) and part is not whole
    if not is_part or "input_ids" not in inspect.signature(part.forward).parameters:
        raise ValueError(
            f"`encoder_config` must describe a model with an encoder of texts, found '{config.model_type}', whose "
            "encoder cannot be taken out of it; use an encoder such as BERT, RoBERTa, DeBERTa-v2 or ModernBERT."
        )
    return part


def build_encoder(config: PreTrainedConfig) -> PreTrainedModel:
    """Return an encoder with random weights, without its pooler.

    Args:
        config: Configuration of the encoder, or of an encoder-decoder, whose encoder is returned.
    """
    return encoder_of(AutoModel.from_config(config, **without_pooler(config)))


def missing_in_part(missing: list[str], whole: PreTrainedModel, part: PreTrainedModel) -> list[str]:
    """Return those of a model's missing weights that belong to its part."""
    if part is whole:
        return missing
    names = dict([*whole.named_parameters(remove_duplicate=False), *whole.named_buffers()])
    own = {id(value) for value in (*part.parameters(), *part.buffers())}
    return [name for name in missing if id(names.get(name)) in own]


_OTHER_INPUTS = {"pixel_values", "pixel_values_videos", "input_features", "input_values"}

_UNFIT = {
    "bros": ("needs the position of each word on its page", "use BERT, on which it is based"),
    "canine": (
        "returns states of characters and of groups of them",
        "use a multilingual encoder such as XLM-RoBERTa",
    ),
    "cpmant": (
        "returns states of prompts in addition to those of the text",
        "use another decoder such as Qwen3",
    ),
    "deepseek_v4": ("returns several states of each token", "use another decoder such as Qwen3"),
    "dpr": ("returns only a vector of the text", "use BERT, on which it is based"),
    "falcon_h1": (
        "loses the scales of its states when loaded from a file",
        "use another decoder such as Qwen3",
    ),
    "fnet": ("takes no attention mask, so that it treats padding as text", "use BERT"),
    "higgs_audio_v2": (
        "returns logits of speech",
        "use the Llama model on which it is based",
    ),
    "hy_v4": ("returns several states of each token", "use another decoder such as Qwen3"),
    "longcat_flash": (
        "counts two layers for each whose states it returns",
        "use another decoder such as Qwen3",
    ),
    "mra": (
        "attends to single blocks of a text, and on the CPU only to a token's own",
        "use Longformer or BigBird",
    ),
    "pegasus_x": (
        "returns states of global tokens in addition to those of the text",
        "use Longformer or BigBird for long texts",
    ),
    "reformer": ("returns the states of two residual streams", "use Longformer or BigBird for long texts"),
    "sam3_lite_text_text_model": ("returns the states of some of its layers only", "use CLIP's text model"),
}
"""Reason and alternative for each encoder that cannot be used inside a model."""


def refuse_unfit(config: PreTrainedConfig) -> None:
    """Raise `ValueError` if an encoder does not read texts, or has outputs that the package cannot use.

    Args:
        config: Configuration of the encoder.
    """
    config = text_part(config)
    if config.model_type in _UNFIT:
        reason, way_out = _UNFIT[config.model_type]
        raise ValueError(
            f"`encoder_config` must describe an encoder that returns its tokens' states, found '{config.model_type}', "
            f"which {reason}; {way_out}."
        )
    if config.model_type == "xmod" and config.default_language is None:
        raise ValueError(
            "`encoder_config.default_language` must be given for 'xmod', which has layers for each language, found "
            'None; use from_pretrained(…, encoder_config={"default_language": "en_XX"}).'
        )
    refuse_other_inputs(config)


def refuse_other_inputs(config: PreTrainedConfig) -> None:
    """Raise `ValueError` if a model reads no texts, or images or speech in addition.

    Args:
        config: Configuration of the model.
    """
    known = forward_inputs(config)
    if "input_ids" not in known or (_OTHER_INPUTS & known and config.model_type != "layoutlmv3"):
        raise ValueError(
            f"`encoder_config` must describe an encoder of texts, found '{config.model_type}', which reads "
            "something else or more; use an encoder such as BERT, RoBERTa, DeBERTa-v2 or ModernBERT."
        )


def refuse_first_token(config: PreTrainedConfig, name: str, value: str) -> None:
    """Raise `ValueError` if the first token of an encoder sees nothing of the text.

    Args:
        config: Configuration of the encoder.
        name: Setting that selects the first token as the vector of the text.
        value: Value of the setting.
    """
    if is_causal(config):
        raise ValueError(
            f"`{name}` must not be '{value}' for '{config.model_type}', whose tokens see only those before them: the "
            "first has seen nothing of the text; use 'last' or 'mean'."
        )
    refuse_one_token(config, name, value)


def refuse_one_token(config: PreTrainedConfig, name: str, value: str) -> None:
    """Raise `ValueError` if the tokens of an encoder do not attend to each other, so that no single one represents the
    text.

    The arguments are those of `refuse_first_token`.
    """
    if getattr(config, "context_free", False):
        raise ValueError(
            f"`{name}` must not be '{value}' for '{config.model_type}', whose words see no other words; use 'mean'."
        )


def without_pooler(config: PreTrainedConfig) -> dict[str, bool]:
    """Return the keyword argument that omits an encoder's pooler, or an empty dict if its class has none."""
    model_class = encoder_class(config)
    if model_class is None or "add_pooling_layer" not in inspect.signature(model_class.__init__).parameters:
        return {}
    return {"add_pooling_layer": False}


_SEES_PADDING = {
    "convbert": "its convolutions run over padding",
    "yoso": "it draws its attention by chance",
    "mobilebert": "each of its tokens reads the embeddings of its neighbours, padding too",
    "nystromformer": "its landmarks and convolutions run over padding",
}
"""Reason for each encoder whose states depend on the length to which texts are padded."""


def sees_padding(config: PreTrainedConfig) -> bool:
    """Return whether an encoder's states depend on the length to which texts are padded."""
    return config.get_text_config().model_type in _SEES_PADDING


def warn_of_padding(config: PreTrainedConfig) -> None:
    """Warn once if `sees_padding` is true."""
    if sees_padding(config):
        logger.warning_once(
            f"The output of '{config.model_type}' for a text depends on how far it is padded, because "
            f"{_SEES_PADDING[config.model_type]}: pad all texts to one length, in training and at inference."
        )


def adopt_encoder_config(config: Any, encoder: PreTrainedModel) -> None:
    """Make the encoder's configuration object part of the model's configuration.

    The model, the encoder and every layer share one object, because a copy would not know which attention
    implementation the encoder uses. Caching of keys and values, which only text generation needs, is switched off.
    """
    if hasattr(encoder.config, "use_cache"):
        encoder.config.use_cache = False
    warn_of_padding(encoder.config)
    config.encoder_config = encoder.config
    config._attn_implementation = encoder.config._attn_implementation


def find_final_norm(encoder: PreTrainedModel) -> str | None:
    """Return the name of the normalization that an encoder applies after its last layer, or `None`.

    It is found by measuring: a normalization outside the list of layers whose output, value for value, is the encoder's
    own. Pre-norm encoders such as ModernBERT, and all decoders, have one; BERT and other post-norm encoders, whose
    layers each end in a normalization, do not.

    Args:
        encoder: Encoder with weights; it is run on one short text.

    Raises:
        ValueError: If the encoder cannot be run.
    """
    in_layers = {
        id(inner) for each in encoder.modules() if isinstance(each, nn.ModuleList) for inner in each.modules()
    }
    norms = {
        name: module
        for name, module in encoder.named_modules()
        if "norm" in type(module).__name__.lower()
        and id(module) not in in_layers
        and "embeddings" not in name.split(".")
    }
    if not norms or getattr(encoder.config, "word_level", False):
        return None
    found: dict[str, torch.Tensor] = {}

    def keep(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if len(args) == 1 and not kwargs and isinstance(output, torch.Tensor):
            found[name] = output

    hooks = [
        module.register_forward_hook(
            lambda _, args, kwargs, output, name=name: keep(name, args, kwargs, output), with_kwargs=True
        )
        for name, module in norms.items()
    ]
    modes = {module: module.training for module in encoder.modules()}
    attention_type = getattr(encoder, "attention_type", None)
    encoder.eval()
    ids = torch.full((1, 8), 2, device=encoder.device)
    try:
        on_gpu = [encoder.device] if encoder.device.type == "cuda" else []
        with torch.no_grad(), torch.random.fork_rng(devices=on_gpu):
            last = encoder(
                **complete_inputs(encoder, {"input_ids": ids, "attention_mask": torch.ones_like(ids)})
            )[0]
            if (
                getattr(encoder, "attention_type", None) != attention_type
            ):  # BigBird changes it for short texts
                encoder.set_attention_type(attention_type)
    except Exception as error:
        raise ValueError(
            f"`normalize_layers` must be False for '{encoder.config.model_type}', which cannot be run on a short text "
            f"to find its final normalization ({type(error).__name__}: {' '.join(str(error).split())[:120]}); set it."
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes.items():
            module.training = training
    alike = [
        name
        for name, output in found.items()
        if output.numel() == last.numel()
        and output.dtype == last.dtype
        # NaN too, as that of half precision that overflows, is the output of the same normalization.
        and torch.allclose(output.flatten(), last.flatten(), rtol=0, atol=0, equal_nan=True)
    ]
    return alike[-1] if alike else None


def choose_normalization(config: Any, encoder: PreTrainedModel) -> None:
    """Set `normalize_layers` and `final_norm` of a model's configuration unless they are set.

    They stay open for an encoder without weights (on the meta device).

    Args:
        config: Configuration of the model.
        encoder: Its encoder.

    Raises:
        ValueError: If `normalize_layers=True` is asked for and the encoder has no final normalization, or if the
            encoder has no module `final_norm`.
    """
    if config.final_norm is not None and config.normalize_layers is True:
        if config.final_norm not in dict(encoder.named_modules()):
            raise ValueError(
                f"`final_norm` must name a module of the encoder '{encoder.config.model_type}', found "
                f"{config.final_norm!r}; leave it out to have it found."
            )
        return
    if config.normalize_layers is False or encoder.device.type == "meta":
        return
    found = find_final_norm(encoder)
    if found is None and config.normalize_layers is True:
        raise ValueError(
            f"`normalize_layers` must be False for '{encoder.config.model_type}', which has no normalization after its "
            "last layer; leave it out."
        )
    config.normalize_layers, config.final_norm = found is not None, found


def final_norm(config: Any, encoder: PreTrainedModel) -> nn.Module | None:
    """Return the encoder's final normalization if the model applies it to all layers, otherwise `None`.

    A model that was built on the meta device, and given its weights later, decides here.
    """
    if config.normalize_layers == "auto":
        choose_normalization(config, encoder)
    return encoder.get_submodule(config.final_norm) if config.normalize_layers is True else None


def extra_inputs(config: PreTrainedConfig) -> tuple[str, ...]:
    """Return the names of an encoder's inputs other than `input_ids`, `attention_mask` and `token_type_ids`.

    An encoder's configuration class declares them as `extra_inputs`. Each is `[B, T, W]`, a row of numbers for each
    token, 0 at padding, and must be among the `model_input_names` of the tokenizer, whose `pad` pads it.
    """
    return tuple(getattr(config, "extra_inputs", ()))


def freeze_word_encoder(encoder: PreTrainedModel) -> None:
    """Freeze an encoder of word embeddings unless its configuration says `train_embeddings`; leave others alone."""
    # By the method and not the class, which may be that of another copy of this code.
    freeze = getattr(encoder, "freeze_embeddings", None)
    if freeze is not None:
        freeze()


def default_vector(config: PreTrainedConfig) -> Literal["cls", "last", "mean"]:
    """Return the default vector of a text: the first token, the last one for a causal encoder, or the mean for word
    embeddings.
    """
    if getattr(config.get_text_config(), "word_level", False):
        return "mean"
    return "last" if is_causal(config) else "cls"


def refuse_missing(missing: list[str], name_or_path: str | os.PathLike[str], model_type: str) -> None:
    """Raise `ValueError` if a checkpoint lacks weights of the encoder."""
    if missing:
        raise ValueError(
            f"the checkpoint '{name_or_path}' must hold every weight of its encoder, found none for {len(missing)} "
            f"({', '.join(sorted(missing)[:3])}…), which would stay random; check that its keys are those of a "
            f"'{model_type}' encoder."
        )


def max_tokens(config: PreTrainedConfig) -> int | None:
    """Return the maximum number of tokens of a text, including special tokens: 512 for BERT and RoBERTa, and 510 words
    for these as encoders of words, which `max_words` of their configuration states.

    Args:
        config: Configuration of an encoder, or of a model around one.

    Returns:
        The number, or `None` if the configuration states no limit, or the model reads longer texts in windows.
    """
    if getattr(config, "window_size", None) is not None:
        return None
    config = config.get_text_config()
    if getattr(config, "word_level", False):
        words: int | None = getattr(config, "max_words", None)
        return words
    positions = getattr(config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions <= 0:
        return None
    if counts_from_padding(config):
        # MPNet's code uses padding id 1, whatever the configuration says.
        padding = 1 if config.model_type == "mpnet" else config.pad_token_id or 0
        positions -= padding + 1
    return positions


def counts_from_padding(config: PreTrainedConfig) -> bool:
    """Return whether an encoder numbers positions from `pad_token_id + 1`, as RoBERTa and its relatives do."""
    name, module = "create_position_ids_from_input_ids", encoder_module(config)
    classes = [each for each in vars(module).values() if isinstance(each, type)]
    return any(hasattr(each, name) for each in (module, *classes))


def position_limit(encoder: PreTrainedModel) -> int | None:
    """Return `max_tokens` of an encoder with a table of position embeddings, beyond which it fails, and of an encoder
    of words; otherwise `None`.
    """
    if getattr(encoder.config, "word_level", False):
        return max_tokens(encoder.config)
    positions = getattr(encoder.config.get_text_config(), "max_position_embeddings", None)
    for name, module in encoder.named_modules():
        leaf = name.rpartition(".")[2]
        is_table = isinstance(module, nn.Embedding) and ("position" in leaf or leaf == "wpe")
        # Some tables have two rows before the first position.
        if is_table and positions and module.num_embeddings in (positions, positions + 2):
            return max_tokens(encoder.config)
    return None


def text_shape(inputs: dict[str, Any]) -> torch.Size:
    """Return the shape `[B, T]` of the texts in an encoder's inputs, given as `input_ids` or `inputs_embeds`."""
    given = inputs.get("input_ids")
    return (inputs["inputs_embeds"] if given is None else given).shape[:2]


_PADS_INSIDE = ("_pad_to_block_size", "_pad_to_window_size")
"""Methods of encoders that pad texts to whole blocks (BigBird and Longformer)."""


def length_before_padding(encoder: PreTrainedModel, inputs: dict[str, Any]) -> int | None:
    """Return the length T of the texts if the encoder pads them to whole blocks internally; otherwise `None`.

    The states of such an encoder's layers may be longer than T.

    Args:
        encoder: The encoder.
        inputs: Its inputs by name.
    """
    return text_shape(inputs)[1] if any(hasattr(encoder, name) for name in _PADS_INSIDE) else None


def refuse_long(inputs: dict[str, Any], limit: int | None, config: PreTrainedConfig) -> None:
    """Raise `ValueError` if a batch has more tokens than an encoder has positions.

    Args:
        inputs: Inputs of the encoder by name.
        limit: Limit returned by `position_limit`.
        config: Configuration of the encoder.
    """
    if limit is None or torch.compiler.is_compiling():
        return
    length = text_shape(inputs)[1]
    if length > limit:
        windows = f"; or have a classifier read windows: from_pretrained(…, window_size={limit})"
        raise ValueError(
            f"`input_ids` must have at most {limit} tokens, the positions of the encoder, found {length}; cut texts "
            f"off: tokenizer(…, truncation=True, max_length={limit}), or pipeline(…, truncation=True, "
            f"max_length={limit}){'' if getattr(config, 'word_level', False) else windows}."
        )


def complete_inputs(encoder: PreTrainedModel, inputs: dict[str, Any]) -> dict[str, Any]:
    """Return an encoder's inputs, completed with those that can be derived and are not given.

    - `position_ids` of a causal encoder count the real tokens, because most tokenizers of such encoders pad on the
      left.
    - `global_attention_mask` of Longformer selects the first token, as transformers' classifiers do.

    Args:
        encoder: The encoder.
        inputs: Inputs by name; `attention_mask` is `[B, T]` or missing.
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
