"""BERT-LSTM and BERT-Attention: one vector of the text per layer, pooled over the layers."""

import torch
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling, SequenceClassifierOutput
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, can_return_tuple

from .choices import unknown_name
from .configuration_layer_pooling import LayerPoolingConfig
from .empty_texts import pads_empty_texts
from .fusion_base import LayerFuser
from .fusion_pooling import SENTENCE_FUSERS
from .heads import ClassificationHead, classification_loss
from .modeling_layer_fusion import LayerFusionModel, LayerFusionPreTrainedModel
from .pipeline_pairs import SeparatePairsPipeline
from .residual_head import ResidualHead
from .windows import WindowPooling, windows_of


class LayerPoolingModel(LayerFusionModel):
    """Encoder with a pooling over its layers.

    `pooler_output` is the pooled vector `[B, D]`, `last_hidden_state` the encoder's own output `[B, T, H]`, or `[2B, T,
    H]` if the texts of pairs are encoded separately.

    Raises:
        ValueError: If `config.pooling` names no pooling.
    """

    config: LayerPoolingConfig

    @staticmethod
    def build_fuser(config: LayerPoolingConfig) -> LayerFuser:
        """Return the pooling named by `config.pooling`."""
        if config.pooling not in SENTENCE_FUSERS:
            raise unknown_name("pooling", config.pooling, SENTENCE_FUSERS)
        fuser = SENTENCE_FUSERS[config.pooling]
        return fuser(
            config.num_hidden_layers,
            config.hidden_size,
            config.token_pooling or "cls",
            config.pair_features or (),
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
    ) -> BaseModelOutputWithPooling:
        """Encode and pool.

        The arguments are those of `LayerFusionModel.encode_and_fuse`, with a dimension of two texts after the batch
        (`[B, 2, T]`) where `config.pair_features` are set.
        """
        if self.config.is_siamese:
            input_ids, attention_mask, token_type_ids, inputs_embeds, encoder_states = (
                flatten_siamese(name, values, dims)
                for name, values, dims in (
                    ("input_ids", input_ids, 3),
                    ("attention_mask", attention_mask, 3),
                    ("token_type_ids", token_type_ids, 3),
                    ("inputs_embeds", inputs_embeds, 4),
                    ("encoder_states", encoder_states, 5),
                )
            )
            given = kwargs.keys() & set(self.config.extra_inputs)
            kwargs |= {name: flatten_siamese(name, kwargs[name], 4) for name in given}
        pooled, outputs = self.encode_and_fuse(
            input_ids, attention_mask, token_type_ids, inputs_embeds, encoder_states, **kwargs
        )
        return BaseModelOutputWithPooling(pooler_output=pooled, **outputs)


def flatten_siamese(name: str, values: torch.Tensor | None, dims: int) -> torch.Tensor | None:
    """Return the values of pairs `[B, 2, ...]` as those of single texts `[2B, ...]`.

    Raises:
        ValueError: if the values are not those of pairs; `name` says which they are.
    """
    if values is not None and (values.dim() != dims or values.shape[1] != 2):
        raise ValueError(
            f"`{name}` must hold the two texts of each pair, [B, 2, ...], where `pair_features` are set, found "
            f"{list(values.shape)}; tokenize the texts separately, or leave out `pair_features`."
        )
    return None if values is None else values.flatten(0, 1)


class BertWithPoolingModule(LayerFusionPreTrainedModel):
    """Classifier on the pooled vector: dropout and a dense layer to the labels (Song et al. 2020, section 2.2 and
    Figure 1).

    The class is named after BERT because the paper uses it, but the encoder may be of any architecture.
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
        self.windows = None
        if config.window_size is not None:
            self.windows = WindowPooling(config.window_pooling, size)
        self.residual = None
        if config.residual_head:
            self.residual = ResidualHead(
                config.residual_head,
                config.hidden_size,
                config.num_labels,
                config.classifier_dropout,
                config.pair_features or (),
            )
        if config.is_siamese:
            # The stock pipeline would put both texts into one sequence. The class's file is saved beside the model's.
            implementation = (
                f"{SeparatePairsPipeline.__module__.rpartition('.')[2]}.{SeparatePairsPipeline.__name__}"
            )
            entry = {"impl": implementation, "pt": ["AutoModelForSequenceClassification"], "type": "text"}
            config.custom_pipelines = {"text-classification": entry}
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
        """Classify texts, or pairs of texts.

        Arguments and outputs are those of `BertForGRUFusionClassification.forward`. Where `config.pair_features` are
        set, the inputs are those of pairs: `[B, 2, T]`, and `encoder_states` `[B, 2, R, T, H]`. Of a text of more than
        `config.window_size` tokens the pooled vectors of its windows are pooled.
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
        texts = None if split is None else split.texts
        vectors = outputs.pooler_output
        pooled = vectors if self.windows is None else self.windows(vectors, vectors, texts)
        logits = self.classifier(pooled)
        if self.residual is not None:
            if attention_mask is not None and self.config.is_siamese:
                attention_mask = attention_mask.flatten(0, 1)
            plain = self.residual(outputs.last_hidden_state, attention_mask)
            logits = logits + (plain if self.windows is None else self.windows(plain, vectors, texts))
        loss = None
        if labels is not None:
            loss = classification_loss(logits, labels, self.config.problem_type, self.num_labels)
        return SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )
