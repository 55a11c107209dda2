"""Predictions in the form of transformers' text-classification pipeline."""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.special import softmax

from hf_layerfusion.ensembling.member_models import TaskSchema
from hf_layerfusion.ensembling.prediction_files import Array, Rows
from hf_layerfusion.errors import UserError


def run_pipeline(
    predict: Callable[[Rows], Array], task: TaskSchema, inputs: Any, top_k: int | str | None
) -> Any:
    """Return labels and scores for the inputs, as `Ensemble.__call__` documents.

    Args:
        predict: function from rows to logits `[N, C]` or values `[N]`.
        task: the task's schema.
        inputs: a text, a pair, or a list of them.
        top_k: number of classes to return, None for all, `""` for the most likely alone.

    Raises:
        UserError: An input is neither a text nor a pair.
    """
    is_single = isinstance(inputs, str | dict)
    rows = [as_row(item) for item in ([inputs] if is_single else inputs)]
    if not rows:
        return []
    predictions = predict(rows)
    scores = predictions[:, None] if task.is_regression else softmax(predictions, axis=1)
    predicted = []
    for row in scores:
        ranked = [{"label": task.labels[i], "score": float(row[i])} for i in np.argsort(-row, kind="stable")]
        predicted.append(ranked[0] if isinstance(top_k, str) else ranked[:top_k])
    # A pipeline returns a list for a bare text, unless `top_k` was given.
    is_bare = is_single and not (isinstance(inputs, str) and isinstance(top_k, str))
    return predicted[0] if is_bare else predicted


def as_row(item: Any) -> tuple[str, ...]:
    """Return a text, or a pair `{"text": …, "text_pair": …}`, as a tuple of texts.

    Raises:
        UserError: The input is anything else.
    """
    if isinstance(item, str):
        return (item,)
    if isinstance(item, dict) and set(item) in ({"text"}, {"text", "text_pair"}):
        return tuple(item[key] for key in ("text", "text_pair") if key in item)
    raise UserError(
        f'an input must be a text or a pair {{"text": …, "text_pair": …}}, found {type(item).__name__}; correct it.'
    )
