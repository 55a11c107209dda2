"""The base of encoders whose positions are words: static vectors, ELMo, Flair and stacks of these."""

from typing import Any

from transformers import PreTrainedModel


class WordEncoder(PreTrainedModel):
    """An encoder that gives each word a vector a layer, and is frozen unless `config.train_embeddings` is set.

    A frozen encoder's dropout stays off in training.
    """

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """As in transformers; the weights are frozen again, as loading replaces them."""
        loaded = super().from_pretrained(*args, **kwargs)
        (loaded[0] if isinstance(loaded, tuple) else loaded).freeze_embeddings()
        return loaded

    def freeze_embeddings(self) -> None:
        """Switch off all gradients unless `config.train_embeddings` is set."""
        if not self.config.train_embeddings:
            self.requires_grad_(False)

    def train(self, mode: bool = True) -> "WordEncoder":
        """As in torch, except that a frozen encoder stays in evaluation mode."""
        return super().train(mode and self.config.train_embeddings)
