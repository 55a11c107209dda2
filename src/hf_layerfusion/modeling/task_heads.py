"""Heads of the tasks: fuser, sentence vector, pair features, classifier and loss on the encoders' states."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedConfig

from .choices import unknown_name
from .configuration_gru_fusion import GRUFusionConfig
from .configuration_layer_pooling import LayerPoolingConfig
from .encoder_states import StateSpec, joined_spec
from .encoders import refuse_first_token, refuse_one_token
from .fusion_base import LayerFuser
from .heads import ClassificationHead
from .layer_routing import TaskStates
from .modeling_gru_fusion import GRUFusionModel
from .modeling_layer_pooling import LayerPoolingModel
from .pair_features import PAIR_FEATURES, EncodedText
from .sentence_vectors import SENTENCE_VECTORS, feed_forward
from .task_config import TaskConfig
from .task_losses import TASK_LOSSES, TaskLoss

TOKEN_FUSION = ("fusion", "num_groups", "num_last_layers", "fusion_cell", "fusion_hidden_size")
SENTENCE_FUSION = ("pooling", "token_pooling")


def lookup(table: Mapping[str, Any], field: str, name: str) -> Any:
    """Return the entry `name` of a registry.

    Raises:
        ValueError: If there is none; `field` is the setting that gave the name.
    """
    if name not in table:
        raise unknown_name(field, name, table)
    return table[name]


def build_fuser(settings: dict[str, Any], encoder_config: PreTrainedConfig) -> LayerFuser:
    """Return the fuser described by a task's `fusion`.

    Raises:
        ValueError: If a setting is unknown or does not fit the encoder.
    """
    known = SENTENCE_FUSION if "pooling" in settings else TOKEN_FUSION
    unknown = sorted(settings.keys() - set(known))
    if unknown:
        raise ValueError(f"`fusion` must hold settings of {list(known)}, found {unknown}; leave them out.")
    # A copy, because wrapping a configuration resets its attention implementation.
    encoder = encoder_config.to_dict()
    if "pooling" in settings:
        return LayerPoolingModel.build_fuser(LayerPoolingConfig(encoder_config=encoder, **settings))
    return GRUFusionModel.build_fuser(GRUFusionConfig(encoder_config=encoder, **settings))


def mixes_tokens(settings: dict[str, Any] | None) -> bool:
    """Return whether a fuser has recurrences along the tokens, so that every output has seen the whole text."""
    if settings is None or settings.get("fusion_cell") == "linear":
        return False
    return not str(settings.get("fusion")).endswith("_depth")


class TextReader(nn.Module):
    """Text vector of a task from one encoder's states: [a fuser,] a sentence vector and `vector_layers` dense layers.

    Args:
        task: Configuration of the task.
        encoder_config: Configuration of the encoder.
    """

    def __init__(self, task: TaskConfig, encoder_config: PreTrainedConfig):
        super().__init__()
        self.fuser = None if task.fusion is None else build_fuser(task.fusion, encoder_config)
        self.depth, self.width = encoder_config.num_hidden_layers, encoder_config.hidden_size
        self.vector = None
        size = encoder_config.hidden_size if self.fuser is None else self.fuser.output_size
        self.token_size = encoder_config.hidden_size
        vector = lookup(SENTENCE_VECTORS, "sentence_vector", task.sentence_vector)
        if task.fusion is None or "pooling" not in task.fusion:
            if task.sentence_vector in ("cls", "pooler") and not mixes_tokens(task.fusion):
                refuse_first_token(encoder_config, "sentence_vector", task.sentence_vector)
            elif task.sentence_vector == "last" and not mixes_tokens(task.fusion):
                refuse_one_token(encoder_config, "sentence_vector", task.sentence_vector)
            self.vector = vector(size)
            self.token_size = size
        elif task.sentence_vector != "cls":
            raise ValueError(
                "`sentence_vector` must be left out where `fusion` pools a text's layers into its vector, found "
                f"'{task.sentence_vector}'; leave out one of them."
            )
        self.layers = feed_forward(size, task.vector_layers)
        self.output_size = size

    @property
    def state_spec(self) -> StateSpec:
        """Specification of the encoder's states that a text's vector is made of."""
        layers = (self.depth - 1,) if self.fuser is None else self.fuser.layers
        reader = self.vector if self.fuser is None else self.fuser
        return StateSpec(layers, "all" if reader is None else reader.token_selection, self.width)

    def forward(self, states: TaskStates, attention_mask: torch.Tensor | None) -> EncodedText:
        """Return the vector and the tokens of the texts; `attention_mask` is `[B, T]` or `None`."""
        tokens, vector = states.last, None
        if self.fuser is not None:
            fused = self.fuser(states.layers, attention_mask)
            tokens, vector = (tokens, fused) if self.vector is None else (fused, None)
        if self.vector is not None:
            vector = self.vector(tokens, attention_mask)
        return EncodedText(self.layers(vector), tokens, attention_mask)


class LinearHead(nn.Module):
    """Dropout and a dense layer on a text's vector, or on the features of a siamese pair.

    Args:
        task: Configuration of the task.
        vector_size: Width D of a text's vector.
        token_size: Width W of its tokens' states.
        num_outputs: Width of the output.
    """

    def __init__(self, task: TaskConfig, vector_size: int, token_size: int, num_outputs: int):
        super().__init__()
        features = [
            lookup(PAIR_FEATURES, "features", name)(vector_size, token_size) for name in task.features
        ]
        self.features = nn.ModuleList(features)
        size = sum(feature.output_size for feature in features) if task.is_siamese else vector_size
        self.classifier = ClassificationHead(size, task.dense_size, num_outputs, task.dropout)

    def forward(self, texts: Sequence[EncodedText]) -> torch.Tensor:
        """Map one text, or the two of a pair, to `[B, num_outputs]`."""
        if len(texts) == 1:
            return self.classifier(texts[0].vector)
        return self.classifier(torch.cat([feature(*texts) for feature in self.features], dim=-1))


class CosineHead(nn.Module):
    """Cosine of a pair's vectors scaled to the task's range, `low + (high - low) * cos`: 5·cos for STS (ExTraBERT,
    section 4).

    A task without a range uses the plain cosine.

    Args:
        value_range: `[low, high]`.
    """

    def __init__(self, value_range: Sequence[float] | None):
        super().__init__()
        self.low, self.high = (0.0, 1.0) if value_range is None else value_range

    def forward(self, texts: Sequence[EncodedText]) -> torch.Tensor:
        """Map the two texts of a pair to `[B, 1]`."""
        cosine = F.cosine_similarity(texts[0].vector, texts[1].vector, dim=-1)
        return (self.low + (self.high - self.low) * cosine).unsqueeze(-1)


def restrict_values(values: torch.Tensor, low: float, high: float, output: str) -> torch.Tensor:
    """Restrict values to `[low, high]` (ExTraBERT, section 6, as future work).

    Args:
        values: Values of any shape.
        low: Lowest value.
        high: Highest value.
        output: `"clamp"` clips; `"squash"` applies a sigmoid that keeps the midpoint and the slope there.
    """
    if output == "clamp":
        return values.clamp(low, high)
    middle, width = (low + high) / 2, high - low
    return low + width * torch.sigmoid(4 * (values - middle) / width)


class TaskOutput(NamedTuple):
    """Output of a task: `logits` `[B, num_labels]`, and `loss` if labels were given."""

    logits: torch.Tensor
    loss: torch.Tensor | None


class TaskHead(nn.Module):
    """Head of a task on the concatenated vectors of its encoders.

    Args:
        task: Configuration of the task.
        encoders: Kinds of the encoders, as in `CerbertusConfig.encoders`.
        encoder_config: Configuration of all of them.

    Raises:
        ValueError: If the task names something unknown, or lacks what its loss requires.
    """

    def __init__(self, task: TaskConfig, encoders: Sequence[str], encoder_config: PreTrainedConfig):
        super().__init__()
        self.task = task
        self.loss: TaskLoss = lookup(TASK_LOSSES, "loss", str(task.loss))(task)
        self.readers = nn.ModuleDict({kind: TextReader(task, encoder_config) for kind in encoders})
        sizes = [(reader.output_size, reader.token_size) for reader in self.readers.values()]
        vector_size, token_size = (sum(column) for column in zip(*sizes, strict=True))
        self.head: nn.Module
        if task.head == "cosine":
            self.head = CosineHead(task.value_range)
        else:
            self.head = LinearHead(task, vector_size, token_size, self.loss.num_outputs)

    @property
    def state_spec(self) -> StateSpec:
        """Specification of the states that the task reads of an encoder."""
        reader: Any = next(iter(self.readers.values()))
        if any(PAIR_FEATURES[name].reads_tokens for name in self.task.features):
            tokens = StateSpec((reader.depth - 1,), "all", reader.width)
            return joined_spec([reader.state_spec, tokens])
        return reader.state_spec

    @property
    def reads_layers(self) -> bool:
        """True if the task needs the states of all layers."""
        return self.task.fusion is not None

    def forward(
        self,
        states: Mapping[str, TaskStates],
        attention_mask: torch.Tensor | None,
        labels: torch.Tensor | None = None,
    ) -> TaskOutput:
        """Return the logits and the loss of the task.

        Args:
            states: States of each encoder by its kind. The two texts of a siamese pair are consecutive rows: `[2B, T,
                H]`.
            attention_mask: `[B, T]`, or `[2B, T]` for siamese pairs, or `None`.
            labels: Labels as in `TaskLoss`.
        """
        read = [reader(states[kind], attention_mask) for kind, reader in self.readers.items()]
        text = EncodedText(
            torch.cat([text.vector for text in read], dim=-1),
            torch.cat([text.tokens for text in read], dim=-1),
            attention_mask,
        )
        values = self.head(
            [text] if not self.task.is_siamese else [select_side(text, side) for side in (0, 1)]
        )
        loss = None if labels is None else self.loss(values, labels)
        logits = self.loss.logits(values)
        if self.task.output != "raw" and not self.training:
            low, high = self.task.value_range or (0.0, 1.0)
            logits = restrict_values(logits, low, high, self.task.output)
        return TaskOutput(logits, loss)


def select_side(text: EncodedText, side: int) -> EncodedText:
    """Return the first (`side` 0) or second (1) text of each pair."""
    mask = None if text.attention_mask is None else text.attention_mask[side::2]
    return EncodedText(text.vector[side::2], text.tokens[side::2], mask)


def build_heads(
    tasks: Mapping[str, TaskConfig], encoders: Sequence[str], encoder_config: PreTrainedConfig
) -> nn.ModuleDict:
    """Return the heads of the tasks by name.

    Raises:
        ValueError: If a task is invalid; the message names it.
    """
    heads = nn.ModuleDict()
    for name, task in tasks.items():
        try:
            heads[name] = TaskHead(task, encoders, encoder_config)
        except (ValueError, StrictDataclassError) as error:
            raise ValueError(f"task '{name}': {' '.join(str(error).split())}") from error
    return heads
