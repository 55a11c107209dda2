# Copyright 2026 The hf_layerfusion team
"""Configuration of an encoder of subwords whose states are pooled to words."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


@strict
class WordPooledConfig(PreTrainedConfig):
    """Configuration of `WordPooledModel`.

    Args:
        encoder_config: the encoder's configuration, as a dictionary with its `model_type`.
        tokenizer_size: bytes of the encoder's `tokenizer.json`, which is stored with the weights.
        max_pieces: subwords of a text, special ones included, that the encoder takes; `None` for any number. Those
            beyond are cut off, and words without any have vectors of zeros.
        max_words: words of a text whose subwords fit if each has one; set by a model that is given a tokenizer.
        add_special_tokens: whether a text stands between the encoder's special tokens, such as `[CLS]` and `[SEP]`.
        train_embeddings: whether the encoder is trained; by default it stays as it is.
        vocab_size: number of `input_ids`, which only tell words and padding apart.
        pad_token_id: id of padding.
    """

    model_type = "word_pooled"
    word_level = True
    extra_inputs = ("char_ids",)
    reads_ids = False

    encoder_config: dict[str, Any] | None = None
    tokenizer_size: int = 0
    max_pieces: int | None = None
    max_words: int | None = None
    add_special_tokens: bool = True
    train_embeddings: bool = False
    vocab_size: int = 2
    pad_token_id: int | None = 0
    hidden_size: int | None = None
    num_hidden_layers: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self.encoder_config = self.encoder_config or {"model_type": "static_embeddings"}
        super().__post_init__(**kwargs)
