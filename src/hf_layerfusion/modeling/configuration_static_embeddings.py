# Copyright 2026 The hf_layerfusion team
"""Configuration of static word embeddings as an encoder."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


@strict
class StaticEmbeddingsConfig(PreTrainedConfig):
    """Configuration of `StaticEmbeddingsModel`.

    Args:
        vocab_size: number of rows, padding (row 0) and unknown words (row 1) included.
        hidden_size: width H of the vectors.
        train_embeddings: whether the vectors are trained; by default they stay as they are.
        pad_token_id: row of zeros that stands at padding.
    """

    model_type = "static_embeddings"
    word_level = True
    context_free = True
    extra_inputs = ()

    vocab_size: int = 2
    hidden_size: int = 300
    num_hidden_layers: int = 1
    train_embeddings: bool = False
    pad_token_id: int | None = 0
