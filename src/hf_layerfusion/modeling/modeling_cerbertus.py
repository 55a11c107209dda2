"""CerBERTus: one model for several tasks that share any part of their encoder."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, SequenceClassifierOutput
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs, can_return_tuple

from .batch_joining import MODEL_INPUTS, flatten_pairs, join_batches
from .configuration_cerbertus import CerbertusConfig
from .empty_texts import pads_empty_texts, with_tokens
from .encoder_states import StateSpec, joined_spec, scatter_states, select_tokens
from .label_rows import RequestedLabels
from .layer_routing import ALL_ROWS, Route, TaskStates, copy_module
from .modeling_cerbertus_encoders import CerbertusModel, CerbertusPreTrainedModel, take_extra_inputs
from .peft_adapters import adapter_of, has_task_adapters
from .sentence_vectors import Pooler
from .task_heads import TaskOutput, build_heads
from .task_label_rows import rename_only_task, set_tasks


@dataclass
class MultitaskOutput(ModelOutput):
    """Outputs of several tasks.

    Attributes:
        loss: Sum of the tasks' losses; None unless every task was given labels.
        losses: Loss of each task that was given labels.
        logits: Logits `[B, num_labels]` of each task.
    """

    loss: torch.Tensor | None = None
    losses: dict[str, torch.Tensor] | None = None
    logits: dict[str, torch.Tensor] | None = None


class CerbertusForMultitask(CerbertusPreTrainedModel):
    """CerBERTus (SerBERTus, section 3): partly shared encoders and a head for each task.

    Call it with `task` for one task, or with `tasks` for several in one pass, in which the shared layers run once on
    all rows. Called like any other classifier, it computes the default task.
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
        """Copy the weights of the pretrained pooler into the poolers of the tasks.

        Raises:
            ValueError: If there is no pretrained pooler and one in front of the frozen encoder would stay random.
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
        """Return every pooler on an encoder's output, with the kind of the encoder."""
        readers = [item for head in self.heads.values() for item in head.readers.items()]
        plain = [(kind, reader.vector) for kind, reader in readers if reader.fuser is None]
        return [(kind, vector) for kind, vector in plain if isinstance(vector, Pooler)]

    def freeze(self) -> None:
        """Switch off the gradients of the frozen encoder and of its poolers."""
        self.model.freeze()
        for kind, vector in self.poolers():
            if kind == "frozen":
                vector.requires_grad_(False)

    def set_labels(self, asked: RequestedLabels) -> None:
        """Change the labels of the tasks; see `label_rows.set_labels`."""
        if self.config.tasks:
            if asked.tasks is not None:
                set_tasks(self, asked.tasks)
            return
        super().set_labels(asked)
        if asked.names is not None:
            rename_only_task(self, asked.names, self.config.problem_type)

    def task(self, name: str) -> "CerbertusForMultitask":
        """Return the same model, sharing its weights, with another default task, for `pipeline("text-classification",
        …)`.

        Raises:
            ValueError: If there is no such task.
        """
        view = copy.copy(self)
        view.config = copy.copy(self.config)
        view.choose_task(name)
        return view

    def choose_task(self, name: str) -> None:
        """Make `name` the default task.

        Raises:
            ValueError: If there is no such task.
        """
        self.config.task_name = name
        self.config.check()
        self.num_labels = self.config.num_labels

    def set_adapter(self, adapter_name: list[str] | str) -> None:
        """Activate an adapter as in transformers, or choose the default task if each task has its own adapter.

        The adapter of a task is active whenever that task is computed.
        """
        if isinstance(adapter_name, str) and has_task_adapters(self, self.config.task_names):
            self.choose_task(adapter_name)
        else:
            super().set_adapter(adapter_name)

    @pads_empty_texts
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
        encoder_states: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SequenceClassifierOutput | MultitaskOutput:
        """Compute one task or several.

        Args:
            input_ids: Token ids `[B, T]`, or `[B, 2, T]` for siamese pairs.
            attention_mask: Mask of the same shape, 1 for real tokens, 0 for padding.
            token_type_ids: Token types of the same shape, for encoders that distinguish the texts of a pair.
            inputs_embeds: `[B, T, H]` or `[B, 2, T, H]` in place of `input_ids`, for models with one encoder.
            labels: `[B]` classes or values, or `[B, num_labels]` for several labels per text.
            task: Name of the task; None is the default task.
            tasks: Batches of several tasks by name, each a dict of the arguments above, in place of these. Tasks that
                are given the same tensors share their rows: the texts run through the shared layers once.
            encoder_states: `[B, R, T, H]` from `read_states` for these texts, or `[B, 2, R, T, H]` for siamese pairs,
                in place of all inputs of the encoder, which then does not run.
            kwargs: Further arguments of the encoder, for a single task.

        Returns:
            For one task `logits` `[B, num_labels]`, `loss` if `labels` are given, and the first encoder's
            `hidden_states` and `attentions` if requested. For `tasks` a `MultitaskOutput`.

        Raises:
            ValueError: If a task is unknown, or its inputs have the wrong shape.
        """
        inputs = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
            "inputs_embeds": inputs_embeds,
            "encoder_states": encoder_states,
            **take_extra_inputs(kwargs, self.config),
        }
        if tasks is not None:
            given = {name: value for name, value in inputs.items() if value is not None}
            if given or labels is not None or task is not None:
                raise ValueError(
                    "`tasks` must hold all inputs and labels, found others outside it; move them there."
                )
            return self.forward_tasks(tasks)
        return self.forward_task(self.config.default_task if task is None else task, inputs, labels, **kwargs)

    def forward_task(
        self, name: str, inputs: Mapping[str, torch.Tensor | None], labels: torch.Tensor | None, **kwargs: Any
    ) -> SequenceClassifierOutput:
        """Compute one task; see `forward`."""
        head = self.head_of(name)
        with adapter_of(self, name, self.config.task_names):
            batch = flatten_pairs(inputs, name, head.task.is_siamese)
            if "encoder_states" in batch:
                states, outputs = self.given_states(batch, kwargs)
            else:
                states, outputs = self.model.encode_one(name, batch, head.reads_layers, **kwargs)
            output = head(states, batch.get("attention_mask"), labels)
        return SequenceClassifierOutput(
            loss=output.loss,
            logits=output.logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def forward_tasks(self, tasks: Mapping[str, Mapping[str, torch.Tensor]]) -> MultitaskOutput:
        """Compute the tasks given as `tasks` of `forward`."""
        batches, labels = {}, {}
        for name, batch in tasks.items():
            self.head_of(name)
            known = [*MODEL_INPUTS, *self.config.extra_inputs, "labels"]
            unknown = sorted(batch.keys() - set(known))
            if unknown:
                raise ValueError(f"the batch of task '{name}' must hold {known}, found {unknown}; omit them.")
            given = {key: value for key, value in batch.items() if key != "labels"}
            batches[name] = with_tokens(given, self.config)
            if batch.get("labels") is not None:
                labels[name] = batch["labels"]
        if any("encoder_states" in batch for batch in batches.values()):
            # There is no pass of the encoder to share.
            return self.output_of_tasks(
                {name: self.forward_task(name, batch, labels.get(name)) for name, batch in batches.items()}
            )
        siamese = [name for name in tasks if self.heads[name].task.is_siamese]
        pad_token_id = getattr(self.config.get_text_config(), "pad_token_id", None) or 0
        outputs = self.forward_routes(*join_batches(batches, siamese, pad_token_id), labels)
        return self.output_of_tasks(outputs)

    @staticmethod
    def output_of_tasks(outputs: Mapping[str, TaskOutput | SequenceClassifierOutput]) -> MultitaskOutput:
        """Return the outputs of several tasks as one."""
        losses = {name: output.loss for name, output in outputs.items() if output.loss is not None}
        return MultitaskOutput(
            loss=torch.stack(list(losses.values())).sum() if len(losses) == len(outputs) else None,
            losses=losses or None,
            logits={name: output.logits for name, output in outputs.items()},
        )

    @property
    def state_spec(self) -> StateSpec:
        """Specification of the states that `read_states` returns: all that the tasks read of their one encoder."""
        heads: Any = self.heads.values()
        return joined_spec([head.state_spec for head in heads])

    @pads_empty_texts
    def read_states(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Run the encoder that all tasks share and return the states that they read, `[B, R, T, H]`; see
        `LayerFusionModel.read_states`.

        Args:
            input_ids: Token ids `[B, T]`; of siamese pairs the rows of both texts, as `flatten(0, 1)` makes them.
            attention_mask: As `token_type_ids`, an input of the encoder, `[B, T]`.
            token_type_ids: See above.
            kwargs: The encoder's `extra_inputs`.

        Raises:
            ValueError: If tasks have encoders or layers of their own, or the ids are not `[B, T]`.
        """
        self.check_one_encoder()
        if input_ids.dim() != 2:
            raise ValueError(
                f"`input_ids` must be [B, T], found {list(input_ids.shape)}; flatten the two texts of siamese pairs "
                "into rows of their own."
            )
        given = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        inputs = {name: value for name, value in {**given, **kwargs}.items() if value is not None}
        route = Route(self.config.default_task, ALL_ROWS, len(input_ids))
        (states,), _ = self.model.encode(inputs, [route], with_layers=True)
        (of_encoder,) = states.values()
        spec = self.state_spec
        return select_tokens([of_encoder.layers[i] for i in spec.layers], attention_mask, spec.tokens)

    def given_states(
        self, inputs: Mapping[str, torch.Tensor], others: Mapping[str, Any]
    ) -> tuple[dict[str, TaskStates], BaseModelOutput]:
        """Return the states that `inputs` hold as those of the encoder; see `encoder_states` of `forward`."""
        self.check_one_encoder()
        not_encoder = ("encoder_states", "attention_mask")
        others = {name: value for name, value in {**inputs, **others}.items() if name not in not_encoder}
        states, mask = inputs["encoder_states"].to(self.dtype), inputs.get("attention_mask")
        if mask is not None and mask.shape[-1] != states.shape[-2]:
            raise ValueError(
                f"`attention_mask` must be of the {states.shape[-2]} tokens of `encoder_states`, found "
                f"{mask.shape[-1]}; leave it out where `state_spec.tokens` is not 'all'."
            )
        layers: Any = scatter_states(states, self.state_spec, self.config.num_hidden_layers, others)
        highest = layers[self.state_spec.layers[-1]]
        (kind,) = self.config.encoders
        return {kind: TaskStates(highest, layers)}, BaseModelOutput(last_hidden_state=highest)

    def check_one_encoder(self) -> None:
        """Raise `ValueError` if tasks have encoders, layers or adapters of their own, and thus read different
        states."""
        if not self.config.has_one_encoder or has_task_adapters(self, self.config.task_names):
            raise ValueError(
                "`encoder_states` need one encoder that all tasks share, found "
                f"encoders={self.config.encoders} with num_task_layers={self.config.num_task_layers}"
                f"{' and an adapter for each task' if self.config.has_one_encoder else ''}; "
                "set encoders=['shared'] and num_task_layers=0."
            )

    def forward_routes(
        self,
        inputs: Mapping[str, torch.Tensor],
        routes: Sequence[Route],
        labels: Mapping[str, torch.Tensor] | None = None,
    ) -> dict[str, TaskOutput]:
        """Compute each route's task on its rows of one batch of sequences.

        If each task has its own adapter, the tasks share no layers and run one after the other.

        Args:
            inputs: Tensors `[B, T]`; the two texts of a siamese pair are consecutive rows.
            routes: Tasks and their rows.
            labels: Labels by task.
        """
        if not has_task_adapters(self, self.config.task_names):
            return self.forward_jointly(inputs, routes, labels)
        outputs: dict[str, TaskOutput] = {}
        for route in routes:
            rows = {name: value[route.rows] for name, value in inputs.items()}
            with adapter_of(self, route.task, self.config.task_names):
                outputs |= self.forward_jointly(rows, [route._replace(rows=ALL_ROWS)], labels)
        return outputs

    def forward_jointly(
        self,
        inputs: Mapping[str, torch.Tensor],
        routes: Sequence[Route],
        labels: Mapping[str, torch.Tensor] | None,
    ) -> dict[str, TaskOutput]:
        """Compute the tasks of all routes in one pass; see `forward_routes`."""
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
        """Return the head of `task`.

        Raises:
            ValueError: If there is no such task.
        """
        if task not in self.heads:
            raise ValueError(
                f"`task` must be one of {list(self.heads)}, found {task!r}; the model has no other."
            )
        return self.heads[task]
