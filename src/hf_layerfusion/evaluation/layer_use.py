"""Measurement of the layers that a model uses, and extraction of their states.

Layers are numbered as in transformers' `hidden_states`: 1 to L; 0 is the embedding output, which no fuser uses.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import t as student
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

__all__ = ["LayerUse", "layer_use"]

ModelInputs = Mapping[str, torch.Tensor]
# Hidden states of layers 1 to L, and the attention mask.
FuserInputs = tuple[Sequence[torch.Tensor], torch.Tensor | None]
# Key of a batch that holds states `[B, R, T, H]` of the fuser's layers, or `[B, 2, R, T, H]` for pairs of separately
# encoded texts, in place of the encoder's inputs.
STATES = "encoder_states"


@dataclass(frozen=True)
class LayerUse:
    """Use of each layer by a model, the result of `layer_use`. `dataclasses.asdict` converts it to JSON.

    Every list has one entry for each of the layers 1 to L; layers that the fuser does not use have the value 0.

    Attributes:
        num_texts: Number of texts used for the measurement.
        loss: Mean loss of the whole model over the texts.
        accuracy: Accuracy of the whole model, 0 to 1; None unless each text has exactly one class.
        loss_rise: Increase of the loss if the layer's states are replaced by their mean.
        accuracy_drop: Decrease of the accuracy in the same case; None if there is no accuracy.
        weights: Mean weight of the layer in the fuser over the texts; None if the fuser has no weights.
        weights_by_class: Mean weights over the texts of each true class, by class name; empty if there are none.
        loss_rise_error: Half the length of the 95 % interval of each rise, from the texts' own differences; None with
            one text, and in measurements of earlier versions.
        accuracy_drop_error: The same of each drop (Agresti and Min 2005, for paired proportions): above 0 even if no
            prediction changes.
    """

    num_texts: int
    loss: float
    accuracy: float | None
    loss_rise: list[float]
    accuracy_drop: list[float] | None
    weights: list[float] | None = None
    weights_by_class: dict[str, list[float]] = field(default_factory=dict)
    loss_rise_error: list[float] | None = None
    accuracy_drop_error: list[float] | None = None

    def ranking(self) -> list[int]:
        """Return the layers 1 to L, the most used first: by `accuracy_drop`, with ties broken by `loss_rise`."""
        drops = self.accuracy_drop or [0.0] * len(self.loss_rise)
        order = sorted(zip(drops, self.loss_rise, range(-1, -len(drops) - 1, -1), strict=True), reverse=True)
        return [-layer for *_, layer in order]

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return the header and the rows of a table, one row per layer: accuracy in percentage points, weights in
        percent, each figure with its 95 % interval where that is known.
        """
        header, columns = ["Layer"], [[str(layer) for layer in range(1, len(self.loss_rise) + 1)]]
        if self.accuracy_drop is not None:
            header.append("Drop in accuracy, points")
            columns.append(_with_errors(self.accuracy_drop, self.accuracy_drop_error, 100, 2))
        header.append("Rise in loss")
        columns.append(_with_errors(self.loss_rise, self.loss_rise_error, 1, 4))
        if self.weights is not None:
            header += ["Weight, %", *(f"Weight, %, {name}" for name in self.weights_by_class)]
            for weights in (self.weights, *self.weights_by_class.values()):
                columns.append([f"{100 * weight:.1f}" for weight in weights])
        return header, [list(row) for row in zip(*columns, strict=True)]


def _with_errors(
    values: Sequence[float], errors: Sequence[float] | None, factor: float, digits: int
) -> list[str]:
    if errors is None:
        return [f"{factor * value:.{digits}f}" for value in values]
    pairs = zip(values, errors, strict=True)
    return [f"{factor * value:.{digits}f} ± {factor * error:.{digits}f}" for value, error in pairs]


