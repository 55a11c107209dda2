"""Three small tasks and a model that is called as the Trainer calls a model of several tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BertConfig, BertModel, EvalPrediction, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils import ModelOutput

from hf_layerfusion.training.trainer import LayerFusionTrainer
from tests.tiny import tiny_config, tiny_tokenizer
from tests.training.small import rows, small_arguments

CLASSES = {"five": 5, "para": 2, "sim": 1}
"""The tasks and their number of logits; para is a pair, sim a pair whose texts stand apart, with a value."""


@dataclass
class TasksOutput(ModelOutput):
    loss: Tensor | None = None
    losses: dict[str, Tensor] | None = None
    logits: dict[str, Tensor] | None = None


class SmallTasks(PreTrainedModel):
    """A BERT of 2 layers and a linear head for each task."""

    config_class = BertConfig

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.bert = BertModel(config, add_pooling_layer=False)
        self.heads = nn.ModuleDict({task: nn.Linear(32, size) for task, size in CLASSES.items()})
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        task: str | None = None,
        tasks: Mapping[str, Mapping[str, Tensor]] | None = None,
    ) -> Any:
        if tasks is None:
            return self.output(task, input_ids, attention_mask, labels)
        outputs = {name: self.output(name, **batch) for name, batch in tasks.items()}
        losses = {name: output.loss for name, output in outputs.items()}
        logits = {name: output.logits for name, output in outputs.items()}
        return TasksOutput(loss=sum(losses.values()), losses=losses, logits=logits)

    def output(
        self, task: str, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None
    ) -> SequenceClassifierOutput:
        vectors = self.bert(input_ids.flatten(0, -2), attention_mask.flatten(0, -2)).last_hidden_state[:, 0]
        if input_ids.ndim == 3:
            vectors = vectors.view(-1, 2, 32).prod(dim=1)
        logits = self.heads[task](vectors)
        loss = None
        if labels is not None:
            loss = F.mse_loss(logits[:, 0], labels) if task == "sim" else F.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


def small_tasks_model(dropout: float = 0.0, declared: bool = True) -> SmallTasks:
    """The same weights at each call; `declared` puts the tasks into the configuration."""
    config = tiny_config(
        "bert", 2, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout, initializer_range=0.1
    )
    if declared:
        config.tasks = {task: {} for task in CLASSES}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return SmallTasks(config)


def task_rows(task: str, count: int, seed: int = 0) -> list[dict[str, Any]]:
    """`count` rows of 3 to 12 random tokens."""
    made = rows(count, CLASSES[task], seed + list(CLASSES).index(task))
    for index, row in enumerate(made):
        ids = row["input_ids"]
        if task == "para":
            row |= {"swapped_input_ids": ids[::-1], "swapped_attention_mask": row["attention_mask"]}
        if task == "sim":
            row |= {"input_ids": [ids, ids[:2]], "attention_mask": [[1] * len(ids), [1, 1]]}
            row["labels"] = (index % 11) / 2
    return made


def train_sets(**counts: int) -> dict[str, list[dict[str, Any]]]:
    """As many rows of each task as are asked for; 26, 13 and 7 by default."""
    return {
        task: task_rows(task, count) for task, count in (counts or {"five": 26, "para": 13, "sim": 7}).items()
    }


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    hits = prediction.predictions.argmax(-1) == prediction.label_ids
    return {"accuracy": float(hits.mean()), "errors": float((~hits).sum())}


def closeness(prediction: EvalPrediction) -> dict[str, float]:
    error = ((prediction.predictions[:, 0] - prediction.label_ids) ** 2).mean()
    return {"mse": float(error), "closeness": float(1 / (1 + error))}


METRICS = {"five": accuracy, "para": accuracy, "sim": closeness}


def tasks_trainer(
    folder: Path,
    model: nn.Module | None = None,
    train: Any = None,
    callbacks: Any = None,
    compute_metrics: Any = METRICS,
    eval_dataset: Any = None,
    data_collator: Any = None,
    **changes: Any,
) -> LayerFusionTrainer:
    """A Trainer of `small_tasks_model` on `train_sets()`, evaluated on 9 rows of each task."""
    return LayerFusionTrainer(
        small_tasks_model() if model is None else model,
        small_arguments(folder, **changes),
        train_dataset=train_sets() if train is None else train,
        eval_dataset={task: task_rows(task, 9, seed=50) for task in CLASSES}
        if eval_dataset is None
        else eval_dataset,
        data_collator=data_collator,
        processing_class=tiny_tokenizer(),
        compute_metrics=compute_metrics,
        callbacks=callbacks,
    )
