"""Configuration of a CerBERTus task: its data, sentence vector, head and loss."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from huggingface_hub.dataclasses import strict

from .configuration_layer_fusion import check_probability, check_size

LARGEST_STACK = 100
DEFAULT_LOSSES = {
    "single_label_classification": "cross_entropy",
    "multi_label_classification": "binary_cross_entropy",
    "regression": "mse",
}


@strict
@dataclass
class TaskConfig:
    """Configuration of one task, an entry of `CerbertusConfig.tasks`.

    Args:
        pair: Whether the inputs are pairs of texts.
        problem_type: One class per text, several, or a number.
        labels: Names of the classes; none for a regression.
        value_range: Lowest and highest value of a regression.
        metric: Main metric of the task, by the names used for its data; None depends on `problem_type`.
        pair_encoding: Encoding of a pair: in one sequence with `[SEP]` between the texts (`"joint"`, SerBERTus, section
            3), or each text separately (`"siamese"`).
        sentence_vector: Vector of a text: `"cls"`, `"pooler"`, `"mean"`, `"last"`, `"dot_attention"` or
            `"multiplicative_attention"`. The default is `"last"` for causal encoders and `"mean"` for word embeddings.
        vector_layers: Number of dense layers on that vector (ExTraBERT, section 4: 3 for classes, none for STS).
        fusion: Fuser between the encoder and the vector: settings of `GRUFusionConfig`, such as `{"fusion": "share",
            "num_groups": 3}`, or of `LayerPoolingConfig`, such as `{"pooling": "lstm"}`, which replaces the sentence
            vector.
        features: Features of a siamese pair for the head: names in `PAIR_FEATURES`.
        head: `"linear"`, or `"cosine"` for the cosine of a siamese pair, scaled to `value_range`.
        dense_size: Units of a dense layer with ReLU before the output layer; 0 omits it.
        dropout: Dropout probability before the output layer (SerBERTus, section 4.3.2).
        loss: Name in `TASK_LOSSES`; None depends on `problem_type` and `head`.
        output: Treatment of a regression's values at inference: unchanged (`"raw"`), clipped to `value_range`
            (`"clamp"`), or mapped into it by a sigmoid (`"squash"`).

    Raises:
        ValueError: If fields contradict each other or a number is out of bounds.
    """

    pair: bool = False
    problem_type: Literal["single_label_classification", "multi_label_classification", "regression"] = (
        "single_label_classification"
    )
    labels: list[str] = field(default_factory=list)
    value_range: list[float | int] | None = None
    metric: str | None = None
    pair_encoding: Literal["joint", "siamese"] = "joint"
    sentence_vector: str = "cls"
    vector_layers: int = 0
    fusion: dict[str, Any] | None = None
    features: list[str] = field(default_factory=list)
    head: Literal["linear", "cosine"] = "linear"
    dense_size: int = 0
    dropout: float | int = 0.3
    loss: str | None = None
    output: Literal["raw", "clamp", "squash"] = "raw"

    def __post_init__(self) -> None:
        check_size(self, "dense_size", least=0)
        if not 0 <= self.vector_layers <= LARGEST_STACK:
            raise ValueError(
                f"`vector_layers` must lie between 0 and {LARGEST_STACK}, found {self.vector_layers}; lower it."
            )
        check_probability(self, "dropout")
        self.check_labels()
        self.check_pair()
        if self.loss is None:
            binary = self.head == "cosine" and not self.is_regression
            self.loss = "binary_cross_entropy" if binary else DEFAULT_LOSSES[self.problem_type]

    @property
    def is_regression(self) -> bool:
        """True if the task predicts a number."""
        return self.problem_type == "regression"

    @property
    def is_siamese(self) -> bool:
        """True if the texts of a pair are encoded separately."""
        return self.pair_encoding == "siamese"

    @property
    def is_binary(self) -> bool:
        """True if the task has two classes, exactly one of which applies to each text."""
        return self.problem_type == "single_label_classification" and len(self.labels) == 2

    @property
    def num_labels(self) -> int:
        """Width of the task's logits."""
        return 1 if self.is_regression else len(self.labels)

    def check_labels(self) -> None:
        """Raise `ValueError` unless the labels or the value range fit the problem type."""
        if self.is_regression and self.labels:
            raise ValueError(
                f"`labels` must be empty for a regression, found {self.labels}; name a `value_range`."
            )
        if not self.is_regression and (not self.labels or len(set(self.labels)) < len(self.labels)):
            raise ValueError(
                f"`labels` must name different classes, found {self.labels}; list them in the order of their numbers."
            )
        if self.value_range is not None:
            ordered = len(self.value_range) == 2 and self.value_range[0] < self.value_range[1]
            if not (
                self.is_regression and ordered and all(math.isfinite(value) for value in self.value_range)
            ):
                raise ValueError(
                    "`value_range` must hold the lowest and the highest value of a regression, found "
                    f"{self.value_range} for '{self.problem_type}'; leave it out or give two numbers, as in [0, 5]."
                )
        if self.value_range is None and (
            self.output != "raw" or (self.is_regression and self.head == "cosine")
        ):
            name, value = ("head", self.head) if self.output == "raw" else ("output", self.output)
            raise ValueError(
                f"`value_range` must be given where `{name}` is '{value}', found none for '{self.problem_type}'; give "
                "a regression's lowest and highest value, as in [0, 5]."
            )

    def check_pair(self) -> None:
        """Raise `ValueError` unless options for two vectors are used with siamese pairs only."""
        if self.is_siamese and not self.pair:
            raise ValueError(
                "`pair_encoding` must be 'joint' where `pair` is False, found 'siamese'; set `pair`."
            )
        if not self.is_siamese and (self.features or self.head == "cosine"):
            name, value = ("features", self.features) if self.features else ("head", self.head)
            raise ValueError(
                f"`{name}` must be left out unless a pair's texts are encoded each by itself, found {value!r}; set "
                "`pair_encoding='siamese'`."
            )
        if self.is_siamese and bool(self.features) == (self.head == "cosine"):
            raise ValueError(
                "`features` must name one or more for the linear head of a siamese pair and none for the cosine head, "
                f"found {self.features} for '{self.head}'; ['concat'] is the plainest."
            )
        if self.head == "cosine" and self.dense_size:
            raise ValueError(
                f"`dense_size` must be 0 for the cosine head, which has no layers, found {self.dense_size}; use "
                "`features=['cosine']` and the linear head."
            )