def layer_use(model: PreTrainedModel, batches: Iterable[ModelInputs], *, by_class: bool = True) -> LayerUse:
    """Measure how much a model uses each layer, for any fuser.

    The states of one layer are replaced by their mean over the data, everything else is kept, and accuracy and loss are
    compared with those of the whole model (ablation). The mean is taken over what the fuser uses: all real tokens or,
    for a sentence fuser, the texts' vectors. Layers with the same information can replace each other, so that each
    alone has a small drop. The data are read twice, first for the means; each time the encoder runs once per batch,
    then the fuser and head once per layer. The encoder does not run for batches that hold `encoder_states`.

    The model must have one submodule with two children: `encoder`, which returns `hidden_states`, and `fuser`, which is
    called with those of layers 1 to L and the attention mask. `fuser.layers` are the indices that it uses. The fuser
    may have two more methods: `layer_weights`, which is called alike and returns weights `[B, len(layers)]` or None;
    and, for a sentence fuser, `text_vector`, which returns the texts' vectors at one layer, `[B, H]` or two of them
    concatenated, from its states and the mask.

    Args:
        model: Classifier with a fuser. It is unchanged afterwards, even after an error.
        batches: Inputs of the model including `labels`; each batch is moved to the model's device.
        by_class: Whether to compute the mean weights of each class too.

    Raises:
        ValueError: If the batches can be read only once, lack `labels` or are empty, or the model has no fuser.
    """
    if isinstance(batches, Iterator):
        raise ValueError("`batches` must be readable twice, found an iterator; pass a list or a DataLoader.")
    fusing = _fusing_module(model)
    layer_weights = getattr(fusing.fuser, "layer_weights", lambda *inputs: None)
    whole = _Score()
    weights: list[torch.Tensor] = []
    labels: list[torch.Tensor] = []
    with _evaluating(model):
        means = _mean_states(model, fusing, batches)
        ablated = {layer: _Score() for layer in means}
        for batch in _on_device(batches, model):
            if "labels" not in batch:
                raise ValueError(f"each of `batches` must hold 'labels', found {sorted(batch)}; add them.")
            with _recorded(fusing) as record:
                whole.add(model(**batch, return_dict=True), batch["labels"])
            for layer, mean in means.items():
                with _without_layer(fusing, batch, record, layer, mean) as inputs:
                    ablated[layer].add(model(**inputs, return_dict=True), batch["labels"])
            batch_weights = layer_weights(*record.fuser_inputs)
            if batch_weights is not None:
                weights.append(batch_weights.cpu().double())
                labels.append(batch["labels"].cpu())
        depth = len(record.fuser_inputs[0])

    def by_layer(values: Iterable[float]) -> list[float]:
        spread = dict(zip(means, map(float, values), strict=True))
        return [spread.get(layer, 0.0) for layer in range(depth)]

    # Differences of counts instead of quotients, so that equal drops are exactly equal.
    drops = by_layer((whole.correct - score.correct) / whole.texts for score in ablated.values())
    weights_by_class: dict[str, list[float]] = {}
    classes = torch.cat(labels) if labels else torch.empty(0)
    # Texts that are read in windows have weights for each window.
    if weights and by_class and whole.one_class and len(classes) == sum(map(len, weights)):
        for label in classes.unique().tolist():
            mean = torch.cat(weights)[classes == label].mean(dim=0)
            weights_by_class[model.config.id2label[label]] = by_layer(mean)
    return LayerUse(
        num_texts=whole.texts,
        loss=whole.loss / whole.texts,
        accuracy=whole.correct / whole.texts if whole.one_class else None,
        loss_rise=by_layer((score.loss - whole.loss) / whole.texts for score in ablated.values()),
        accuracy_drop=drops if whole.one_class else None,
        loss_rise_error=by_layer(score.loss_error(whole) for score in ablated.values())
        if whole.texts > 1
        else None,
        accuracy_drop_error=by_layer(score.accuracy_error(whole) for score in ablated.values())
        if whole.one_class
        else None,
        weights=by_layer(torch.cat(weights).mean(dim=0)) if weights else None,
        weights_by_class=weights_by_class,
    )


@dataclass(frozen=True)
class LogitsWithoutLayers:
    """Logits of a model with and without the information of single layers.

    Attributes:
        whole: Those of the whole model, `[B, C]`.
        without: Those without each of the fuser's layers, by its number from 1 to L, each `[B, C]`.
        weights: Weight of each of these layers in the fuser, by number, each `[B]`; None if the fuser has no weights.
    """

    whole: torch.Tensor
    without: dict[int, torch.Tensor]
    weights: dict[int, torch.Tensor] | None


def mean_states(model: PreTrainedModel, batches: Iterable[ModelInputs]) -> dict[int, torch.Tensor]:
    """Return the mean `[H]` of what the fuser uses at each of its layers, by number from 1 to L; see `layer_use`.

    Raises:
        ValueError: If there are no batches, or the model has no fuser.
    """
    with _evaluating(model):
        found = _mean_states(model, _fusing_module(model), batches)
    return {layer + 1: mean for layer, mean in found.items()}


