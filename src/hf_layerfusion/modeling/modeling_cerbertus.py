"""CerBERTus: one model for several tasks, which share as much of their encoder as wanted."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs, can_return_tuple

from .batch_joining import MODEL_INPUTS, flatten_pairs, join_batches
from .configuration_cerbertus import CerbertusConfig
from .label_rows import RequestedLabels
from .layer_routing import ALL_ROWS, Route, copy_module
from .modeling_cerbertus_encoders import CerbertusModel, CerbertusPreTrainedModel, take_extra_inputs
from .peft_adapters import adapter_of, has_task_adapters
from .sentence_vectors import Pooler
from .task_heads import TaskOutput, build_heads
from .task_label_rows import rename_only_task, set_tasks


@dataclass
class MultitaskOutput(ModelOutput):
    """Answers of several tasks.

    Attributes:
        loss: sum of the tasks' losses; None unless every task was given labels.
        losses: loss of each task that was given labels.
        logits: `[B, num_labels]` of each task.
    """

    loss: torch.Tensor | None = None
    losses: dict[str, torch.Tensor] | None = None
    logits: dict[str, torch.Tensor] | None = None


class CerbertusForMultitask(CerbertusPreTrainedModel):
    """CerBERTus (SerBERTus, section 3): encoders that tasks share in part, and a head for each task.

    Called with `task`, it answers one; with `tasks`, several in one pass, in which the shared layers run once over all
    their rows. Called like any classifier, it answers the default task.
    """

    def __init__(self, config: CerbertusConfig, encoder: PreTrainedModel | None = None):
        super().__init__(config)
        config.check()
        self.num_labels = config.num_labels
        pooler = getattr(encoder, "pooler", None)
        self.heads: Any = build_heads(config.task_configs, config.encoders, config.get_text_config())
        self.model = CerbertusModel(config, encoder)
        if encoder is not None:
            self.start_poolers(pooler)
        self.freeze()
        self.post_init()

    def start_poolers(self, pooler: nn.Module | None) -> None:
        """Gives the tasks' poolers the pretrained pooler's weights.

        Raises:
            ValueError: if there are none, and one would stay at random in front of the frozen encoder.
        """
        for kind, vector in self.poolers():
            dense = getattr(pooler, "dense", None)
            if dense is not None and dense.weight.shape == vector.dense.weight.shape:
                vector.dense = copy_module(dense)
            elif kind == "frozen":
                raise ValueError(
                    "`sentence_vector` must not be 'pooler' where a frozen encoder comes without a pretrained pooler; "
                    "use 'cls' or 'mean'."
                )

    def poolers(self) -> list[tuple[str, Pooler]]:
        """Every pooler that reads an encoder's output, with the kind of the encoder."""
        readers = [item for head in self.heads.values() for item in head.readers.items()]
        plain = [(kind, reader.vector) for kind, reader in readers if reader.fuser is None]
        return [(kind, vector) for kind, vector in plain if isinstance(vector, Pooler)]

    def freeze(self) -> None:
        """Switches off the gradients of the frozen encoder and of the poolers that belong to it."""
        self.model.freeze()
        for kind, vector in self.poolers():
            if kind == "frozen":
                vector.requires_grad_(False)

    def set_labels(self, asked: RequestedLabels) -> None:
        if self.config.tasks:
            if asked.tasks is not None:
                set_tasks(self, asked.tasks)
            return
        super().set_labels(asked)
        if asked.names is not None:
            rename_only_task(self, asked.names, self.config.problem_type)

    def task(self, name: str) -> "CerbertusForMultitask":
        """The same model, weights and all, with another default task: what `pipeline("text-classification", …)` takes.

        Raises:
            ValueError: if there is no such task.
        """
        view = copy.copy(self)
        view.config = copy.copy(self.config)
        view.choose_task(name)
        return view

    def choose_task(self, name: str) -> None:
        """Makes `name` the default task.

        Raises:
            ValueError: if there is no such task.
        """
        self.config.task_name = name
        self.config.check()
        self.num_labels = self.config.num_labels

    def set_adapter(self, adapter_name: list[str] | str) -> None:
        """As in transformers; where each task has an adapter of its own, which is active whenever the task is answered,
        the task called so becomes the default one."""
        if isinstance(adapter_name, str) and has_task_adapters(self, self.config.task_names):
            self.choose_task(adapter_name)
        else:
            super().set_adapter(adapter_name)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        task: str | None = None,
        tasks: Mapping[str, Mapping[str, torch.Tensor]] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SequenceClassifierOutput | MultitaskOutput:
        """Answers one task or several.

        Args:
            input_ids: token ids `[B, T]`, of siamese pairs `[B, 2, T]`.
            attention_mask: of the same shape, 1 for real tokens, 0 for padding.
            token_type_ids: of the same shape, for encoders that tell a pair's texts apart.
            inputs_embeds: `[B, T, H]` or `[B, 2, T, H]` in place of `input_ids`, where there is one encoder.
            labels: `[B]` classes or values, or `[B, num_labels]` for several labels a text.
            task: the task; None is the default one.
            tasks: in place of all these: the named tasks' batches, each a dict of them. Tasks that are given the very
                same tensors share their rows: the texts run through the shared layers once.
            kwargs: further arguments of the encoder, for one task.

        Returns:
            For one task `logits` `[B, num_labels]`, `loss` where `labels` are given, the first encoder's
            `hidden_states` and `attentions` where asked. For `tasks` a `MultitaskOutput`.

        Raises:
            ValueError: if a task is unknown, or its inputs have not its shape.
        """
        inputs = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
            "inputs_embeds": inputs_embeds,
            **take_extra_inputs(kwargs, self.config),
        }
        if tasks is not None:
            given = {name: value for name, value in inputs.items() if value is not None}
            if given or labels is not None or task is not None:
                raise ValueError(
                    "`tasks` must hold all inputs and labels, found others beside it; move them there."
                )
            return self.forward_tasks(tasks)
        name = self.config.default_task if task is None else task
        head = self.head_of(name)
        with adapter_of(self, name, self.config.task_names):
            batch = flatten_pairs(inputs, name, head.task.is_siamese)
            states, outputs = self.model.encode_one(name, batch, head.reads_layers, **kwargs)
            answer = head(states, batch.get("attention_mask"), labels)
        return SequenceClassifierOutput(
            loss=answer.loss,
            logits=answer.logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def forward_tasks(self, tasks: Mapping[str, Mapping[str, torch.Tensor]]) -> MultitaskOutput:
        """Answers `tasks` of `forward`."""
        batches, labels = {}, {}
        for name, batch in tasks.items():
            self.head_of(name)
            known = [*MODEL_INPUTS, *self.config.extra_inputs, "labels"]
            unknown = sorted(batch.keys() - set(known))
            if unknown:
                raise ValueError(f"the batch of task '{name}' must hold {known}, found {unknown}; omit them.")
            batches[name] = {key: value for key, value in batch.items() if key != "labels"}
            if batch.get("labels") is not None:
                labels[name] = batch["labels"]
        siamese = [name for name in tasks if self.heads[name].task.is_siamese]
        pad_token_id = getattr(self.config.get_text_config(), "pad_token_id", None) or 0
        answers = self.forward_routes(*join_batches(batches, siamese, pad_token_id), labels)
        losses = {name: answer.loss for name, answer in answers.items() if answer.loss is not None}
        return MultitaskOutput(
            loss=torch.stack(list(losses.values())).sum() if len(losses) == len(tasks) else None,
            losses=losses or None,
            logits={name: answer.logits for name, answer in answers.items()},
        )

    def forward_routes(
        self,
        inputs: Mapping[str, torch.Tensor],
        routes: Sequence[Route],
        labels: Mapping[str, torch.Tensor] | None = None,
    ) -> dict[str, TaskOutput]:
        """Answers each route's task on its rows of one batch of sequences `[B, T]`; the rows of siamese pairs stand one
        text after the other. `labels` are by task. Where each task has an adapter of its own, they share no layer and
        run one after the other."""
        if not has_task_adapters(self, self.config.task_names):
            return self.forward_jointly(inputs, routes, labels)
        answers: dict[str, TaskOutput] = {}
        for route in routes:
            rows = {name: value[route.rows] for name, value in inputs.items()}
            with adapter_of(self, route.task, self.config.task_names):
                answers |= self.forward_jointly(rows, [route._replace(rows=ALL_ROWS)], labels)
        return answers

    def forward_jointly(
        self,
        inputs: Mapping[str, torch.Tensor],
        routes: Sequence[Route],
        labels: Mapping[str, torch.Tensor] | None,
    ) -> dict[str, TaskOutput]:
        """As `forward_routes`, in one pass."""
        with_layers = any(self.head_of(route.task).reads_layers for route in routes)
        states, _ = self.model.encode(inputs, routes, with_layers)
        mask = inputs.get("attention_mask")
        return {
            route.task: self.heads[route.task](
                each, None if mask is None else mask[route.rows], (labels or {}).get(route.task)
            )
            for route, each in zip(routes, states, strict=True)
        }

    def head_of(self, task: str) -> Any:
        """The head of `task`.

        Raises:
            ValueError: if there is no such task.
        """
        if task not in self.heads:
            raise ValueError(
                f"`task` must be one of {list(self.heads)}, found {task!r}; the model has no other."
            )
        return self.heads[task]
