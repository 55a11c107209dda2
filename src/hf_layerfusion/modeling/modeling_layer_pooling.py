"""BERT-LSTM and BERT-Attention: the text's vector at every layer, pooled over the layers."""

import torch
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling, SequenceClassifierOutput
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, can_return_tuple

from .choices import unknown_name
from .configuration_layer_pooling import LayerPoolingConfig
from .fusion_base import LayerFuser
from .fusion_pooling import SENTENCE_FUSERS
from .heads import ClassificationHead, classification_loss
from .modeling_layer_fusion import LayerFusionModel, LayerFusionPreTrainedModel
from .residual_head import ResidualHead


class LayerPoolingModel(LayerFusionModel):
    """An encoder and a pooling over its layers: `pooler_output` is the pooled vector `[B, H]`, `last_hidden_state`
    the encoder's own.

    Raises:
        ValueError: if `config.pooling` names no pooling.
    """

    config: LayerPoolingConfig

    @staticmethod
    def build_fuser(config: LayerPoolingConfig) -> LayerFuser:
        if config.pooling not in SENTENCE_FUSERS:
            raise unknown_name("pooling", config.pooling, SENTENCE_FUSERS)
        fuser = SENTENCE_FUSERS[config.pooling]
        return fuser(config.num_hidden_layers, config.hidden_size, config.token_pooling or "cls")

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        encoder_states: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        """Encodes and pools; the arguments are those of `LayerFusionModel.encode_and_fuse`."""
        pooled, outputs = self.encode_and_fuse(
            input_ids, attention_mask, token_type_ids, inputs_embeds, encoder_states, **kwargs
        )
        return BaseModelOutputWithPooling(pooler_output=pooled, **outputs)


class BertWithPoolingModule(LayerFusionPreTrainedModel):
    """The pooled vector, dropout and a dense layer to the labels (Song et al. 2020, section 2.2 and Figure 1).

    The name says Bert because the paper does; the encoder may be of any architecture.
    """

    config: LayerPoolingConfig

    def __init__(self, config: LayerPoolingConfig, encoder: PreTrainedModel | None = None):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.model = LayerPoolingModel(config, encoder)
        size = self.model.fuser.output_size
        self.classifier = ClassificationHead(
            size, config.dense_size, config.num_labels, config.classifier_dropout, bool(config.residual_head)
        )
        self.residual = None
        if config.residual_head:
            self.residual = ResidualHead(
                config.residual_head, config.hidden_size, config.num_labels, config.classifier_dropout
            )
        self.post_init()

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
        """Classifies texts; arguments and outputs are those of `BertForGRUFusionClassification.forward`."""
        outputs = self.model(
            input_ids, attention_mask, token_type_ids, inputs_embeds, encoder_states, **kwargs
        )
        logits = self.classifier(outputs.pooler_output)
        if self.residual is not None:
            logits = logits + self.residual(outputs.last_hidden_state, attention_mask)
        loss = None
        if labels is not None:
            loss = classification_loss(logits, labels, self.config.problem_type, self.num_labels)
        return SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )
