# Copyright 2026 The hf_layerfusion team
"""Configuration of ELMo as an encoder."""

from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


@strict
class ElmoConfig(PreTrainedConfig):
    """Configuration of `ElmoModel` (Peters et al. 2018). The defaults are those of the original model.

    Args:
        char_embedding_size: width of the characters' vectors.
        filters: width and number of each kind of convolution over a word's characters.
        num_highway: number of highway layers over the convolutions.
        activation: between the two.
        max_characters: bytes of a word, with its two ends; longer words are cut off.
        lstm_size: width of the LSTMs' cells.
        projection_size: width p of a direction's states; H is 2p.
        num_lstm_layers: number of LSTM layers a direction; L is one more, the layer of the words by themselves.
        cell_clip: bound of a cell's values; `None` leaves it out.
        projection_clip: bound of a state's values; `None` leaves it out.
        use_skip_connections: adds its input to the output of each LSTM layer but the first.
        train_embeddings: whether the encoder is trained; by default it stays as it is.
        vocab_size: number of `input_ids`, which only tell words and padding apart.
        pad_token_id: id of padding.
    """

    model_type = "elmo"
    word_level = True
    extra_inputs = ("char_ids",)
    reads_ids = False

    char_embedding_size: int = 16
    filters: list[Any] | None = None
    num_highway: int = 2
    activation: Literal["relu", "tanh"] = "relu"
    max_characters: int = 50
    lstm_size: int = 4096
    projection_size: int = 512
    num_lstm_layers: int = 2
    cell_clip: float | int | None = 3.0
    projection_clip: float | int | None = 3.0
    use_skip_connections: bool = True
    train_embeddings: bool = False
    vocab_size: int = 2
    pad_token_id: int | None = 0
    hidden_size: int | None = None
    num_hidden_layers: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if self.filters is None:
            self.filters = [[1, 32], [2, 32], [3, 64], [4, 128], [5, 256], [6, 512], [7, 1024]]
        self.hidden_size = 2 * self.projection_size
        self.num_hidden_layers = 1 + self.num_lstm_layers
        super().__post_init__(**kwargs)
