"""The pipeline for several tasks, which prepares raw texts as the training texts of each task were."""

import copy
from collections.abc import Callable
from typing import Any

from hf_layerfusion.data.text_preparation import cleaner_of, plain_tokenizer, saved_preparation
from hf_layerfusion.data.truncation import encode
from hf_layerfusion.modeling import pipeline_multitask

__all__ = ["MultitaskPipeline"]


class MultitaskPipeline(pipeline_multitask.MultitaskPipeline):
    """Pipeline that predicts several tasks for texts or pairs of texts, cleaned and cut as in the model's training.

    Each sequence runs through the shared layers once, however many tasks use it.

    Args:
        model: A `CerbertusForMultitask`; it is set to evaluation mode.
        tokenizer: Tokenizer of the model.
        *args: `batch_size`, `top_k` and `device`, as for the class of the same name in `modeling`, which models load
            where the package is not installed. That one cleans nothing.
        **kwargs: The same by name.

    Example:
        ```python
        predict = MultitaskPipeline.from_pretrained("outputs/multitask")
        predict("a moving film")  # {"sst5": {"label": "positive", "score": 0.61}}
        predict({"text": "A man sings.", "text_pair": "Someone sings."}, tasks=["quora", "sts"])
        ```
    """

    def __init__(self, model: Any, tokenizer: Any, *args: Any, **kwargs: Any):
        saved = saved_preparation(tokenizer)
        self._saved, self._cut = tokenizer, (saved or {}).get("cut", "tail")
        self._cleaners: dict[str, Callable[[str], str] | None] = {}
        if saved is not None:
            # Cleaned texts need none of the steps that the tokenizer expresses.
            limit = tokenizer.model_max_length
            tokenizer = plain_tokenizer(copy.deepcopy(tokenizer))
            tokenizer.model_max_length = limit
        super().__init__(model, tokenizer, *args, **kwargs)

    def clean(self, text: str, task: str) -> str:
        """Return a text as a task's training texts were prepared."""
        if task not in self._cleaners:
            self._cleaners[task] = cleaner_of(self._saved, task)
        clean = self._cleaners[task]
        return text if clean is None else clean(text)

    def encode_one(self, *texts: str) -> Any:
        """Tokenize a text, or a pair as one sequence, and cut it where the training texts were cut."""
        if self._cut == "tail" or self.limit is None:
            return super().encode_one(*texts)
        encoded = encode(self.tokenizer, *([text] for text in texts), max_length=self.limit, cut=self._cut)
        return {name: rows[0] for name, rows in encoded.items()}
