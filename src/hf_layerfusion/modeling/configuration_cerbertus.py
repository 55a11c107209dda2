# Copyright 2026 The hf_layerfusion team
"""Configuration of CerBERTus: its encoders and its tasks."""

import dataclasses
import re
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from torch import nn

from .configuration_layer_fusion import LayerFusionConfig
from .encoders import default_vector
from .task_config import TaskConfig
from .task_heads import build_heads

ENCODERS = ("shared", "own", "frozen")
ONLY_TASK = "default"


@strict
class CerbertusConfig(LayerFusionConfig):
    """Configuration of `CerbertusModel` and `CerbertusForMultitask` (SerBERTus, section 3 and Figure 8).

    Args:
        encoder_config: Configuration of the encoder, of any architecture.
        encoders: Encoders whose sentence vectors are concatenated for each task: `"shared"`, one encoder for all tasks;
            `"own"`, one encoder for each task; `"frozen"`, the pretrained encoder with fixed weights. The paper's
            architectures: `multi` and CerBERTus are `["shared"]`, `triple` is `["own"]`, `multi + triple` is
            `["shared", "own"]`, static and fine-tuned is `["shared", "frozen"]`.
        num_task_layers: Number k of top layers of the shared encoder of which each task has its own copy; 0 is `multi`.
        tasks: Fields of `TaskConfig` by task name. If there are none, the model has a single task, `"default"`, a
            classifier of single texts described by `num_labels` and `problem_type`.
        task_name: Default task, used where no task is named; None means the first. `id2label`, `label2id`, `num_labels`
            and `problem_type` are those of this task.

    Raises:
        ValueError: If the encoders, the number of layers or a task are invalid; the message names the task.
    """

    model_type = "cerbertus"

    encoders: list[str] = dataclasses.field(default_factory=lambda: ["shared"])
    num_task_layers: int = 0
    tasks: dict[str, dict[str, Any]] | None = None
    task_name: str | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.tasks:
            # Stored by name, because a saved configuration sorts its tasks.
            self.task_name = self.default_task
        given = kwargs.get("num_labels")
        if self.tasks and given not in (None, self.num_labels):
            raise ValueError(
                f"`num_labels` must be left to `tasks`, found {given} where task '{self.default_task}' has "
                f"{self.num_labels}; give the task's `labels`."
            )

    @property
    def task_configs(self) -> dict[str, TaskConfig]:
        """Task configurations by name.

        Raises:
            ValueError: If a task is invalid; the message names it.
        """
        if not self.tasks:
            labels = [self.id2label[index] for index in range(self.num_labels)]
            guessed = "regression" if len(labels) == 1 else "single_label_classification"
            only: dict[str, Any] = {"problem_type": self.problem_type or guessed}
            if only["problem_type"] != "regression":
                only["labels"] = labels
            only["sentence_vector"] = default_vector(self.get_text_config())
            return {ONLY_TASK: TaskConfig(**only)}
        known = {field.name for field in dataclasses.fields(TaskConfig)}
        found = {}
        for name, fields in self.tasks.items():
            unknown = sorted(fields.keys() - known)
            if unknown:
                raise ValueError(
                    f"task '{name}': fields must be of {sorted(known)}, found {unknown}; leave them out."
                )
            try:
                found[name] = TaskConfig(**fields)
            except (ValueError, StrictDataclassError) as error:
                raise ValueError(f"task '{name}': {' '.join(str(error).split())}") from error
            # transformers accepts a single label because it cannot know better; a declared task states its classes.
            if found[name].problem_type == "single_label_classification" and found[name].num_labels < 2:
                raise ValueError(
                    f"task '{name}': `labels` must name two or more classes, found {found[name].labels}; name them all."
                )
        return found

    @property
    def task_names(self) -> list[str]:
        """Names of the tasks, in order."""
        return list(self.tasks or (ONLY_TASK,))

    @property
    def has_one_encoder(self) -> bool:
        """True if all tasks read the states of the same encoder."""
        return self.encoders in (["shared"], ["frozen"]) and self.num_task_layers == 0

    @property
    def default_task(self) -> str:
        """Name of the task that is used where none is named."""
        return self.task_name or self.task_names[0]

    def check(self) -> None:
        """Raise `ValueError` if the encoders, the number of task layers or a task are invalid."""
        if (
            not self.encoders
            or set(self.encoders) - set(ENCODERS)
            or len(set(self.encoders)) < len(self.encoders)
        ):
            raise ValueError(
                f"`encoders` must name one or more of {list(ENCODERS)}, each once, found {self.encoders}; the default "
                "is ['shared']."
            )
        names = self.task_names
        for name in names:
            # Task names become attribute names of an `nn.ModuleDict`.
            if not re.fullmatch(r"[\w-]+", name) or hasattr(nn.ModuleDict(), name):
                raise ValueError(
                    f"`tasks` must have names of letters, digits, '_' and '-' that torch does not use itself, found "
                    f"{name!r}; choose another."
                )
        if self.default_task not in names:
            raise ValueError(
                f"`task_name` must be one of {names}, found {self.task_name!r}; None is the first."
            )
        self.choose_vectors()
        tasks = self.task_configs
        self.show_default_task(tasks)
        super().check()
        depth = self.num_hidden_layers if "shared" in self.encoders else 0
        if not 0 <= self.num_task_layers <= depth:
            raise ValueError(
                f"`num_task_layers` must lie between 0 and {depth}, the shared encoder's depth, found "
                f"{self.num_task_layers}; lower it."
            )
        # Build the heads without allocating memory, so that an invalid setting is refused here.
        with torch.device("meta"):
            build_heads(tasks, self.encoders, self.get_text_config())

    def choose_vectors(self) -> None:
        """Set the sentence vector of tasks that do not specify one: the last token of a causal encoder, the mean over
        word embeddings.
        """
        vector = default_vector(self.get_text_config())
        if not self.tasks or vector == "cls":
            return
        tasks = {}
        for name, fields in self.tasks.items():
            fusion = fields.get("fusion")
            if isinstance(fusion, dict) and "pooling" in fusion:
                tasks[name] = {**fields, "fusion": {"token_pooling": vector, **fusion}}
            else:
                tasks[name] = {"sentence_vector": vector, **fields}
        self.tasks = tasks

    def show_default_task(self, tasks: dict[str, TaskConfig]) -> None:
        """Set `id2label`, `label2id` and `problem_type` to those of the default task."""
        if not self.tasks:
            return
        task = tasks[self.default_task]
        labels = task.labels or [self.default_task]
        self.id2label = dict(enumerate(labels))
        self.label2id = {label: index for index, label in enumerate(labels)}
        self.problem_type: str | None = task.problem_type

    @property
    def paper_name(self) -> str:
        """Name of the architecture in the paper, such as `"cerbertus-2"` or `"multi-triple"`."""
        names = {"shared": "multi", "own": "triple", "frozen": "static"}
        if self.num_task_layers:
            names["shared"] = f"cerbertus-{self.num_task_layers}"
        return "-".join(names[kind] for kind in self.encoders)
