"""Registration of the package's own encoders with the Auto classes.

Imported by the configuration of every model, so that a checkpoint around such an encoder opens where the package is not
installed. A registered type is not replaced: the installed package takes precedence over the code of a checkpoint.
"""

from typing import Any

from transformers import AutoConfig, AutoModel, AutoTokenizer
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from .modeling_embedding_stack import MEMBERS, EmbeddingStackModel
from .tokenization_words import WordTokenizer

OWN_ENCODERS: dict[Any, Any] = {model.config_class: model for model in (*MEMBERS, EmbeddingStackModel)}
"""Model classes by configuration class."""


def register_encoders() -> None:
    """Make the Auto classes know the encoders, here and through the code that is saved with a checkpoint."""
    for config, model in OWN_ENCODERS.items():
        config.register_for_auto_class()
        model.register_for_auto_class("AutoModel")
        if config.model_type not in CONFIG_MAPPING:
            AutoConfig.register(config.model_type, config)
            AutoModel.register(config, model)
            if config.extra_inputs:
                AutoTokenizer.register(config, tokenizer_class=WordTokenizer)
    WordTokenizer.register_for_auto_class()


register_encoders()
