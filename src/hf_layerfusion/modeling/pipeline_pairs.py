"""Text classification of pairs whose texts are encoded separately."""

from typing import Any

from transformers import TextClassificationPipeline


class SeparatePairsPipeline(TextClassificationPipeline):
    """The text-classification pipeline of models that take the two texts of a pair as two sequences.

    Inputs are pairs `{"text": …, "text_pair": …}`, or lists of them, which go through the model one at a time; texts of
    more tokens than the tokenizer allows are cut off. All else is as in `TextClassificationPipeline`.
    """

    def preprocess(self, inputs: Any, **tokenizer_kwargs: Any) -> dict[str, Any]:
        """Tokenize the two texts of a pair separately."""
        return encode_separately(self.tokenizer, inputs, **tokenizer_kwargs)

    def get_iterator(self, inputs: Any, num_workers: int, batch_size: int, *args: Any) -> Any:
        """Return the iterator over the answers; pairs go through the model one at a time whatever the batch size."""
        return super().get_iterator(inputs, num_workers, 1, *args)


def encode_separately(tokenizer: Any, inputs: Any, **tokenizer_kwargs: Any) -> dict[str, Any]:
    """Return the model inputs `[1, 2, T]` of a pair whose texts are encoded separately.

    Args:
        tokenizer: the model's.
        inputs: `{"text": …, "text_pair": …}`.
        tokenizer_kwargs: those of the pipeline. Texts are cut off unless `truncation` is False.

    Raises:
        ValueError: if the input is no pair.
    """
    if not isinstance(inputs, dict) or set(inputs) != {"text", "text_pair"}:
        raise ValueError(
            '`inputs` must be pairs {"text": …, "text_pair": …} for this model, found another; correct them.'
        )
    # A strategy for joint pairs, such as "only_first", says nothing of single texts.
    cut = bool(tokenizer_kwargs.pop("truncation", True))
    texts = [inputs["text"], inputs["text_pair"]]
    batch = tokenizer(texts, padding=True, truncation=cut, return_tensors="pt", **tokenizer_kwargs)
    return {name: values.unsqueeze(0) for name, values in batch.items()}