def logits_without_layers(
    model: PreTrainedModel, batch: ModelInputs, means: Mapping[int, torch.Tensor]
) -> LogitsWithoutLayers:
    """Return the logits of texts if the states of one layer after the other are replaced by a mean; see `layer_use`.

    The encoder runs once, then the fuser and head once per layer.

    Args:
        model: Classifier with a fuser; it is unchanged afterwards.
        batch: Inputs of the model.
        means: The means, from `mean_states` of other texts: that of a single text would hold its information.

    Raises:
        ValueError: If the model has no fuser.
    """
    fusing = _fusing_module(model)
    layer_weights = getattr(fusing.fuser, "layer_weights", lambda *inputs: None)
    with _evaluating(model):
        (inputs,) = _on_device([batch], model)
        with _recorded(fusing) as record:
            whole = model(**inputs, return_dict=True).logits.float().cpu()
        without = {}
        for number, mean in means.items():
            with _without_layer(fusing, inputs, record, number - 1, mean) as replaced:
                without[number] = model(**replaced, return_dict=True).logits.float().cpu()
        weights = layer_weights(*record.fuser_inputs)
        by_layer = None
        if weights is not None:
            columns = weights.float().cpu().unbind(dim=1)
            by_layer = dict(zip((layer + 1 for layer in fusing.fuser.layers), columns, strict=True))
    return LogitsWithoutLayers(whole, without, by_layer)


def cls_states(
    model: PreTrainedModel, batches: Iterable[ModelInputs], layers: Sequence[int]
) -> npt.NDArray[np.float32]:
    """Return the state of each text's first real token at each of `layers`, `[N, len(layers), H]`.

    The model may be any that returns `hidden_states`; it is unchanged afterwards.

    Args:
        model: The model.
        batches: Inputs of the model including `attention_mask`; `labels` are ignored.
        layers: Indices into `hidden_states`, such as `range(-6, 0)` for the last six.

    Raises:
        ValueError: If there are no batches.
    """
    rows = []
    with _evaluating(model):
        for batch in _on_device(batches, model):
            inputs = {name: value for name, value in batch.items() if name != "labels"}
            states = model(**inputs, output_hidden_states=True, return_dict=True).hidden_states
            first = batch["attention_mask"].long().argmax(dim=1)
            texts = torch.arange(len(first), device=first.device)
            rows.append(torch.stack([states[layer][texts, first] for layer in layers], dim=1).float().cpu())
    if not rows:
        raise ValueError("`batches` must hold at least one text, found none; check the data.")
    return torch.cat(rows).numpy()


class _Score:
    """Sums of loss and correct predictions, and both by text; `correct` is meaningful only if each text has one
    class."""

    def __init__(self) -> None:
        self.texts = 0
        self.loss = 0.0
        self.correct = 0
        self.one_class = True
        self.losses: list[torch.Tensor] = []
        self.right: list[torch.Tensor] = []

    def add(self, outputs: Any, labels: torch.Tensor) -> None:
        self.texts += len(labels)
        self.loss += outputs.loss.item() * len(labels)
        self.one_class = labels.dim() == 1 and not labels.is_floating_point() and outputs.logits.shape[-1] > 1
        if self.one_class:
            right = outputs.logits.argmax(dim=-1) == labels
            self.correct += int(right.sum())
            self.right.append(right.cpu())
        self.losses.append(_loss_by_text(outputs.logits, labels).double().cpu())

    def loss_error(self, whole: "_Score") -> float:
        """Return half the length of the 95 % interval of the mean difference from another score's losses."""
        differences = torch.cat(self.losses) - torch.cat(whole.losses)
        quantile = float(student.ppf(0.975, len(differences) - 1))
        return quantile * float(differences.std()) / len(differences) ** 0.5

    def accuracy_error(self, whole: "_Score") -> float:
        """Return half the length of the 95 % interval of the difference from another score's accuracy."""
        right, was_right = torch.cat(self.right), torch.cat(whole.right)
        lost, gained = int((was_right & ~right).sum()), int((right & ~was_right).sum())
        texts = len(right) + 2
        variance = (lost + gained + 1) - (lost - gained) ** 2 / texts
        return float(1.959964 * variance**0.5 / texts)


