"""CerBERTus models on tiny encoders, their inputs, and one task of them as a model of transformers."""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import AutoModel, PreTrainedModel

from hf_layerfusion import CerbertusConfig, CerbertusForMultitask
from tests.tiny import tiny_config

DEPTH, WIDTH = 4, 32
# Every kind of task: one text, a pair in one sequence, a pair of two.
TASKS: dict[str, dict[str, Any]] = {
    "sst5": {"labels": ["--", "-", "0", "+", "++"], "dropout": 0.0},
    "quora": {"pair": True, "labels": ["no", "yes"], "loss": "binary_cross_entropy", "dropout": 0.0},
    "sts": {
        "pair": True,
        "problem_type": "regression",
        "value_range": [0, 5],
        "pair_encoding": "siamese",
        "sentence_vector": "mean",
        "features": ["concat", "squared_difference"],
        "dropout": 0.0,
    },
}
LABELS = {
    "sst5": torch.tensor([4, 0, 2]),
    "quora": torch.tensor([1, 0]),
    "sts": torch.tensor([0.0, 4.5, 2.0, 3.2]),
}


def build(
    model_type: str = "bert", changes: dict[str, Any] | None = None, **settings: Any
) -> CerbertusForMultitask:
    """A model all of whose weights differ, so that a row that goes astray is seen."""
    settings = {"tasks": TASKS, "num_task_layers": 2} | settings
    encoder_config = tiny_config(model_type, DEPTH, **(changes or {}))
    return scramble(CerbertusForMultitask(CerbertusConfig(encoder_config=encoder_config, **settings))).eval()


def scramble(model: PreTrainedModel) -> PreTrainedModel:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def sequences(rows: int, length: int, lengths: list[int] | None = None) -> dict[str, torch.Tensor]:
    """Texts padded on the right."""
    mask = torch.arange(length) < torch.tensor(lengths or [length] * rows)[:, None]
    ids = torch.where(mask, torch.randint(5, 100, (rows, length)), 0)
    return {"input_ids": ids, "attention_mask": mask.long()}


def batches(labels: bool = False) -> dict[str, dict[str, torch.Tensor]]:
    """A batch of each task, of different sizes and lengths."""
    texts = sequences(8, 6, [6, 3, 2, 6, 5, 4, 6, 2])
    found = {
        "sst5": sequences(3, 7, [7, 5, 2]),
        "quora": sequences(2, 9, [9, 6]),
        "sts": {name: value.view(4, 2, 6) for name, value in texts.items()},
    }
    return {name: batch | ({"labels": LABELS[name]} if labels else {}) for name, batch in found.items()}


def stock(model: CerbertusForMultitask, task: str) -> PreTrainedModel:
    """transformers' own model of the shared encoder with the layers of `task`."""
    shared = model.model.encoders["shared"]
    weights = {
        name.replace(f".copies.{task}.", "."): value
        for name, value in shared.state_dict().items()
        if ".copies." not in name or f".copies.{task}." in name
    }
    encoder = AutoModel.from_config(copy.deepcopy(shared.config))
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None
    encoder.load_state_dict(weights, strict=True)
    return encoder.to(next(iter(weights.values())).dtype).eval()
