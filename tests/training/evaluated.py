"""Evaluations that must give one answer for each row, however the rows are read and shared out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from torch.utils.data import IterableDataset
from transformers import EvalPrediction

from tests.training.small import rows, small_model, small_trainer


class Stream(IterableDataset):
    """Rows whose number is not known."""

    def __init__(self, given: list[dict[str, Any]]) -> None:
        self.given = given

    def __iter__(self) -> Iterator[dict[str, Any]]:
        yield from self.given


def arrow_stream(given: list[dict[str, Any]]) -> datasets.IterableDataset:
    """A stream in three shards, which accelerate would hand to the processes whole."""
    return datasets.Dataset.from_list(given).to_iterable_dataset(num_shards=3)


GROUPED = {"train_sampling_strategy": "group_by_length"}
# Name: number of rows, how they are given, options. Batches are of 4 rows, so that 21 and 3 do not come out even.
CASES: dict[str, tuple[int, Any, dict[str, Any]]] = {
    "grouped": (21, list, GROUPED),
    "grouped, even": (24, list, GROUPED),
    "grouped, fewer than a batch": (3, datasets.Dataset.from_list, GROUPED),
    "grouped, one row": (1, list, GROUPED),
    "random": (21, list, {}),
    "sequential": (21, list, {"train_sampling_strategy": "sequential"}),
    "last batch dropped in training": (21, list, {"dataloader_drop_last": True, **GROUPED}),
    "batches apart": (21, list, {"eval_do_concat_batches": False, **GROUPED}),
    "moved in parts": (21, list, {"eval_accumulation_steps": 2, **GROUPED}),
    "split batches": (21, list, {"accelerator_config": {"split_batches": True}, **GROUPED}),
    "dispatched": (21, list, {"accelerator_config": {"dispatch_batches": True}, **GROUPED}),
    "not evened out": (21, list, {"accelerator_config": {"even_batches": False}, **GROUPED}),
    "stream": (21, Stream, {}),
    "stream, a short last batch": (23, Stream, {}),
    "stream, even": (24, Stream, {}),
    "stream, fewer than a batch": (3, Stream, {}),
    "stream in shards": (21, arrow_stream, {"accelerator_config": {"dispatch_batches": False}}),
    "stream, workers": (9, arrow_stream, {"dataloader_num_workers": 2}),
}


def evaluate(folder: Path, name: str) -> dict[str, Any]:
    """What a Trainer predicts and measures in a case of `CASES`."""
    number, give, options = CASES[name]
    seen = {}

    def compute_metrics(found: EvalPrediction) -> dict[str, float]:
        if not isinstance(found.predictions, list):
            seen["predictions"] = found.predictions
        return {}

    trainer = small_trainer(folder, per_device_eval_batch_size=4, **options)
    trainer.compute_metrics = compute_metrics
    output = trainer.predict(give(rows(number, seed=3)))
    together = np.concatenate if isinstance(output.predictions, list) else np.asarray
    return {
        "predictions": together(output.predictions),
        "labels": together(output.label_ids),
        "loss": output.metrics["test_loss"],
        "in metrics": seen.get("predictions"),
    }


def expected(name: str) -> dict[str, Any]:
    """The model's answers to the rows of a case, one after another."""
    given, model = rows(CASES[name][0], seed=3), small_model().eval()
    with torch.no_grad():
        logits = [model(input_ids=torch.tensor([row["input_ids"]])).logits[0] for row in given]
    labels = torch.tensor([row["labels"] for row in given])
    loss = torch.nn.functional.cross_entropy(torch.stack(logits), labels)
    return {"predictions": torch.stack(logits).numpy(), "labels": labels.numpy(), "loss": loss.item()}


def check(found: dict[str, Any], name: str) -> None:
    """That what was found is one answer for each row, and the loss that of all rows."""
    wanted = expected(name)
    np.testing.assert_array_equal(found["labels"], wanted["labels"])
    np.testing.assert_allclose(found["predictions"], wanted["predictions"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(found["loss"], wanted["loss"], rtol=0, atol=1e-5)
    if found["in metrics"] is not None:
        np.testing.assert_allclose(found["in metrics"], wanted["predictions"], rtol=0, atol=1e-5)
