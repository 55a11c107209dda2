"""The encoders of CerBERTus, shared by its tasks in any part."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, can_return_tuple

from .batch_joining import flatten_pairs
from .configuration_cerbertus import CerbertusConfig
from .empty_texts import pads_empty_texts
from .encoder_states import hidden_state_indices
from .encoders import (
    adopt_encoder_config,
    build_encoder,
    choose_normalization,
    final_norm,
    freeze_word_encoder,
    position_limit,
    refuse_long,
    without_pooler,
)
from .layer_routing import ALL_ROWS, Route, TaskStates, add_task_layers, copy_module, run_routed
from .modeling_layer_fusion import LayerFusionPreTrainedModel
from .peft_adapters import adapter_of


def take_extra_inputs(kwargs: Any, config: CerbertusConfig) -> dict[str, torch.Tensor]:
    """Remove from `kwargs`, and return, the inputs of texts that the encoder declares as its own."""
    return {name: kwargs.pop(name) for name in config.extra_inputs if name in kwargs}


class CerbertusPreTrainedModel(LayerFusionPreTrainedModel):
    """Base class of the CerBERTus models: loading an encoder with its pooler, and resizing the vocabulary of all
    encoders.
    """

    config: CerbertusConfig

    @classmethod
    def encoder_arguments(cls, config: Any) -> dict[str, bool]:
        """Keep the pooler of the encoder if a task uses it."""
        pooled = any(task.sentence_vector == "pooler" for task in config.task_configs.values())
        return {} if pooled else super().encoder_arguments(config)

    @classmethod
    def may_start_at_random(cls, name: str, config: Any) -> bool:
        """Allow a missing pooler, which is then trained, unless it belongs to the frozen encoder."""
        # A pooler is learned, unless it belongs to the frozen encoder.
        return name.startswith("pooler.") and "frozen" not in config.encoders

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Module:
        """Resize the embeddings of every encoder; see `PreTrainedModel.resize_token_embeddings`."""
        for encoder in list(self.base_model.encoders.values())[1:]:
            encoder.resize_token_embeddings(*args, **kwargs)
        return super().resize_token_embeddings(*args, **kwargs)


class CerbertusModel(CerbertusPreTrainedModel):
    """The encoders of CerBERTus; the shared one has a copy of its top layers for each task (SerBERTus, section 3).

    Args:
        config: Configuration of the model.
        encoder: Loaded encoder from which all encoders are copied; None uses random weights.
    """

    def __init__(self, config: CerbertusConfig, encoder: PreTrainedModel | None = None):
        super().__init__(config)
        config.check()  # loading may have changed fields
        if encoder is None:
            encoder = build_encoder(config.encoder_config)
        elif without_pooler(encoder.config) and encoder.pooler is not None:
            encoder.pooler = None  # tasks that need one have their own
        adopt_encoder_config(config, encoder)
        self.max_tokens = position_limit(encoder)
        tasks = config.task_names
        slots = [
            encoder_key(kind, task)
            for kind in config.encoders
            for task in (tasks if kind == "own" else tasks[:1])
        ]
        copies = [encoder, *(copy_module(encoder) for _ in slots[1:])]
        self.encoders: Any = nn.ModuleDict(dict(zip(slots, copies, strict=True)))
        self.choose_normalization()
        if "shared" in config.encoders:
            add_task_layers(self.encoders["shared"], tasks, config.num_task_layers)
        self.freeze()
        self.post_init()

    def choose_normalization(self) -> None:
        """Decide whether the layers are normalized before fusion; see `encoders.choose_normalization`."""
        choose_normalization(self.config, next(iter(self.encoders.values())))

    def freeze(self) -> None:
        """Switch off the gradients of the frozen encoder."""
        for encoder in self.encoders.values():
            freeze_word_encoder(encoder)
        if "frozen" in self.config.encoders:
            self.encoders["frozen"].requires_grad_(False)

    def train(self, mode: bool = True) -> "CerbertusModel":
        """Set the training mode; the frozen encoder stays in evaluation mode, without dropout."""
        super().train(mode)
        if "frozen" in self.config.encoders:
            self.encoders["frozen"].eval()
        return self

    def get_input_embeddings(self) -> nn.Module:
        """Return the word embeddings of the first encoder."""
        return next(iter(self.encoders.values())).get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the word embeddings of the first encoder."""
        next(iter(self.encoders.values())).set_input_embeddings(value)

    def encode(
        self, inputs: Mapping[str, torch.Tensor], routes: Sequence[Route], with_layers: bool, **kwargs: Any
    ) -> tuple[list[dict[str, TaskStates]], BaseModelOutput]:
        """Run the encoders on a batch with the rows of several tasks.

        Each shared layer runs once on all rows, each layer of a task on the rows of that task.

        Args:
            inputs: Tensors `[B, T]` by the names of the encoder's arguments.
            routes: Tasks and their rows.
            with_layers: Whether to return the states of all layers.
            kwargs: Further arguments of the encoders, for a single route.

        Returns:
            The states of each route's rows by the kind of the encoder, and the first encoder's own output.

        Raises:
            ValueError: If embeddings are given to several encoders.
        """
        if "inputs_embeds" in inputs and len(self.encoders) > 1:
            raise ValueError(
                f"`inputs_embeds` must be left out where there are {len(self.encoders)} encoders, each of which has "
                "embeddings of its own; give `input_ids`."
            )
        refuse_long(dict(inputs), self.max_tokens, self.config.get_text_config())
        found: list[dict[str, TaskStates]] = [{} for _ in routes]
        first = None
        for kind in self.config.encoders:
            num_layers = self.config.num_task_layers if kind == "shared" else 0
            # A task's own encoder processes the rows of the task, the others all rows.
            for group in [[index] for index in range(len(routes))] if kind == "own" else [range(len(routes))]:
                here, batch = [routes[index] for index in group], inputs
                if kind == "own":
                    batch = {name: value[here[0].rows] for name, value in inputs.items()}
                    here = [here[0]._replace(rows=ALL_ROWS)]
                encoder = self.encoders[encoder_key(kind, here[0].task)]
                norm = final_norm(self.config, encoder)
                outputs, states = run_routed(encoder, batch, here, num_layers, with_layers, norm, **kwargs)
                for index, each in zip(group, states, strict=True):
                    found[index][kind] = each
                first = first or outputs
        return found, first

    @pads_empty_texts
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        task: str | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutput:
        """Encode texts for one task.

        Args:
            input_ids: Token ids `[B, T]`.
            attention_mask: `[B, T]`, 1 for real tokens, 0 for padding.
            token_type_ids: `[B, T]`, for encoders that distinguish the texts of a pair.
            inputs_embeds: `[B, T, H]` in place of `input_ids`, for models with one encoder.
            task: Task whose layers are used; None is the default task.
            kwargs: Further arguments of the encoder; `output_hidden_states` may be a list of indices.

        Returns:
            `last_hidden_state` `[B, T, H]`, concatenated over several encoders; the first encoder's `hidden_states` and
            `attentions` if requested.
        """
        inputs = flatten_pairs(
            {
                "input_ids": input_ids,
                "attention_mask": attention_mask,
                "token_type_ids": token_type_ids,
                "inputs_embeds": inputs_embeds,
                **take_extra_inputs(kwargs, self.config),
            },
            task or self.config.default_task,
            is_siamese=False,
        )
        name = task or self.config.default_task
        with adapter_of(self, name, self.config.task_names):
            states, outputs = self.encode_one(name, inputs, False, **kwargs)
        outputs["last_hidden_state"] = torch.cat([each.last for each in states.values()], dim=-1)
        return outputs

    def encode_one(
        self, task: str, inputs: Mapping[str, torch.Tensor], with_layers: bool, **kwargs: Any
    ) -> tuple[dict[str, TaskStates], BaseModelOutput]:
        """Encode the whole batch for one task, with `hidden_states` and `attentions` only if requested; see `encode`.

        Raises:
            ValueError: If there is no such task.
        """
        if task not in self.config.task_names:
            raise ValueError(
                f"`task` must be one of {self.config.task_names}, found {task!r}; the model has no other."
            )
        asked = kwargs.pop("output_hidden_states", None)
        asked = self.config.output_hidden_states if asked is None else asked
        if kwargs.get("output_attentions") is None:
            kwargs["output_attentions"] = self.config.output_attentions
        shown = hidden_state_indices(asked, self.config.num_hidden_layers)
        route = Route(task, ALL_ROWS, next(iter(inputs.values())).shape[0])
        (states,), outputs = self.encode(inputs, [route], with_layers or bool(shown), **kwargs)
        hidden_states = outputs.get("hidden_states")
        if shown:
            hidden_states = tuple(state if i in shown else None for i, state in enumerate(hidden_states))
        return states, BaseModelOutput(
            last_hidden_state=outputs.last_hidden_state,
            hidden_states=hidden_states if shown else None,
            attentions=outputs.get("attentions"),
        )


def encoder_key(kind: str, task: str) -> str:
    """Return the key of an encoder in the model: the encoder of a task is named after the task."""
    return f"own_{task}" if kind == "own" else kind
