# Copyright 2026 The hf_layerfusion team
"""Configuration of the GRUBERT models."""

import dataclasses
from typing import Literal

from huggingface_hub.dataclasses import strict

from .configuration_layer_fusion import LayerFusionConfig, check_probability, check_size, check_windows
from .encoders import refuse_first_token, refuse_one_token


@strict
class GRUFusionConfig(LayerFusionConfig):
    """Configuration of `GRUFusionModel` and `BertForGRUFusionClassification`.

    The defaults are those of the paper (GRUBERT, section 2.2) for its best variant, BERT-share-3.

    Args:
        encoder_config: Configuration of the encoder, of any architecture.
        fusion: Fuser: `"share"` or `"cat"` (groups of layers, with one recurrence along the tokens for all groups or
            one per group), `"share_depth"` or `"cat_depth"` (the same along the depth, token by token), `"last_concat"`
            (the top `num_last_layers` layers as one group), `"last_mean"` (their average), `"scalar_mix"` (ELMo's
            learned average of all layers).
        num_groups: Number c of groups; must divide the depth of the encoder.
        num_last_layers: Number of layers used by `"last_concat"` and `"last_mean"`; 1 is BERT-last-layer.
        fusion_cell: Embedding cell: `"gru"`, `"lstm"`, `"linear"` (Table 3; not along the depth), or the parallel
            recurrences `"mingru"` and `"minlstm"` (Feng et al. 2024, arXiv 2410.01201).
        fusion_hidden_size: Units per direction of the embedding cell.
        freeze_fusion: Whether the fuser keeps its random weights, as a control for the effect of training it.
        residual_head: Vector of the last layer (`"mean"`, `"cls"` or `"last"`) for a plain classifier whose logits are
            added to those of the fusion branch. The last projection of the branch is then initialized to zero, so that
            training starts from plain fine-tuning. None, as in the paper, disables it.
        downstream_cell: Cell of the downstream recurrence: `"gru"`, `"lstm"`, `"mingru"` or `"minlstm"`.
        downstream_hidden_size: Units per direction of the downstream recurrence; 0 omits it.
        dense_size: Units of the dense layer before the output layer; 0 omits it.
        classifier_dropout: Dropout probability between the dense layer and the output layer.
        token_reduction: Reduction of token logits to text logits: `"sum"` (the public code), `"mean"` or `"max"`.
        mask_padding: Whether the encoder, the recurrences and the reduction ignore padding. `False` reproduces the
            public code, which uses no attention mask; texts must then be padded to one fixed length.
        window_size: Tokens of a window, special tokens included. A longer text is read in overlapping windows, each as
            a text of its own, and their logits are pooled, so that an encoder of 512 tokens reads texts of any
            length. None, as in the paper, reads each text whole.
        window_overlap: Tokens that a window shares with the one before.
        window_pooling: Pooling over the windows of a text: `"mean"`, `"max"`, or `"attention"` (a learned query).
        window_affixes: Number of special tokens before and after a text, which every window repeats; `[1, 1]` is BERT's
            `[CLS]` and `[SEP]`.

    Raises:
        ValueError: If a size is out of bounds, `classifier_dropout` is outside [0, 1), or the cell does not fit the
            fuser.
    """

    model_type = "gru_fusion"

    fusion: str = "share"
    num_groups: int = 3
    num_last_layers: int = 4
    fusion_cell: Literal["gru", "lstm", "linear", "mingru", "minlstm"] = "gru"
    fusion_hidden_size: int = 100
    freeze_fusion: bool = False
    residual_head: str | None = None
    downstream_cell: Literal["gru", "lstm", "mingru", "minlstm"] = "gru"
    downstream_hidden_size: int = 100
    dense_size: int = 200
    classifier_dropout: float | int = 0.5
    token_reduction: Literal["sum", "mean", "max"] = "sum"
    mask_padding: bool = True
    window_size: int | None = None
    window_overlap: int = 64
    window_pooling: Literal["mean", "max", "attention"] = "mean"
    window_affixes: list[int] = dataclasses.field(default_factory=lambda: [1, 1])

    def check(self) -> None:
        """Raise `ValueError` if a size, a probability or a choice is invalid."""
        super().check()
        check_size(self, "num_groups", "num_last_layers", "fusion_hidden_size")
        check_size(self, "downstream_hidden_size", "dense_size", least=0)
        check_probability(self, "classifier_dropout")
        check_windows(self)
        if self.window_size is not None and not self.mask_padding:
            raise ValueError(
                f"`window_size` must be None with `mask_padding=False`, whose texts have one fixed length, found "
                f"{self.window_size}; leave out one of them."
            )
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
                "`fusion_cell` along depth must be a recurrence, found 'linear'; use `fusion='share'` or 'cat' "
                "for linear layers."
            )

    @property
    def paper_name(self) -> str:
        """Name of the variant in the paper, such as `"grubert-share-3"` or `"grubert-share-3-linear"`."""
        if self.fusion in ("last_concat", "last_mean"):
            name = "last-layer" if self.num_last_layers == 1 else f"last-{self.num_last_layers}"
            name += "-mean" if self.fusion == "last_mean" and self.num_last_layers > 1 else ""
        elif self.fusion == "scalar_mix":
            name = "scalar-mix"
        else:
            name = f"{self.fusion.replace('_depth', '')}-{self.num_groups}"
            name += "-depth" if self.fusion.endswith("_depth") else ""
        name += "" if self.fusion_cell == "gru" else f"-{self.fusion_cell}"
        if self.downstream_cell != "gru" and self.downstream_hidden_size:
            name += f"-downstream-{self.downstream_cell}"
        return f"grubert-{name}{'-frozen' if self.freeze_fusion else ''}"
