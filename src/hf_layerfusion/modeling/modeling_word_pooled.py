"""Any encoder of subwords as one of words, so that it can stand beside other embeddings of the same words."""

from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import logging

from .configuration_word_pooled import WordPooledConfig
from .modeling_static_embeddings import StaticEmbeddingsModel
from .word_encoders import ContextualWordEncoder, build_inner

logger = logging.get_logger(__name__)


class WordPooledModel(ContextualWordEncoder):
    """An encoder of subwords whose states are averaged over the subwords of each word, layer by layer.

    The words come as characters. Joined by blanks, they are split by the encoder's own tokenizer, which is stored with
    the weights, and each text is one sequence of the encoder, cut to the subwords that it takes. A word without
    subwords, such as a control character or one that is cut off, has vectors of zeros.

    Args:
        config: the configuration.
        encoder: a loaded encoder; built from `config.encoder_config` with random weights where it is missing.
        tokenizer: its `tokenizer.json`.
    """

    config: WordPooledConfig
    config_class = WordPooledConfig

    def __init__(
        self, config: WordPooledConfig, encoder: PreTrainedModel | None = None, tokenizer: str | None = None
    ):
        super().__init__(config)
        if encoder is None:
            encoder = build_inner(config.encoder_config or {}, (StaticEmbeddingsModel,))
        else:
            for module in encoder.modules():
                module._is_hf_initialized = True  # else `post_init` draws it anew
        self.encoder: Any = encoder
        self.words = nn.Identity()
        if tokenizer is None:
            stored = torch.zeros(config.tokenizer_size, dtype=torch.uint8)
        else:
            stored = torch.tensor(list(tokenizer.encode()), dtype=torch.uint8)
            config.tokenizer_size = len(stored)
            if config.max_pieces is not None:
                special = Tokenizer.from_str(tokenizer).num_special_tokens_to_add(False)
                config.max_words = config.max_pieces - special * config.add_special_tokens
        stored._is_hf_initialized = tokenizer is not None  # type: ignore[attr-defined]  # `post_init` then keeps it
        self.register_buffer("tokenizer_json", stored)
        self._tokenizer: Tokenizer | None = None
        config.hidden_size = self.encoder.config.hidden_size
        config.num_hidden_layers = self.encoder.config.num_hidden_layers
        self.freeze_embeddings()
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self:
            init.zeros_(self.tokenizer_json)

    def freeze_embeddings(self) -> None:
        """Switch off all gradients unless `config.train_embeddings` is set, of which static vectors are told."""
        if hasattr(self.encoder, "freeze_embeddings"):
            self.encoder.config.train_embeddings = self.config.train_embeddings
            self.encoder.freeze_embeddings()
        super().freeze_embeddings()

    @property
    def embedded_size(self) -> int:
        """Width L * H of the states of all layers side by side."""
        return int(self.config.num_hidden_layers or 0) * int(self.config.hidden_size or 0)

    @property
    def tokenizer(self) -> Tokenizer:
        """The encoder's tokenizer.

        Raises:
            ValueError: if the model was built without one.
        """
        if self._tokenizer is None:
            stored: Any = self.tokenizer_json
            try:
                self._tokenizer = Tokenizer.from_str(bytes(stored.tolist()).decode())
            except Exception as error:  # whatever tokenizers raises
                raise ValueError(
                    "the model holds no tokenizer of its encoder; make it by `import_embeddings`, or load it."
                ) from error
            self._tokenizer.no_padding()
            if self.config.max_pieces is None:
                self._tokenizer.no_truncation()
            else:
                self._tokenizer.enable_truncation(self.config.max_pieces)
        return self._tokenizer

    # Words depend on values, and tokenizers run on the CPU.
    @torch.compiler.disable
    def embed_words(self, char_ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Return the states of all layers for each word side by side, `[B, T, L * H]`."""
        texts = [
            spelled(row[:length]) for row, length in zip(char_ids.tolist(), lengths.tolist(), strict=True)
        ]
        encoded = self.tokenizer.encode_batch(
            [" ".join(words) for words in texts], add_special_tokens=self.config.add_special_tokens
        )
        if any(each.overflowing for each in encoded):
            logger.warning_once(
                f"Texts of more than {self.config.max_pieces} subwords are cut to these for "
                f"'{self.encoder.config.model_type}', and the words beyond have vectors of zeros; cut texts off "
                "earlier (--max_seq_length)."
            )
        pieces = max(1, *(len(each.ids) for each in encoded))
        device, shape = char_ids.device, (len(encoded), pieces)
        ids = torch.full(shape, int(self.encoder.config.pad_token_id or 0))
        mask = torch.zeros(shape, dtype=torch.long)
        shares = torch.zeros(len(encoded), char_ids.shape[1], pieces)
        for row, each in enumerate(encoded):
            count = len(each.ids)
            ids[row, :count] = torch.tensor(each.ids, dtype=torch.long)
            mask[row, :count] = 1
            owners: list[int | None] = []
            for word, text in enumerate(texts[row]):
                owners += [*[word] * len(text), None]
            for place, (_, end) in enumerate(each.offsets):
                # That of the last character, as some tokenizers begin a subword with the blank before it.
                owner = owners[end - 1] if end else None
                if owner is not None:
                    shares[row, owner, place] = 1
        shares = shares / shares.sum(dim=-1, keepdim=True).clamp(min=1)
        output = self.encoder(
            input_ids=ids.to(device), attention_mask=mask.to(device), output_hidden_states=True
        )
        layers = output.hidden_states[1:]
        return torch.cat([shares.to(states) @ states for states in layers], dim=-1)

    def read_words(self, embedded: torch.Tensor, lengths: torch.Tensor) -> list[torch.Tensor]:
        """Return the states of the L layers, `[B, T, H]` each."""
        return list(embedded.chunk(int(self.config.num_hidden_layers or 1), dim=-1))


def spelled(words: Sequence[Sequence[int]]) -> list[str]:
    """Return words from the code points of their characters."""
    return ["".join(chr(point) for point in word if point) for word in words]
