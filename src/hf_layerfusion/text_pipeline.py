"""Text classification that prepares texts as the model's training texts were, and `preprocess`, which does that alone.

Importing this makes it transformers' pipeline for `text-classification`. It also cuts texts to the length that a model
of this package takes. With other models whose tokenizer says nothing of a preparation it is transformers' own in all.
"""

import copy
from collections.abc import Sequence
from typing import Any

from transformers import AutoTokenizer, TextClassificationPipeline
from transformers.pipelines import PIPELINE_REGISTRY

from hf_layerfusion.data.length_batches import TEXTS_PER_BATCH, LengthBatchedPipeline
from hf_layerfusion.data.text_preparation import clean_inputs, cleaner_of, plain_tokenizer, saved_preparation
from hf_layerfusion.data.truncation import encode_input
from hf_layerfusion.errors import UserError

__all__ = ["PreparedTextClassificationPipeline", "preprocess"]


class PreparedTextClassificationPipeline(LengthBatchedPipeline):
    """The text-classification pipeline, which prepares and cuts raw texts as in the model's training."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._settings = saved_preparation(self.tokenizer)
        self._clean = cleaner_of(self.tokenizer, getattr(self.model.config, "default_task", None))
        # Cleaned texts are encoded as in training, without the steps that stand in the saved tokenizer.
        self._plain = self.tokenizer
        if self._clean is not None:
            self._plain = plain_tokenizer(copy.deepcopy(self.tokenizer))
            self._plain.model_max_length = self.tokenizer.model_max_length

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        """Classify, as transformers' pipeline does; a list of texts is batched by length, which needs less padding.

        Args:
            inputs: A text, a pair `{"text": …, "text_pair": …}`, a list of them, or a stream, which keeps its order.
            kwargs: As for transformers' pipeline. With a model of this package, `batch_size` is 32 by default, for
                the texts of a list.
        """
        if isinstance(inputs, list) and self._batch_size is None and self._is_ours():
            kwargs["batch_size"] = kwargs.get("batch_size") or TEXTS_PER_BATCH
        return super().__call__(inputs, **kwargs)

    def get_iterator(self, inputs: Any, num_workers: int, batch_size: int, *args: Any) -> Any:
        """Return the iterator over the answers; pairs of separate texts, `[1, 2, T]`, go one at a time."""
        # transformers pads `[1, T]` alone.
        if getattr(self.model.config, "pair_features", None):
            batch_size = 1
        if self._is_ours():
            return super().get_iterator(inputs, num_workers, batch_size, *args)
        return TextClassificationPipeline.get_iterator(self, inputs, num_workers, batch_size, *args)

    def _is_ours(self) -> bool:
        return hasattr(getattr(self.model, "base_model", None), "max_tokens")

    def check_model_type(self, supported_models: Any) -> None:
        """Check the class of the model; of a model with adapters, the class of the model below them."""
        adapted = self.model
        self.model = adapted.get_base_model() if hasattr(adapted, "get_base_model") else adapted
        super().check_model_type(supported_models)
        self.model = adapted

    def preprocess(self, inputs: Any, **tokenizer_kwargs: Any) -> Any:
        """Clean and tokenize a text, or a pair `{"text": …, "text_pair": …}`."""
        if self._settings is not None and tokenizer_kwargs.get("truncation", True) is True:
            is_pair = not isinstance(inputs, str)
            tokenizer_kwargs["truncation"] = self._settings["truncation"] if is_pair else True
        most = getattr(getattr(self.model, "base_model", None), "max_tokens", None)
        if most is not None:  # a model of this package, saved without a preparation
            tokenizer_kwargs.setdefault("truncation", True)
            tokenizer_kwargs.setdefault("max_length", min(most, self.tokenizer.model_max_length))
        inputs = clean_inputs(inputs, self._clean)
        if getattr(self.model.config, "pair_features", None):
            # Imported here, as that module needs the class that this one replaces.
            from hf_layerfusion.modeling.pipeline_pairs import encode_separately

            return encode_separately(self._plain, inputs, **tokenizer_kwargs)
        cut = (self._settings or {}).get("cut", "tail")
        if cut != "tail" and tokenizer_kwargs["truncation"] and not isinstance(inputs, list):
            return encode_input(self._plain, inputs, max_length=tokenizer_kwargs.get("max_length"), cut=cut)
        # A copy has the other tokenizer, since several threads may share one pipeline.
        plain = copy.copy(self)
        plain.tokenizer = self._plain
        return super(PreparedTextClassificationPipeline, plain).preprocess(inputs, **tokenizer_kwargs)


def preprocess(texts: str | Sequence[str], model: str, task: str | None = None, **kwargs: Any) -> Any:
    """Prepare texts as the training texts of a model were, by what is saved with its tokenizer.

    `pipeline("text-classification", model=model)` does so by itself; this is for everything else.

    Args:
        texts: a text or several.
        model: Hub id or folder of the model.
        task: of a model of several tasks whose texts were prepared in different ways, the task of the texts.
        kwargs: keywords of `AutoTokenizer.from_pretrained`, such as `revision` or `token`.

    Returns:
        The prepared text, or a list of them.

    Raises:
        UserError: the texts of the model's tasks were prepared in different ways, and `task` is none of them.
    """
    tokenizer = AutoTokenizer.from_pretrained(model, **kwargs)
    tasks = (saved_preparation(tokenizer) or {}).get("tasks", {})
    if tasks and task not in tasks:
        raise UserError(
            f"task must be one of {', '.join(tasks)}, whose texts were prepared in different ways, found {task!r}"
        )
    clean = cleaner_of(tokenizer, task)
    if isinstance(texts, str):
        return texts if clean is None else clean(texts)
    return list(texts) if clean is None else [clean(text) for text in texts]


_TASK = PIPELINE_REGISTRY.supported_tasks["text-classification"]
_TASK["impl"] = PreparedTextClassificationPipeline
