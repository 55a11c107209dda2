# Copyright 2026 The hf_layerfusion team
"""Configuration of Flair's embeddings as an encoder."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


@strict
class FlairConfig(PreTrainedConfig):
    """Configuration of `FlairModel`.

    Args:
        characters: the dictionary: the item of each row of the characters' tables. Row 0 is that of unknown characters.
        char_embedding_sizes: width of the characters' vectors, of the forward and of the backward model.
        lstm_sizes: width of their states; H is the sum.
        num_lstm_layers: number of LSTM layers a direction, of which the last one's states are put out, so that L = 1.
        lstm_dropout: dropout on characters' vectors and states, where the encoder is trained.
        train_embeddings: whether the encoder is trained; by default it stays as it is.
        vocab_size: number of `input_ids`, which only tell words and padding apart.
        pad_token_id: id of padding.
    """

    model_type = "flair"
    word_level = True
    extra_inputs = ("char_ids",)
    reads_ids = False

    characters: list[str] | None = None
    char_embedding_sizes: list[int] | None = None
    lstm_sizes: list[int] | None = None
    num_lstm_layers: int = 1
    lstm_dropout: float | int = 0.0
    train_embeddings: bool = False
    vocab_size: int = 2
    pad_token_id: int | None = 0
    hidden_size: int | None = None
    num_hidden_layers: int = 1

    def __post_init__(self, **kwargs: Any) -> None:
        if self.characters is None:
            self.characters = ["<unk>", " ", "\n", *map(chr, range(33, 127))]
        self.char_embedding_sizes = self.char_embedding_sizes or [100, 100]
        self.lstm_sizes = self.lstm_sizes or [2048, 2048]
        self.hidden_size = sum(self.lstm_sizes)
        super().__post_init__(**kwargs)
