"""GRUBERT: GRUs that fuse groups of an encoder's hidden layers."""

from typing import Any

import torch
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, can_return_tuple

from .configuration_gru_fusion import GRUFusionConfig
from .empty_texts import pads_empty_texts
from .fusion_base import LayerFuser
from .fusion_registry import build_token_fuser
from .heads import ClassificationHead, classification_loss, reduce_tokens
from .modeling_layer_fusion import LayerFusionModel, LayerFusionPreTrainedModel
from .recurrence import TOKEN_CELLS
from .residual_head import FusionOutput, ResidualHead
from .windows import WindowPooling, windows_of


def visible_mask(config: GRUFusionConfig, attention_mask: torch.Tensor | None) -> torch.Tensor | None:
    """Return the mask that the model uses: `None` if `config.mask_padding` is off, so that nothing is masked."""
    return attention_mask if config.mask_padding else None


class GRUFusionModel(LayerFusionModel):
    """Encoder whose layers are fused into one embedding per token (GRUBERT, section 2.2, the shaded part of Figure 1).

    `last_hidden_state` is `[B, T, D]`, with D = 200 · c for `share` and `cat` at the paper's sizes.
    """

    config: GRUFusionConfig

    @staticmethod
    def build_fuser(config: GRUFusionConfig) -> LayerFuser:
        """Return the token fuser named by `config.fusion`."""
        return build_token_fuser(config)

    @pads_empty_texts
    def read_states(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Run the encoder and return the states that the fuser uses; see `LayerFusionModel.read_states`."""
        return super().read_states(
            input_ids, visible_mask(self.config, attention_mask), token_type_ids, **kwargs
        )

    @pads_empty_texts
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        encoder_states: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> FusionOutput:
        """Encode and fuse; the arguments are those of `LayerFusionModel.encode_and_fuse`."""
        mask = visible_mask(self.config, attention_mask)
        fused, outputs = self.encode_and_fuse(
            input_ids, mask, token_type_ids, inputs_embeds, encoder_states, **kwargs
        )
        return FusionOutput(
            last_hidden_state=fused,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            encoder_last_hidden_state=outputs.last_hidden_state if self.config.residual_head else None,
        )


class BertForGRUFusionClassification(LayerFusionPreTrainedModel):
    """GRUBERT's classifier: fused embeddings, a downstream bi-GRU, ReLU, a dense layer, and logits per token, reduced
    over the tokens.

    It follows section 2.2 of the paper; ReLU after the GRU and the sum over tokens are those of the public code. The
    class is named after BERT because the paper uses it, but the encoder may be of any architecture.
    """

    config: GRUFusionConfig

    def __init__(self, config: GRUFusionConfig, encoder: PreTrainedModel | None = None):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.model = GRUFusionModel(config, encoder)
        size = self.model.fuser.output_size
        self.downstream = None
        if config.downstream_hidden_size:
            self.downstream = TOKEN_CELLS[config.downstream_cell](size, config.downstream_hidden_size)
            size = 2 * config.downstream_hidden_size
        self.classifier = ClassificationHead(
            size, config.dense_size, config.num_labels, config.classifier_dropout, bool(config.residual_head)
        )
        self.windows = None
        if config.window_size is not None:
            self.windows = WindowPooling(config.window_pooling, size)
        self.residual = None
        if config.residual_head:
            self.residual = ResidualHead(
                config.residual_head, config.hidden_size, config.num_labels, config.classifier_dropout
            )
        self.post_init()

    @pads_empty_texts
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        encoder_states: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SequenceClassifierOutput:
        """Classify texts; those of more than `config.window_size` tokens in windows, whose logits are pooled.

        Args:
            input_ids: Token ids `[B, T]`.
            attention_mask: `[B, T]`, 1 for real tokens, 0 for padding.
            token_type_ids: `[B, T]`, for encoders that distinguish the texts of a pair.
            inputs_embeds: `[B, T, H]` in place of `input_ids`.
            labels: `[B]` class indices or targets, or `[B, num_labels]` for several labels per text.
            encoder_states: `[B, R, T, H]` from `model.read_states`, in place of the encoder's inputs.
            kwargs: Further arguments of the encoder.

        Returns:
            `logits` `[B, num_labels]`, `loss` if `labels` are given, and the encoder's `hidden_states` and `attentions`
            if requested, those of each window where there are several.
        """
        split = windows_of(self.config, input_ids, attention_mask, inputs_embeds)
        if split is not None:
            input_ids, token_type_ids, inputs_embeds = map(
                split.take, (input_ids, token_type_ids, inputs_embeds)
            )
            attention_mask, kwargs = split.mask, split.take_all(kwargs)
        outputs = self.model(
            input_ids, attention_mask, token_type_ids, inputs_embeds, encoder_states, **kwargs
        )
        mask = visible_mask(self.config, attention_mask)
        states = outputs.last_hidden_state
        if self.downstream is not None:
            states = self.downstream(states, mask)
        logits = reduce_tokens(self.classifier(F.relu(states)), mask, self.config.token_reduction)
        if self.residual is not None:
            logits = logits + self.residual(outputs.encoder_last_hidden_state, mask)
        if self.windows is not None:
            keys = reduce_tokens(F.relu(states), mask, "mean")
            logits = self.windows(logits, keys, None if split is None else split.texts)
        loss = None
        if labels is not None:
            loss = classification_loss(logits, labels, self.config.problem_type, self.num_labels)
        return SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )
