# Copyright 2026 The hf_layerfusion team
"""Configuration of GRUBERT's models."""

from typing import Literal

from huggingface_hub.dataclasses import strict

from .configuration_layer_fusion import LayerFusionConfig, probability, size
from .encoders import refuse_first_token, refuse_one_token


@strict
class GRUFusionConfig(LayerFusionConfig):
    """Configuration of `GRUFusionModel` and `BertForGRUFusionClassification`. The defaults are the paper's
    (GRUBERT, section 2.2), with its best variant, BERT-share-3.

    Args:
        encoder_config: configuration of the encoder, of any architecture.
        fusion: `"share"` or `"cat"` (groups of layers, one embedding cell for all groups or one each, along the
            tokens), `"share_depth"` or `"cat_depth"` (the same along depth, token by token), `"last_concat"` (the top
            `num_last_layers` layers as one group), `"last_mean"` (their average), `"scalar_mix"` (ELMo's learned
            average of all layers).
        num_groups: number c of groups; divides the encoder's depth.
        num_last_layers: how many layers `"last_concat"` and `"last_mean"` take; 1 is BERT-last-layer.
        fusion_cell: `"gru"`, `"lstm"`, or `"linear"` (Table 3; not along depth).
        fusion_hidden_size: units a direction of the embedding cell.
        freeze_fusion: the fuser keeps its random weights, the control that shows what training it brings.
        residual_head: a vector of the last layer (`"mean"`, `"cls"` or `"last"`) on which a plain classifier stands
            beside the fused branch. The branch's last projection then starts at zero, so that training starts from
            plain fine-tuning. None, the paper's, leaves it out.
        downstream_hidden_size: units a direction of the downstream bi-GRU; 0 leaves it out.
        dense_size: units of the dense layer before the labels; 0 leaves it out.
        classifier_dropout: dropout between dense layer and labels.
        token_reduction: how the tokens' logits become the text's: `"sum"` (the public code), `"mean"`, `"max"`.
        mask_padding: padding is invisible to encoder, recurrences and reduction. `False` is the public code's
            function: no attention mask anywhere, so that texts must be padded to one fixed length.

    Raises:
        ValueError: if a size is out of bounds, `classifier_dropout` outside [0, 1), or the cell does not fit.
    """

    model_type = "gru_fusion"

    fusion: str = "share"
    num_groups: int = 3
    num_last_layers: int = 4
    fusion_cell: Literal["gru", "lstm", "linear"] = "gru"
    fusion_hidden_size: int = 100
    freeze_fusion: bool = False
    residual_head: str | None = None
    downstream_hidden_size: int = 100
    dense_size: int = 200
    classifier_dropout: float | int = 0.5
    token_reduction: Literal["sum", "mean", "max"] = "sum"
    mask_padding: bool = True

    def check(self) -> None:
        super().check()
        size(self, "num_groups", "num_last_layers", "fusion_hidden_size")
        size(self, "downstream_hidden_size", "dense_size", least=0)
        probability(self, "classifier_dropout")
        if self.residual_head not in (None, "cls", "last", "mean"):
            raise ValueError(
                f"`residual_head` must be 'cls', 'last' or 'mean', found {self.residual_head!r}; None leaves it out."
            )
        if self.residual_head == "cls":
            refuse_first_token(self.get_text_config(), "residual_head", "cls")
        elif self.residual_head == "last":
            refuse_one_token(self.get_text_config(), "residual_head", "last")
        if self.fusion.endswith("_depth") and self.fusion_cell == "linear":
            raise ValueError(
                "`fusion_cell` along depth must be 'gru' or 'lstm', found 'linear'; use `fusion='share'` or 'cat' "
                "for linear layers."
            )

    @property
    def paper_name(self) -> str:
        """The paper's name of the variant, such as `"grubert-share-3"` or `"grubert-share-3-linear"`."""
        if self.fusion in ("last_concat", "last_mean"):
            name = "last-layer" if self.num_last_layers == 1 else f"last-{self.num_last_layers}"
            name += "-mean" if self.fusion == "last_mean" and self.num_last_layers > 1 else ""
        elif self.fusion == "scalar_mix":
            name = "scalar-mix"
        else:
            name = f"{self.fusion.replace('_depth', '')}-{self.num_groups}"
            name += "-depth" if self.fusion.endswith("_depth") else ""
        name += "" if self.fusion_cell == "gru" else f"-{self.fusion_cell}"
        return f"grubert-{name}{'-frozen' if self.freeze_fusion else ''}"
