"""Collators that pad the rows of one task, or make batches by task."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase
from transformers.data.data_collator import pad_without_fast_tokenizer_warning

from hf_layerfusion.training.samplers import is_apart
from hf_layerfusion.training.task_data import LABELS, REPEATED, TASK, Row

Batch = dict[str, Any]

TASKS = "tasks"
"""The key under which a batch of several tasks holds a batch of each."""


class PaddingCollator:
    """Pads the rows of one task to the length of the longest.

    Args:
        tokenizer: what the rows were encoded with. Of a row, its inputs (`input_ids`, `attention_mask`, …) and
            `labels` are taken, nothing else.

    Returns, when called:
        `input_ids`, … as `[B, T]`, or `[B, 2, T]` where each row holds two lists, the texts of a pair that stand
        apart; `labels` as `[B]` (`[B, C]` for lists), where the rows have them.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer

    def __call__(self, rows: list[Row]) -> Batch:
        names = [name for name in self.tokenizer.model_input_names if name in rows[0]]
        apart = is_apart(rows[0]["input_ids"])
        texts = [
            {name: row[name][place] if apart else row[name] for name in names}
            for row in rows
            for place in range(2 if apart else 1)
        ]
        padded = pad_without_fast_tokenizer_warning(self.tokenizer, texts, return_tensors="pt")
        batch: Batch = {name: padded[name].unflatten(0, (-1, 2)) if apart else padded[name] for name in names}
        if LABELS in rows[0]:
            batch[LABELS] = torch.as_tensor(np.array([row[LABELS] for row in rows]))
            if batch[LABELS].is_floating_point():
                batch[LABELS] = batch[LABELS].float()
        return batch


class MultitaskCollator:
    """Makes `{"task": name, …}` of rows of one task, and `{"tasks": {name: {…}}}` of rows of several.

    Args:
        collate: makes a batch of the rows of one task, such as `PaddingCollator`.
    """

    def __init__(self, collate: Callable[[list[Row]], Any]) -> None:
        self.collate = collate

    def __call__(self, rows: list[Row]) -> Batch:
        batches: dict[str, Batch] = {}
        for task, group in groupby(rows, key=lambda row: row[TASK]):
            of_task = list(group)
            inputs = [
                {name: value for name, value in row.items() if name not in (TASK, REPEATED)}
                for row in of_task
            ]
            batches[task] = dict(self.collate(inputs))
            if REPEATED in of_task[0]:
                batches[task][REPEATED] = True
        if len(batches) == 1:
            ((task, batch),) = batches.items()
            return {TASK: task, **batch}
        return {TASKS: batches}
