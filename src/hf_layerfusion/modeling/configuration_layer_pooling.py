# Copyright 2026 The hf_layerfusion team
"""Configuration of the models that pool one vector per layer."""

import dataclasses
from typing import Literal

from huggingface_hub.dataclasses import strict

from .configuration_layer_fusion import LayerFusionConfig, check_probability, check_size, check_windows
from .encoders import default_vector, refuse_first_token, refuse_one_token


@strict
class LayerPoolingConfig(LayerFusionConfig):
    """Configuration of `LayerPoolingModel` and `BertWithPoolingModule` (Song et al. 2020, section 2.2).

    Args:
        encoder_config: Configuration of the encoder, of any architecture.
        pooling: Pooling over the layers: `"lstm"` (BERT-LSTM), `"attention"` (BERT-Attention), `"last"` (the last layer
            alone, the baseline), `"max"`, `"mean"`, `"scalar_mix"`; for frozen encoders `"concat"` (concatenation),
            `"attentive"` (a learned query) and `"layer_graph"` (a graph network).
        token_pooling: Vector of the text at each layer: the first token, `"cls"` (as in the paper), the `"mean"` over
            the real tokens, the `"last"` real token, or two of them concatenated (`"cls_mean"`, `"last_mean"`). The
            default is `"last"` for causal encoders, whose first token sees nothing of the text, `"mean"` for word
            embeddings, and `"cls"` for others.
        pair_features: Features of the vectors of two separately encoded texts, at each layer: `"concat"` (u, v),
            `"abs_difference"` (`|u − v|`), `"product"` (`u ∘ v`), `"squared_sum"`, `"squared_difference"`,
            `"normalized_difference"`, `"cosine"`. The model then takes pairs as `[B, 2, T]`. By default a pair is one
            sequence.
        residual_head: Vector of the last layer (`"cls"`, `"last"` or `"mean"`, one of those in `token_pooling`) for a
            plain classifier whose logits are added to those of the pooling branch. The last projection of the branch is
            then initialized to zero, so that training starts from plain fine-tuning. None, as in the paper, disables
            it.
        dense_size: Units of a dense layer with ReLU before the output layer; 0, as in the paper, omits it.
        classifier_dropout: Dropout probability before the output layer.
        window_size: Tokens of a window, special tokens included. A longer text is read in overlapping windows, each as
            a text of its own, and their pooled vectors are pooled, so that an encoder of 512 tokens reads texts of any
            length. None, as in the paper, reads each text whole.
        window_overlap: Tokens that a window shares with the one before.
        window_pooling: Pooling over the windows of a text: `"mean"`, `"max"`, or `"attention"` (a learned query).
        window_affixes: Number of special tokens before and after a text, which every window repeats; `[1, 1]` is BERT's
            `[CLS]` and `[SEP]`.

    Raises:
        ValueError: If `dense_size` is out of bounds, `classifier_dropout` is outside [0, 1), or `token_pooling` is
            "cls" or "cls_mean" for a causal encoder, or selects one token of static word embeddings.
    """

    model_type = "layer_pooling"

    pooling: str = "lstm"
    token_pooling: Literal["cls", "last", "mean", "cls_mean", "last_mean"] | None = None
    pair_features: list[str] | None = None
    residual_head: str | None = None
    dense_size: int = 0
    classifier_dropout: float | int = 0.1
    window_size: int | None = None
    window_overlap: int = 64
    window_pooling: Literal["mean", "max", "attention"] = "mean"
    window_affixes: list[int] = dataclasses.field(default_factory=lambda: [1, 1])

    def check(self) -> None:
        """Set the default `token_pooling`, and raise `ValueError` if a value is invalid."""
        super().check()
        if __name__.startswith("hf_layerfusion") and hasattr(self, "custom_pipelines"):
            # For where the package is not installed; its own pipeline needs no other code.
            del self.custom_pipelines
        encoder = self.get_text_config()
        if self.token_pooling is None:
            self.token_pooling = default_vector(encoder)
        if self.token_pooling in ("cls", "cls_mean"):
            refuse_first_token(encoder, "token_pooling", self.token_pooling)
        elif self.token_pooling in ("last", "last_mean"):
            refuse_one_token(encoder, "token_pooling", self.token_pooling)
        check_size(self, "dense_size", least=0)
        check_probability(self, "classifier_dropout")
        check_windows(self)
        if self.window_size is not None and self.pair_features:
            raise ValueError(
                f"`window_size` must be None with `pair_features`, which compare two texts layer by layer, found "
                f"{self.window_size}; leave out one of them."
            )
        pooled = str(self.token_pooling).split("_")
        if self.residual_head is not None and self.residual_head not in pooled:
            raise ValueError(
                f"`residual_head` must be a vector that is pooled ({' or '.join(pooled)}), found "
                f"{self.residual_head!r}; set both alike."
            )

    @property
    def is_siamese(self) -> bool:
        """True if the two texts of a pair are encoded separately."""
        return bool(self.pair_features)

    @property
    def paper_name(self) -> str:
        """Name of the variant in the paper, such as `"bert-lstm"`."""
        name = f"bert-{self.pooling.replace('_', '-')}"
        names = {"mean": "-tokens", "cls_mean": "-cls-tokens", "last": "-last-token"}
        names["last_mean"] = "-last-tokens"
        name += names.get(str(self.token_pooling), "")
        name += "-apart" if self.is_siamese else ""
        return name + (f"-dense-{self.dense_size}" if self.dense_size else "")
