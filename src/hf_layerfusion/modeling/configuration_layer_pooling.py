# Copyright 2026 The hf_layerfusion team
"""Configuration of the models that pool one vector a layer."""

from typing import Literal

from huggingface_hub.dataclasses import strict

from .configuration_layer_fusion import LayerFusionConfig, probability, size
from .encoders import default_vector, refuse_first_token, refuse_one_token


@strict
class LayerPoolingConfig(LayerFusionConfig):
    """Configuration of `LayerPoolingModel` and `BertWithPoolingModule` (Song et al. 2020, section 2.2).

    Args:
        encoder_config: configuration of the encoder, of any architecture.
        pooling: over the layers: `"lstm"` (BERT-LSTM), `"attention"` (BERT-Attention), `"last"` (the last layer
            alone, the baseline), `"max"`, `"mean"`, `"scalar_mix"`; made for frozen encoders: `"concat"` (side by
            side), `"attentive"` (a learned query), `"layer_graph"` (a graph network).
        token_pooling: a layer's vector of the text: that of the first token, `"cls"` (the paper's), the `"mean"` over
            the real tokens, or that of the `"last"` one; two side by side (`"cls_mean"`, `"last_mean"`). By default
            `"last"` for a causal encoder, whose first token has seen nothing of the text, `"mean"` for word embeddings,
            and else `"cls"`.
        pair_features: features of two texts that are encoded separately, at each layer: `"concat"` (u, v),
            `"abs_difference"` (|u − v|), `"product"` (u ∘ v), `"squared_sum"`, `"squared_difference"`,
            `"normalized_difference"`, `"cosine"`. The model then takes pairs as `[B, 2, T]`. By default a pair is one
            sequence.
        residual_head: a vector of the last layer (`"cls"`, `"last"` or `"mean"`, one that is pooled) on which a plain
            classifier stands beside the pooled branch. The branch's last projection then starts at zero, so that
            training starts from plain fine-tuning. None, the paper's, leaves it out.
        dense_size: units of a dense layer with ReLU before the labels; 0, the paper's, leaves it out.
        classifier_dropout: dropout before the labels.

    Raises:
        ValueError: if `dense_size` is out of bounds, `classifier_dropout` outside [0, 1), or `token_pooling` is "cls"
            or "cls_mean" on a causal encoder, or reads one token of static word embeddings.
    """

    model_type = "layer_pooling"

    pooling: str = "lstm"
    token_pooling: Literal["cls", "last", "mean", "cls_mean", "last_mean"] | None = None
    pair_features: list[str] | None = None
    residual_head: str | None = None
    dense_size: int = 0
    classifier_dropout: float | int = 0.1

    def check(self) -> None:
        super().check()
        encoder = self.get_text_config()
        if self.token_pooling is None:
            self.token_pooling = default_vector(encoder)
        if self.token_pooling in ("cls", "cls_mean"):
            refuse_first_token(encoder, "token_pooling", self.token_pooling)
        elif self.token_pooling in ("last", "last_mean"):
            refuse_one_token(encoder, "token_pooling", self.token_pooling)
        size(self, "dense_size", least=0)
        probability(self, "classifier_dropout")
        pooled = str(self.token_pooling).split("_")
        if self.residual_head is not None and self.residual_head not in pooled:
            raise ValueError(
                f"`residual_head` must be a vector that is pooled ({' or '.join(pooled)}), found "
                f"{self.residual_head!r}; set both alike."
            )

    @property
    def is_siamese(self) -> bool:
        """Whether the two texts of a pair are encoded separately."""
        return bool(self.pair_features)

    @property
    def paper_name(self) -> str:
        """The paper's name of the variant, such as `"bert-lstm"`."""
        name = f"bert-{self.pooling.replace('_', '-')}"
        names = {"mean": "-tokens", "cls_mean": "-cls-tokens", "last": "-last-token"}
        names["last_mean"] = "-last-tokens"
        name += names.get(str(self.token_pooling), "")
        name += "-apart" if self.is_siamese else ""
        return name + (f"-dense-{self.dense_size}" if self.dense_size else "")
