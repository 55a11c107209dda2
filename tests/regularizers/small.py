"""Classifiers and batches small enough to differentiate twice."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from hf_layerfusion import BertForGRUFusionClassification, GRUFusionConfig
from tests.tiny import VOCABULARY, tiny_config

DROPOUT = {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.1}


def classifier(
    model_type: str = "bert", num_labels: int = 3, layers: int = 2, **changes: Any
) -> PreTrainedModel:
    """In training mode, random weights large enough for answers that differ."""
    config = tiny_config(model_type, layers, num_labels=num_labels, initializer_range=0.2, **changes)
    return AutoModelForSequenceClassification.from_config(config).train()


def fused_classifier(classifier_dropout: float = 0.0, **changes: Any) -> PreTrainedModel:
    config = GRUFusionConfig(
        encoder_config=tiny_config("bert", 4, **changes),
        num_groups=2,
        fusion_hidden_size=6,
        downstream_hidden_size=5,
        dense_size=7,
        classifier_dropout=classifier_dropout,
        num_labels=3,
    )
    return BertForGRUFusionClassification(config).train()


def batch(rows: int = 4, length: int = 7, num_labels: int = 3, left: bool = False) -> dict[str, Tensor]:
    """Texts of different lengths, their padding on the right or on the left."""
    ids = torch.randint(5, len(VOCABULARY), (rows, length))
    lengths = torch.arange(rows) % 3 + length - 2
    mask = (torch.arange(length) < lengths[:, None]).long()
    if left:
        mask = mask.flip(1)
    labels = torch.randn(rows) if num_labels == 1 else torch.randint(num_labels, (rows,))
    return {"input_ids": ids * mask, "attention_mask": mask, "labels": labels}


def gradients(model: PreTrainedModel, loss: Tensor) -> dict[str, Tensor]:
    """By parameter, zeros where the loss does not depend on it."""
    model.zero_grad(set_to_none=True)
    loss.backward()
    return {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
        for name, parameter in model.named_parameters()
    }
