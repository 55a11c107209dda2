# Copyright 2026 The hf_layerfusion team
"""Base configuration of all models of the package: the configuration of an encoder nested in that of the model."""

import math
from collections.abc import Mapping
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from .encoders import extra_inputs, has_decoder, max_tokens, refuse_unfit, text_part
from .own_encoders import OWN_ENCODERS  # noqa: F401  registers them

# Limits above any useful value, so that the settings of a broken file are refused before they take memory.
LARGEST_SIZE = 65_536
LARGEST_DEPTH = 1_000
LARGEST_COUNT = 2**24
PROBLEM_TYPES = (None, "single_label_classification", "multi_label_classification", "regression")


def check_size(config: PreTrainedConfig, *names: str, least: int = 1) -> None:
    """Raise `ValueError` unless each named field of `config` lies between `least` and `LARGEST_SIZE`."""
    for name in names:
        value = getattr(config, name)
        if not least <= value <= LARGEST_SIZE:
            raise ValueError(
                f"`{name}` must lie between {least} and {LARGEST_SIZE}, found {value}; choose a number there"
                f"{'' if least else ', 0 leaves it out'}."
            )


def refuse_extremes(settings: Mapping[str, Any], where: str) -> None:
    """Raise `ValueError` if a number in the settings of an encoder is out of bounds.

    This runs before the encoder's own configuration class creates lists of that length (label names, layer types), a
    model of that size, or a model that outputs NaN.

    Args:
        settings: Settings as in `config.json`; nested configurations are checked too.
        where: Name of the settings in error messages.
    """
    for name, value in settings.items():
        if isinstance(value, Mapping) and name.endswith(("_config", "rope_parameters", "rope_scaling")):
            refuse_extremes(value, f"{where}.{name}")
        elif isinstance(value, float):
            refuse_unreal(value, f"{where}.{name}")
        elif name == "num_labels":
            check_num_labels(value, f"{where}.{name}")
        elif isinstance(value, int):
            refuse_unreal(value, f"{where}.{name}")
            counts_layers = any(part in name for part in ("layers", "groups", "blocks"))
            largest = LARGEST_DEPTH if counts_layers else LARGEST_COUNT
            if value > largest or (value < 0 and (name.startswith("num_") or name.endswith("_size"))):
                raise ValueError(
                    f"`{where}.{name}` must lie between 0 and {largest}, found {value}; take it from the encoder's own "
                    "configuration."
                )


# Bounds of the real numbers in an encoder's settings, by the suffix of their names.
_REAL_NUMBERS = {
    ("_eps", "_epsilon"): ("finite and more than 0", lambda value: 0 < value < math.inf),
    ("dropout", "dropout_prob", "_pdrop", "layerdrop"): ("in [0, 1]", lambda value: 0 <= value <= 1),
    ("_std", "_range", "_theta", "_factor"): ("finite and 0 or more", lambda value: 0 <= value < math.inf),
}


def refuse_unreal(value: float, name: str) -> None:
    """Raise `ValueError` if a number in an encoder's settings is not finite or outside the bounds of its kind."""
    for ends, (bounds, is_within) in _REAL_NUMBERS.items():
        if name.endswith(ends) and not is_within(value):
            raise ValueError(
                f"`{name}` must be {bounds}, found {value}; take it from the encoder's own configuration."
            )
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(
            f"`{name}` must be finite, found {value}; take it from the encoder's own configuration."
        )


def check_num_labels(value: Any, name: str) -> None:
    """Raise `ValueError` unless `value` is a valid number of labels."""
    if type(value) is not int or not 1 <= value <= LARGEST_SIZE:
        raise ValueError(
            f"`{name}` must be a whole number between 1 and {LARGEST_SIZE}, found {value!r}; give the number of labels."
        )


def check_windows(config: Any) -> None:
    """Raise `ValueError` unless the windows of long texts fit the encoder and each other."""
    if config.window_size is None:
        return
    encoder, affixes = config.get_text_config(), config.window_affixes
    if len(affixes) != 2 or min(affixes) < 0:
        raise ValueError(
            f"`window_affixes` must be the numbers of special tokens before and after a text, found {affixes}; "
            "[1, 1] are those of BERT."
        )
    most = max_tokens(encoder) or LARGEST_COUNT
    least = sum(affixes) + 1
    if not least <= config.window_size <= most:
        raise ValueError(
            f"`window_size` must lie between {least} and {most}, the positions of '{encoder.model_type}', found "
            f"{config.window_size}; None reads no windows."
        )
    room = config.window_size - sum(affixes)
    if not 0 <= config.window_overlap < room:
        raise ValueError(
            f"`window_overlap` must lie between 0 and {room - 1}, below the tokens of a window, found "
            f"{config.window_overlap}; try {room // 8}."
        )
    if getattr(encoder, "word_level", False):
        raise ValueError(
            f"`window_size` must be None for '{encoder.model_type}', an encoder of words, which reads texts whole; "
            "leave it out."
        )


def check_probability(config: PreTrainedConfig, *names: str) -> None:
    """Raise `ValueError` unless each named field of `config` lies in [0, 1); NaN does not."""
    for name in names:
        value = getattr(config, name)
        if not 0 <= value < 1:
            raise ValueError(f"`{name}` must lie in [0, 1), found {value}; 0 switches it off.")


