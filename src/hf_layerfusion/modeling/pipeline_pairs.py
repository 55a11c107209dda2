"""Text classification of pairs whose texts are encoded separately."""

from typing import Any

from transformers import TextClassificationPipeline


class SeparatePairsPipeline(TextClassificationPipeline):
    """The text-classification pipeline of models that take the two texts of a pair as two sequences.

    Inputs are pairs `{"text": …, "text_pair": …}`, or lists of them, which go through the model one at a time; texts of
    more tokens than the tokenizer allows are cut off. All else is as in `TextClassificationPipeline`.

    Raises:
        ValueError: if an input is no pair.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **{"truncation": True, **kwargs})

    def preprocess(self, inputs: Any, **tokenizer_kwargs: Any) -> dict[str, Any]:
        """Tokenize the two texts of a pair separately."""
        if not isinstance(inputs, dict) or set(inputs) != {"text", "text_pair"}:
            raise ValueError(
                '`inputs` must be pairs {"text": …, "text_pair": …} for this model, found another; correct them.'
            )
        texts = [inputs["text"], inputs["text_pair"]]
        batch = self.tokenizer(texts, padding=True, return_tensors="pt", **tokenizer_kwargs)
        return {name: values.unsqueeze(0) for name, values in batch.items()}