def _loss_by_text(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the usual loss of each text, `[B]`: cross-entropy, or the mean over its labels or values."""
    logits = logits.float()
    if labels.dim() == 1 and not labels.is_floating_point() and logits.shape[-1] > 1:
        return functional.cross_entropy(logits, labels, reduction="none")
    if labels.dim() == 2 and logits.shape[-1] > 1:
        return functional.binary_cross_entropy_with_logits(logits, labels.float(), reduction="none").mean(-1)
    return (logits.reshape(len(labels), -1) - labels.reshape(len(labels), -1)).square().mean(-1)


class _Record:
    """Output of the encoder, if it runs, and input of the fuser in one forward pass."""

    outputs: BaseModelOutput
    fuser_inputs: FuserInputs

    def ablated(self, layer: int, mean: torch.Tensor) -> "_Record":
        """Return the record with every state of the layer replaced by `mean` `[H]`."""
        states, *others = self.fuser_inputs
        states = list(states)
        states[layer] = mean.to(states[layer]).expand_as(states[layer])
        changed = _Record()
        changed.fuser_inputs = (states, *others)  # type: ignore[assignment]
        changed.outputs = self.outputs
        if layer + 1 == len(states):  # a residual head uses the encoder's own output
            changed.outputs = replace(self.outputs, last_hidden_state=states[-1])
        return changed


@contextmanager
def _recorded(fusing: Any) -> Iterator[_Record]:
    record = _Record()
    handles = [
        fusing.encoder.register_forward_hook(
            lambda module, args, outputs: setattr(record, "outputs", outputs)
        ),
        fusing.fuser.register_forward_pre_hook(lambda module, args: setattr(record, "fuser_inputs", args)),
    ]
    try:
        yield record
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _without_layer(
    fusing: Any, batch: ModelInputs, record: _Record, layer: int, mean: torch.Tensor
) -> Iterator[ModelInputs]:
    """Yield inputs with which the model computes a batch without the information of one layer."""
    if STATES not in batch:
        with _replayed(fusing, record.ablated(layer, mean)):
            yield batch
        return
    states = batch[STATES].clone()
    states[..., fusing.fuser.layers.index(layer), :, :] = mean.to(states)
    yield {**batch, STATES: states}


@contextmanager
def _replayed(fusing: Any, record: _Record) -> Iterator[None]:
    """Context in which the encoder does not run, and encoder and fuser pass on what is recorded."""
    own = vars(fusing.encoder).get("forward")
    fusing.encoder.forward = lambda *args, **kwargs: record.outputs
    handle = fusing.fuser.register_forward_pre_hook(lambda module, args: record.fuser_inputs)
    try:
        yield
    finally:
        handle.remove()
        del fusing.encoder.forward
        if own is not None:
            fusing.encoder.forward = own


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Context without gradients and dropout; at its end every module has its previous mode."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training


def _fusing_module(model: nn.Module) -> Any:
    found = [
        module for module in model.modules() if {"encoder", "fuser"} <= dict(module.named_children()).keys()
    ]
    if len(found) != 1:
        raise ValueError(
            f"`model` must have one submodule with an `encoder` and a `fuser`, found {len(found)} in "
            f"{type(model).__name__}; use a model of this package."
        )
    return found[0]


def _on_device(batches: Iterable[ModelInputs], model: PreTrainedModel) -> Iterator[dict[str, torch.Tensor]]:
    for batch in batches:
        yield {name: value.to(model.device) for name, value in batch.items()}


def _mean_states(
    model: PreTrainedModel, fusing: Any, batches: Iterable[ModelInputs]
) -> dict[int, torch.Tensor]:
    """Return the mean `[H]` of what the fuser uses at each of its layers, by layer index."""
    total: Any = 0.0
    count = 0
    for batch in _on_device(batches, model):
        with _recorded(fusing) as record:
            model(**batch)
        vectors = torch.stack(_read(fusing.fuser, record.fuser_inputs))
        # On the CPU, because some devices do not support float64.
        total = total + vectors.float().sum(dim=1).cpu().double()
        count += vectors.shape[1]
    if not count:
        raise ValueError("`batches` must hold at least one text, found none; check the data.")
    return dict(zip(fusing.fuser.layers, total / count, strict=True))


def _read(fuser: Any, inputs: FuserInputs) -> list[torch.Tensor]:
    """Return what the fuser uses at each of its layers, `[n, H]`: the vectors of the texts or of all real tokens."""
    states, mask = inputs
    if hasattr(fuser, "text_vector"):
        width = states[fuser.layers[0]].shape[-1]
        # If a fuser uses two concatenated vectors of a layer, both are replaced by their common mean.
        return [
            fuser.text_vector(states[layer], mask).unflatten(-1, (-1, width)).mean(dim=-2)
            for layer in fuser.layers
        ]
    return [
        states[layer].flatten(0, 1) if mask is None else states[layer][mask.bool()] for layer in fuser.layers
    ]
