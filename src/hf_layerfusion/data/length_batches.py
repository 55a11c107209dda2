"""Text classification that batches lists by length."""

from collections.abc import Iterator, Sequence
from typing import Any

from transformers import TextClassificationPipeline
from transformers.pipelines.base import pad_collate_fn

# Number of texts in a batch where the caller names none.
TEXTS_PER_BATCH = 32
# Shortest text of a batch, as a share of its longest.
SHORTEST = 0.75
# Number of batches whose texts are tokenized and then ordered together, so that memory stays flat.
BATCHES_TOKENIZED_TOGETHER = 64


def similar(lengths: Sequence[int], most: int) -> Iterator[range]:
    """Return batches of at most `most` neighbours with at least 3/4 of the batch's longest length.

    Beside full batches there are few, as each of them is shorter by a quarter than the one before.

    Args:
        lengths: Numbers of tokens, the largest first.
        most: Number of texts in a full batch.
    """
    first = 0
    for index in range(1, len(lengths) + 1):
        if index == len(lengths) or index - first == most or lengths[index] < SHORTEST * lengths[first]:
            yield range(first, index)
            first = index


class LengthBatchedPipeline(TextClassificationPipeline):
    """The text-classification pipeline, which batches the texts of a list by length.

    The results are those of transformers' pipeline, in the order of the inputs, with much less padding if lengths
    differ. Data sets and generators keep their order, as their texts are not known in advance.
    """

    model: Any
    tokenizer: Any

    def get_iterator(
        self,
        inputs: Any,
        num_workers: int,
        batch_size: int,
        preprocess_params: dict[str, Any],
        forward_params: dict[str, Any],
        postprocess_params: dict[str, Any],
    ) -> Any:
        """Return an iterator over the results; a list is classified in batches of texts of similar length."""
        parameters = (preprocess_params, forward_params, postprocess_params)
        if not isinstance(inputs, list) or batch_size == 1 or num_workers:
            return super().get_iterator(inputs, num_workers, batch_size, *parameters)
        return self._classify_by_length(inputs, batch_size, *parameters)

    def _classify_by_length(
        self,
        inputs: list[Any],
        batch_size: int,
        preprocess_params: dict[str, Any],
        forward_params: dict[str, Any],
        postprocess_params: dict[str, Any],
    ) -> Iterator[Any]:
        collate = pad_collate_fn(self.tokenizer, None)
        results: list[Any] = [None] * len(inputs)
        step = batch_size * BATCHES_TOKENIZED_TOGETHER
        for first in range(0, len(inputs), step):
            encoded = {
                row: self.preprocess(inputs[row], **preprocess_params)
                for row in range(first, min(first + step, len(inputs)))
            }
            # The first batch is the largest, so that a device without enough memory fails at once.
            rows = sorted(encoded, key=lambda row: -encoded[row]["input_ids"].shape[-1])
            lengths = [encoded[row]["input_ids"].shape[-1] for row in rows]
            for span in similar(lengths, batch_size):
                batch = [rows[index] for index in span]
                logits = self.forward(collate([encoded[row] for row in batch]), **forward_params)["logits"]
                for row, scores in zip(batch, logits, strict=True):
                    results[row] = self.postprocess({"logits": scores[None]}, **postprocess_params)
        return iter(results)
