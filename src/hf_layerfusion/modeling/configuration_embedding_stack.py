# Copyright 2026 The hf_layerfusion team
"""Configuration of several word embeddings side by side."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


@strict
class EmbeddingStackConfig(PreTrainedConfig):
    """Configuration of `EmbeddingStackModel`.

    Args:
        members: the configurations of the members, as dictionaries with their `model_type`.
        train_embeddings: whether all members are trained, or none; by default each goes by its own `train_embeddings`
            in `members`.
        vocab_size: number of words of all static members together, padding and unknown words included.
        pad_token_id: id of padding.
    """

    model_type = "embedding_stack"
    word_level = True

    members: list[Any] | None = None
    train_embeddings: bool | None = None
    vocab_size: int = 2
    pad_token_id: int | None = 0
    hidden_size: int | None = None
    num_hidden_layers: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self.members = self.members or [{"model_type": "static_embeddings"}]
        super().__post_init__(**kwargs)

    @property
    def context_free(self) -> bool:
        """True if no word's vector depends on another word."""
        members: Any = self.members
        return all(member["model_type"] == "static_embeddings" for member in members)

    @property
    def max_words(self) -> int | None:
        """Words of a text that every member takes, `None` for any number; see `WordPooledConfig`."""
        members: Any = self.members
        return min(
            (most for member in members if (most := member.get("max_words")) is not None), default=None
        )

    @property
    def reads_ids(self) -> bool:
        """True if there is a static member, whose rows go by the ids."""
        members: Any = self.members
        return any(member["model_type"] == "static_embeddings" for member in members)

    @property
    def extra_inputs(self) -> tuple[str, ...]:
        """Names of the inputs beside ids: `char_ids`, unless all members are static."""
        return () if self.context_free else ("char_ids",)
