"""Predictions as answers, in the form of transformers' text-classification pipeline."""

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
    """What is to be said of the inputs, see `Ensemble.__call__`.

    Args:
        predict: makes logits `[N, C]`, or values `[N]`, of rows.
        task: what is answered.
        inputs: a text, a pair, or a list of such.
        top_k: how many classes to name, None all of them, `""` the likeliest alone.

    Raises:
        UserError: an input that is neither text nor pair.
    """
    is_single = isinstance(inputs, str | dict)
    rows = [as_row(item) for item in ([inputs] if is_single else inputs)]
    if not rows:
        return []
    predictions = predict(rows)
    scores = predictions[:, None] if task.is_regression else softmax(predictions, axis=1)
    answers = []
    for row in scores:
        ranked = [{"label": task.labels[i], "score": float(row[i])} for i in np.argsort(-row, kind="stable")]
        answers.append(ranked[0] if isinstance(top_k, str) else ranked[:top_k])
    # A pipeline puts the answer to a bare text into a list, unless it was asked for several.
    is_bare = is_single and not (isinstance(inputs, str) and isinstance(top_k, str))
    return answers[0] if is_bare else answers


def as_row(item: Any) -> tuple[str, ...]:
    """A text, or a pair `{"text": …, "text_pair": …}`, as a row.

    Raises:
        UserError: anything else.
    """
    if isinstance(item, str):
        return (item,)
    if isinstance(item, dict) and set(item) in ({"text"}, {"text", "text_pair"}):
        return tuple(item[key] for key in ("text", "text_pair") if key in item)
    raise UserError(
        f'an input must be a text or a pair {{"text": …, "text_pair": …}}, found {type(item).__name__}; correct it.'
    )
