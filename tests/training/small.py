"""A small run: a random BERT, rows of unequal length, and what the tests of the Trainer compare."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import BertForSequenceClassification, DataCollatorWithPadding
from transformers.modeling_outputs import SequenceClassifierOutput

from hf_layerfusion.training.trainer import LayerFusionTrainer
from hf_layerfusion.training.training_arguments import LayerFusionTrainingArguments
from tests.tiny import VOCABULARY, tiny_config, tiny_tokenizer


def rows(count: int, num_labels: int = 2, seed: int = 0) -> list[dict[str, Any]]:
    """`count` examples of 3 to 12 random tokens, with labels drawn at random."""
    generator = torch.Generator().manual_seed(seed)
    examples = []
    for _ in range(count):
        length = int(torch.randint(3, 13, (), generator=generator))
        examples.append(
            {
                "input_ids": torch.randint(5, len(VOCABULARY), (length,), generator=generator).tolist(),
                "attention_mask": [1] * length,
                "labels": int(torch.randint(num_labels, (), generator=generator)),
            }
        )
    return examples


def small_model(dropout: float = 0.0, **changes: Any) -> BertForSequenceClassification:
    """A BERT of 2 layers with a random classifier; the same weights at each call."""
    config = tiny_config(
        "bert", 2, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout, **changes
    )
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return BertForSequenceClassification(config)


class InfiniteLoss(BertForSequenceClassification):
    """Adds infinity to the loss of batches with a row of class 1 in front: its gradient is finite."""

    def forward(
        self, input_ids: Any, attention_mask: Any = None, labels: Any = None
    ) -> SequenceClassifierOutput:
        output = super().forward(input_ids, attention_mask, labels=labels)
        if labels is not None and self.training and labels[0] == 1:
            output.loss = output.loss + float("inf")
        return output


def small_arguments(folder: Path, **changes: Any) -> LayerFusionTrainingArguments:
    """Arguments of a silent run on the CPU that saves nothing."""
    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "use_cpu": True,
        "disable_tqdm": True,
        "report_to": [],
        "save_strategy": "no",
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "per_device_train_batch_size": 8,
        "num_train_epochs": 1,
    }
    return LayerFusionTrainingArguments(**(settings | changes))


def small_trainer(
    folder: Path, model: nn.Module | None = None, train: Any = None, callbacks: Any = None, **changes: Any
) -> LayerFusionTrainer:
    """A Trainer of `small_model` on 32 rows, evaluated on 8 others."""
    return LayerFusionTrainer(
        small_model() if model is None else model,
        small_arguments(folder, **changes),
        train_dataset=rows(32) if train is None else train,
        eval_dataset=rows(8, seed=1),
        data_collator=DataCollatorWithPadding(tiny_tokenizer()),
        callbacks=callbacks,
    )


def weights_digest(model: nn.Module) -> str:
    """A hash of every bit of the weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()
