"""Every model that the tables of fusers give, on a tiny encoder of four layers: a new row is covered by itself."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel

from hf_layerfusion import (
    BertForGRUFusionClassification,
    BertWithPoolingModule,
    GRUFusionConfig,
    LayerPoolingConfig,
)
from hf_layerfusion.modeling.fusion_base import LayerFuser
from hf_layerfusion.modeling.fusion_pooling import SENTENCE_FUSERS
from hf_layerfusion.modeling.fusion_registry import TOKEN_FUSERS
from hf_layerfusion.modeling.recurrence import TOKEN_CELLS
from tests.tiny import tiny_config

DEPTH, WIDTH, LABELS = 4, 32, 3
SMALL = {
    "num_groups": 2,
    "num_last_layers": 2,
    "fusion_hidden_size": 6,
    "downstream_hidden_size": 5,
    "dense_size": 7,
}

TOKEN_CASES: dict[str, dict[str, Any]] = {
    f"{fusion}-{cell}": {"fusion": fusion, "fusion_cell": cell}
    | ({"downstream_cell": cell} if cell.startswith("min") else {})
    for fusion in TOKEN_FUSERS
    for cell in TOKEN_CELLS
    # Each fuser runs the parallel recurrences as it runs the others: one along the tokens and one along the depth do.
    if not (fusion.endswith("_depth") and cell == "linear")
    and (fusion in ("share", "cat_depth") or not cell.startswith("min"))
}
SENTENCE_CASES: dict[str, dict[str, Any]] = {
    f"{pooling}-{tokens}": {"pooling": pooling, "token_pooling": tokens}
    for pooling in SENTENCE_FUSERS
    for tokens in ("cls", "mean", "cls_mean", "last", "last_mean")
    # Each pooling sees vectors alone: all kinds of them with one pooling are enough.
    if tokens in ("cls", "mean") or pooling == "concat"
}
CASES = {**TOKEN_CASES, **SENTENCE_CASES}


def model_class(case: str) -> type[PreTrainedModel]:
    return BertForGRUFusionClassification if case in TOKEN_CASES else BertWithPoolingModule


def settings(case: str) -> dict[str, Any]:
    """Return the arguments of `from_pretrained` and of the configuration, except the encoder."""
    return {**(SMALL if case in TOKEN_CASES else {}), **CASES[case], "num_labels": LABELS}


def build(case: str, **changes: Any) -> PreTrainedModel:
    config_class = GRUFusionConfig if case in TOKEN_CASES else LayerPoolingConfig
    config = config_class(**({"encoder_config": tiny_config("bert", DEPTH)} | settings(case) | changes))
    return model_class(case)(config).eval()


def build_fuser(case: str) -> LayerFuser:
    """The case's fuser in float64."""
    return build(case).model.fuser.double()


def states(batch: int = 3, length: int = 7) -> tuple[torch.Tensor, ...]:
    return tuple(torch.randn(batch, length, WIDTH, dtype=torch.float64) for _ in range(DEPTH))


def inputs(batch: int = 3, length: int = 8) -> dict[str, torch.Tensor]:
    """Texts of different lengths, padded on the right."""
    ids = torch.randint(5, 100, (batch, length))
    lengths = torch.linspace(length // 2, length, batch).long()
    mask = (torch.arange(length) < lengths[:, None]).long()
    return {"input_ids": ids * mask, "attention_mask": mask}
