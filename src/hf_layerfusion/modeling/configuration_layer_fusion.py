# Copyright 2026 The hf_layerfusion team
"""What the configurations of all models of the package share: an encoder's configuration inside their own."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec


def positive(config: PreTrainedConfig, *names: str) -> None:
    """Raises `ValueError` unless each named field of `config` is at least 1."""
    for name in names:
        value = getattr(config, name)
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1, found {value}; set it to a positive number.")


def probability(config: PreTrainedConfig, *names: str) -> None:
    """Raises `ValueError` unless each named field of `config` lies in [0, 1); NaN does not."""
    for name in names:
        value = getattr(config, name)
        if not 0 <= value < 1:
            raise ValueError(f"`{name}` must lie in [0, 1), found {value}; 0 switches it off.")


@strict
class LayerFusionConfig(PreTrainedConfig):
    """Base of the package's configurations: holds `encoder_config`, the configuration of an encoder of any
    architecture that transformers knows (default: BERT-base's).

    Raises:
        ValueError: if the encoder is an encoder-decoder, or says no depth or width of at least 1.
    """

    sub_configs_defaults = {"encoder_config": SubConfigSpec(config_class=AutoConfig, model_type="bert")}

    encoder_config: dict[str, Any] | PreTrainedConfig | None = None
    initializer_range: float | int = 0.02

    @property
    def num_hidden_layers(self) -> int:
        """Depth L of the encoder: the number of its transformer layers."""
        return self.get_text_config().num_hidden_layers

    @property
    def hidden_size(self) -> int:
        """Width H of the encoder's hidden states."""
        return self.get_text_config().hidden_size

    def get_text_config(self, *args: Any, **kwargs: Any) -> Any:
        """The encoder's configuration: it owns the vocabulary."""
        return self.encoder_config

    def validate_encoder_config(self) -> None:
        encoder = self.get_text_config()
        if getattr(encoder, "is_encoder_decoder", False):
            raise ValueError(
                f"`encoder_config` must describe an encoder, found the encoder-decoder '{encoder.model_type}'; "
                "use an encoder such as BERT, RoBERTa, DeBERTa-v2 or ModernBERT."
            )
        for name in ("num_hidden_layers", "hidden_size"):
            value = getattr(encoder, name, None)
            if not isinstance(value, int) or value < 1:
                raise ValueError(
                    f"`encoder_config.{name}` must be a positive number, found {value} in the configuration of "
                    f"'{encoder.model_type}'; fusion needs an encoder whose layers put out hidden states."
                )
