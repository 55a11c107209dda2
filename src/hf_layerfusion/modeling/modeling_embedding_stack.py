"""Several word embeddings side by side (GRUBERT, Table 5: ELMo-mix, Flair-mix)."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import can_return_tuple

from .configuration_embedding_stack import EmbeddingStackConfig
from .empty_texts import pads_empty_texts
from .modeling_elmo import ElmoModel
from .modeling_flair import FlairModel
from .modeling_static_embeddings import StaticEmbeddingsModel
from .modeling_word_pooled import WordPooledModel
from .word_encoders import ContextualWordEncoder, WordEncoder, build_inner, real_words, shown_states

MEMBERS: tuple[Any, ...] = (ElmoModel, FlairModel, StaticEmbeddingsModel, WordPooledModel)
"""Classes of the members; their code is saved with a stack."""


class EmbeddingStackModel(WordEncoder):
    """The vectors of several embeddings of the same words side by side, as one encoder.

    H is the sum of the members' widths, L the depth of the deepest. A member of fewer layers has each of them several
    times: a static one in every layer.

    Args:
        config: the configuration.
        members: loaded members; built from `config.members` with random weights where they are missing.
        rows: of each static member, its row for each id, `[vocab_size]`; the others' entries are not read.
    """

    config: EmbeddingStackConfig
    config_class = EmbeddingStackConfig
    # One encoder, though it holds others.
    is_encoder_stack = True

    def __init__(
        self,
        config: EmbeddingStackConfig,
        members: Sequence[WordEncoder] | None = None,
        rows: Sequence[torch.Tensor | None] | None = None,
    ):
        super().__init__(config)
        if members is None:
            members = [build_inner(member, MEMBERS) for member in cast(list[Any], config.members)]
        else:
            for module in (module for member in members for module in member.modules()):
                module._is_hf_initialized = True  # else `post_init` draws its weights anew
        # In a dict, as a list of L modules would be taken for the layers.
        self.members: Any = nn.ModuleDict({str(number): member for number, member in enumerate(members)})
        self.words = nn.Identity()
        for number, member in enumerate(members):
            if reads_characters(member):
                continue
            given = None if rows is None else rows[number]
            first = first_rows(config.vocab_size, member) if given is None else given.to(torch.int32)
            first._is_hf_initialized = given is not None  # type: ignore[attr-defined]  # `post_init` then keeps it
            self.register_buffer(rows_name(number), first)
        config.hidden_size = sum(member.config.hidden_size for member in members)
        config.num_hidden_layers = max(member.config.num_hidden_layers for member in members)
        self.freeze_embeddings()
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self:
            for number, member in enumerate(self.members.values()):
                if not reads_characters(member):
                    rows = getattr(self, rows_name(number))
                    init.copy_(rows, first_rows(len(rows), member))

    def freeze_embeddings(self) -> None:
        """Freeze the members that are not trained; see `EmbeddingStackConfig`."""
        every, configured = self.config.train_embeddings, cast(list[Any], self.config.members)
        for member, own in zip(self.members.values(), configured, strict=True):
            member.config.train_embeddings = own.get("train_embeddings", False) if every is None else every
            member.freeze_embeddings()

    def train(self, mode: bool = True) -> "EmbeddingStackModel":
        """Set the training mode; frozen members stay in evaluation mode."""
        nn.Module.train(self, mode)
        self.training = any(member.training for member in self.members.values())
        return self

    def get_input_embeddings(self) -> nn.Module:
        """Return the module whose output is the members' vectors of each word, before they see each other."""
        return self.words

    def set_input_embeddings(self, value: Any) -> None:
        """Raise `NotImplementedError`, as the vocabulary cannot grow."""
        raise NotImplementedError("The members of a stack have vocabularies of their own, which cannot grow.")

    @pads_empty_texts
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        char_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutput:
        """Encode words; arguments and output are those of `ContextualWordEncoder.forward`.

        Raises:
            ValueError: if a member lacks its input.
        """
        if inputs_embeds is None and input_ids is None:
            raise ValueError(
                "one of `input_ids` and `inputs_embeds` must be given, found neither; give the ids."
            )
        real = real_words(attention_mask, inputs_embeds, char_ids, input_ids, self.config.pad_token_id)
        if inputs_embeds is None:
            embedded = torch.cat(
                [
                    self.embed(number, member, input_ids, char_ids, real, token_type_ids)
                    for number, member in enumerate(self.members.values())
                ],
                dim=-1,
            )
        else:
            embedded = inputs_embeds
        widths = [member.embedded_size for member in self.members.values()]
        parts = self.words(embedded).split(widths, dim=-1)
        layers = [
            member.read_texts(part, real, token_type_ids)
            for member, part in zip(self.members.values(), parts, strict=True)
        ]
        depth: Any = self.config.num_hidden_layers
        states = [
            torch.cat([of_member[level * len(of_member) // depth] for of_member in layers], dim=-1)
            for level in range(depth)
        ]
        return shown_states(states, self.config, output_hidden_states)

    def embed(
        self,
        number: int,
        member: Any,
        input_ids: torch.Tensor | None,
        char_ids: torch.Tensor | None,
        real: torch.Tensor,
        types: torch.Tensor | None,
    ) -> torch.Tensor:
        """Return what a member makes of each word before it sees the others, `[B, T, E]`."""
        if reads_characters(member):
            return member.embed_texts(char_ids, real, types)
        return member.embeddings(getattr(self, rows_name(number))[input_ids].long())


def reads_characters(member: Any) -> bool:
    """Return whether a member reads `char_ids` in place of ids."""
    return isinstance(member, ContextualWordEncoder) or "char_ids" in getattr(
        member.config, "extra_inputs", ()
    )


def first_rows(count: int, member: Any) -> torch.Tensor:
    """Return the rows of a static member that has the vocabulary of the stack: as the ids, up to its last one."""
    return torch.arange(count, dtype=torch.int32).clamp(max=member.config.vocab_size - 1)


def rows_name(number: int) -> str:
    """Return the name of the buffer of a static member's rows."""
    return f"rows_{number}"
