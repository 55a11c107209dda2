"""Reconstruction of GRUBERT's public code, as a baseline: its model and its plain training loop.

It has fixed padding, no attention mask, the tokens as the first dimension of the recurrences, and keeps the hidden
states of all layers.
"""

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoModel


class PublicModel(nn.Module):
    """An encoder, one embedding bi-GRU (`share`) or one for each group (`cat`), a downstream bi-GRU and a dense
    layer."""

    def __init__(self, encoder: str, num_groups: int = 3, shared: bool = True, num_labels: int = 2):
        super().__init__()
        self.encoder = AutoModel.from_pretrained(encoder)
        config = self.encoder.config
        self.num_groups = num_groups
        self.size = config.num_hidden_layers // num_groups
        width = self.size * config.hidden_size
        self.embedding_grus = nn.ModuleList(
            nn.GRU(width, 100, bidirectional=True) for _ in range(1 if shared else num_groups)
        )
        self.downstream_gru = nn.GRU(200 * num_groups, 100, bidirectional=True)
        self.classifier = nn.Sequential(
            nn.Linear(200, 200), nn.ReLU(), nn.Dropout(0.5), nn.Linear(200, num_labels)
        )

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Return the logits `[B, num_labels]` of token ids `[B, T]`."""
        states = self.encoder(input_ids, output_hidden_states=True).hidden_states[1:]
        fused = []
        for group in range(self.num_groups):
            side_by_side = torch.cat(states[group * self.size : (group + 1) * self.size], dim=2)
            gru = self.embedding_grus[group % len(self.embedding_grus)]
            fused.append(gru(side_by_side.transpose(0, 1))[0])
        outputs, _ = self.downstream_gru(torch.cat(fused, dim=2))
        return self.classifier(F.relu(outputs.transpose(0, 1))).sum(dim=1)


def training_steps(
    model: nn.Module, batches: Iterator[tuple[torch.Tensor, torch.Tensor]], rate: float = 1e-5
) -> Iterator[int]:
    """Yield the number of texts after one step of Adam for each batch (ids `[B, T]`, labels `[B]`)."""
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    model.train()
    for ids, labels in batches:
        logits = model(ids)
        loss = F.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()
        logits.argmax(dim=1).eq(labels).sum().item()
        yield len(labels)