@strict
class LayerFusionConfig(PreTrainedConfig):
    """Base class of the configurations of this package.

    Args:
        encoder_config: Configuration of an encoder of any architecture in transformers; BERT-base by default.
        normalize_layers: Whether the states of all layers go through the encoder's final normalization before they are
            fused, as the last layer's do in the encoder itself. `"auto"`, the default, becomes `True` when a model is
            built around an encoder that has one (pre-norm encoders such as ModernBERT and all decoders), `False`
            otherwise. Configurations saved without this field are of models that do not normalize.
        final_norm: Name of that normalization among the encoder's modules, such as `"norm"`; found when the model is
            built.
        initializer_range: Standard deviation of initial weights where a module's own rule does not apply.

    Raises:
        ValueError: If the encoder does not fit (see `refuse_unfit`), if its depth, width or number of heads is missing
            or out of bounds, or if `num_labels`, `problem_type`, `normalize_layers` or `initializer_range` is invalid.
    """

    sub_configs_defaults = {"encoder_config": SubConfigSpec(config_class=AutoConfig, model_type="bert")}

    encoder_config: dict[str, Any] | PreTrainedConfig | None = None
    initializer_range: float | int = 0.02
    normalize_layers: bool | str = "auto"
    final_norm: str | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        # transformers creates a name for every label in `num_labels`, and an encoder every layer: check before.
        if "num_labels" in kwargs:
            check_num_labels(kwargs["num_labels"], "num_labels")
        if self.id2label is not None and not isinstance(self.id2label, dict):
            raise ValueError(
                f'`id2label` must be an object of names by number, found {self.id2label!r}; write {{"0": "no", …}}.'
            )
        if isinstance(self.encoder_config, dict):
            refuse_extremes(self.encoder_config, "encoder_config")
        labels: Any = self
        if labels.id2label is None and labels.label2id and "num_labels" not in kwargs:
            labels.id2label = {number: name for name, number in labels.label2id.items()}
        super().__post_init__(**kwargs)
        if isinstance(self.encoder_config, PreTrainedConfig) and not isinstance(
            self.encoder_config, LayerFusionConfig
        ):
            self.encoder_config = text_part(self.encoder_config)
        if sorted(self.id2label or ()) != list(range(self.num_labels)):
            raise ValueError(
                f"`id2label` must number its names from 0, found {sorted(self.id2label or ())[:10]}; renumber them."
            )
        if not labels.label2id:
            labels.label2id = {name: number for number, name in labels.id2label.items()}
        self.check()

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Return the configuration of a saved file; one without `normalize_layers` is of a model that does not
        normalize.
        """
        return super().from_dict({"normalize_layers": False, **config_dict}, **kwargs)

    def to_diff_dict(self) -> dict[str, Any]:
        """Return the settings that differ from the defaults, and `normalize_layers` in any case (see `from_dict`)."""
        return {**super().to_diff_dict(), "normalize_layers": self.normalize_layers}

    @property
    def num_hidden_layers(self) -> int:
        """Depth L of the encoder: its number of transformer layers."""
        return self.get_text_config().num_hidden_layers

    @property
    def hidden_size(self) -> int:
        """Width H of the encoder's hidden states."""
        return self.get_text_config().hidden_size

    @property
    def extra_inputs(self) -> tuple[str, ...]:
        """Names of the encoder's inputs other than ids, masks and token types, such as `char_ids` for ELMo."""
        return extra_inputs(self.get_text_config())

    def get_text_config(self, *args: Any, **kwargs: Any) -> Any:
        """Return the configuration of the encoder, which owns the vocabulary."""
        return self.encoder_config

    def check(self) -> None:
        """Raise `ValueError` if a value of the right type is invalid.

        This is not a `validate_…` method, because transformers wraps the errors of those in a two-line error that is no
        `ValueError`.
        """
        check_size(self, "num_labels")
        if not (math.isfinite(self.initializer_range) and self.initializer_range >= 0):
            raise ValueError(
                f"`initializer_range` must be 0 or more, found {self.initializer_range}; try 0.02."
            )
        if self.problem_type not in PROBLEM_TYPES:
            raise ValueError(
                f"`problem_type` must be one of {PROBLEM_TYPES}, found {self.problem_type!r}; None goes by the labels."
            )
        if self.normalize_layers not in ("auto", True, False):
            raise ValueError(
                f"`normalize_layers` must be 'auto', True or False, found {self.normalize_layers!r}; the default is "
                "'auto'."
            )
        encoder = self.get_text_config()
        refuse_extremes(vars(encoder), "encoder_config")
        if getattr(encoder, "is_encoder_decoder", False) and not has_decoder(encoder):
            raise ValueError(
                f"`encoder_config` must describe an encoder, found the encoder-decoder '{encoder.model_type}', whose "
                "class AutoModel does not know; use an encoder such as BERT, RoBERTa, DeBERTa-v2 or ModernBERT."
            )
        if isinstance(encoder, LayerFusionConfig):
            raise ValueError(
                f"`encoder_config` must describe an encoder, found the model '{encoder.model_type}' around one; name "
                "the encoder, or load the model by its own class."
            )
        refuse_unfit(encoder)
        limits = {
            "num_hidden_layers": LARGEST_DEPTH,
            "hidden_size": LARGEST_SIZE,
        }
        if not getattr(encoder, "word_level", False):  # word embeddings have no attention
            limits["num_attention_heads"] = LARGEST_SIZE
        for name, largest in limits.items():
            value = getattr(encoder, name, None)
            if not isinstance(value, int) or not 1 <= value <= largest:
                raise ValueError(
                    f"`encoder_config.{name}` must lie between 1 and {largest}, found {value} in the configuration of "
                    f"'{encoder.model_type}'; use an encoder whose layers return hidden states."
                )
