"""Replacement for an encoder in tests where tracing a real one would take most of the time."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from tests.modeling.cases import DEPTH, WIDTH, build


class CheapEncoder(nn.Module):
    """Embeddings, and layers that mix a token with the mean of the text's real ones."""

    def __init__(self, config: Any):
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, WIDTH)
        self.layers = nn.ModuleList(nn.Linear(2 * WIDTH, WIDTH) for _ in range(DEPTH))

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **kwargs: Any
    ) -> BaseModelOutput:
        real = attention_mask.unsqueeze(-1)
        states = [self.embedding(input_ids)]
        for layer in self.layers:
            mean = (states[-1] * real).sum(dim=1, keepdim=True) / real.sum(dim=1, keepdim=True)
            states.append(layer(torch.cat([states[-1], mean.expand_as(states[-1])], dim=-1)).tanh())
        return BaseModelOutput(last_hidden_state=states[-1], hidden_states=tuple(states))


def build_cheap(case: str, **changes: Any) -> PreTrainedModel:
    """The model of a case, all of whose parts but the encoder are real."""
    model = build(case, **changes)
    model.model.encoder = CheapEncoder(model.config.encoder_config)
    return model.eval()
