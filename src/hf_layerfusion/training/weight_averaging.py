"""Weights that are evaluated and kept in place of the last ones: averages over training steps, and weights between
those of the start and those of the end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging

from hf_layerfusion.errors import UserError
from hf_layerfusion.training.sharded_weights import gathered, placed_like, set_weights
from hf_layerfusion.training.training_arguments import LayerFusionTrainingArguments

logger = logging.get_logger(__name__)

_STEPS, _IS_MOVING, _OWN = "steps", "is_moving", "own."


class EvaluatedWeights(TrainerCallback, ABC):
    """Base of the callbacks that compute the weights of evaluations, checkpoints and the trained model.

    Training goes on from its own weights. Frozen parameters and buffers stay as they are. What is kept is in fp32.

    Attributes:
        kept: tensors by the names of the trained parameters that they belong to.
    """

    file: ClassVar[str]
    """File of a checkpoint that holds `kept` and the weights that training goes on from."""
    prefix: ClassVar[str]
    """Prefix of the tensors of `kept` in that file."""
    options: ClassVar[str]
    """Options that ask for these weights."""

    def __init__(self) -> None:
        self._trained: frozenset[str] | None = None
        self._is_applied = False
        self.reset()

    def reset(self) -> None:
        """Forget the weights."""
        self.kept: dict[str, Tensor] = {}

    @abstractmethod
    def evaluated(self, name: str, weights: Tensor) -> Tensor:
        """Return the evaluated values of a parameter in `kept`, from its own."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Note the parameters that are trained, before `unfreeze_per_epoch` freezes some of them for a while."""
        model = cast(nn.Module, kwargs["model"])
        self._trained = frozenset(name for name, weights in model.named_parameters() if weights.requires_grad)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Give the trained model the evaluated weights, unless the best checkpoint's have been loaded."""
        self.put_into(cast(nn.Module, kwargs["model"]))
        self.reset()

    def trained_parameters(self, model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the parameters that are trained, with their names."""
        for name, weights in model.named_parameters():
            if weights.requires_grad if self._trained is None else name in self._trained:
                yield name, weights

    @torch.no_grad()
    def put_into(self, model: nn.Module) -> None:
        """Give a model the evaluated weights, where there are any."""
        for name, weights in model.named_parameters():
            if name in self.kept:
                weights.copy_(self.evaluated(name, weights))

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Give a model the evaluated weights while the block runs, and its own back after it.

        Within such a block, the model has them already.
        """
        if self._is_applied:
            yield
            return
        own = self._own_weights(model)
        try:
            self._is_applied = True
            self.put_into(model)
            yield
        finally:
            self._restore(model, own)
            self._is_applied = False

    def save(self, model: nn.Module, checkpoint: Path, writes: bool = True) -> None:
        """Write what is kept and a model's own weights into a checkpoint.

        Args:
            model: The model. Where its weights are sharded, every process must call this.
            checkpoint: The folder.
            writes: Whether this process writes.
        """
        if not self.kept:
            return
        own = ((name, weights) for name, weights in model.named_parameters() if name in self.kept)
        tensors = {self.prefix + name: t for name, t in gathered(self.kept.items(), writes).items()}
        tensors |= {_OWN + name: t for name, t in gathered(own, writes).items()}
        if writes:
            tensors = {name: values.contiguous() for name, values in tensors.items()}
            save_file(tensors | self.state(), checkpoint / self.file)

    def state(self) -> dict[str, Tensor]:
        """Return what a checkpoint stores beside the weights."""
        return {}

    def load(self, model: nn.Module, checkpoint: Path) -> None:
        """Read what `save` wrote, and give the model its own weights back."""
        self.reset()
        tensors = load_file(checkpoint / self.file)
        self.load_state(tensors)
        for name, weights in model.named_parameters():
            if self.prefix + name in tensors:
                self.kept[name] = placed_like(tensors[self.prefix + name], weights)
            if _OWN + name in tensors:
                set_weights(weights, tensors[_OWN + name])

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Read what `state` returned."""

    def _own_weights(self, model: nn.Module) -> dict[str, Tensor]:
        return {
            name: weights.detach().clone() for name, weights in model.named_parameters() if name in self.kept
        }

    @torch.no_grad()
    def _restore(self, model: nn.Module, own: dict[str, Tensor]) -> None:
        for name, weights in model.named_parameters():
            if name in own:
                weights.copy_(own[name])


class WeightAverage(EvaluatedWeights):
    """Keeps an average of the trained weights over the steps of training.

    With `decay`, an exponential moving average (Polyak and Juditsky 1992; Tarvainen and Valpola 2017): after optimizer
    step t, from 1, `average = d * average + (1 - d) * weights` with `d = min(decay, t / (t + 9))`, so that the first
    steps are soon forgotten. With `last`, the plain mean over the steps of the last part of training (stochastic weight
    averaging: Izmailov et al. 2018, without its cyclical rate). Steps that were skipped do not count.

    Args:
        decay: The decay of the moving average, in (0, 1), or None.
        last: The share of the steps of training whose weights are averaged, in (0, 1], or None.
    """

    file = "weight_average.safetensors"
    prefix = "average."
    options = "ema_decay or average_last"

    def __init__(self, decay: float | None = None, last: float | None = None) -> None:
        self.decay, self.last = decay, last
        super().__init__()

    def reset(self) -> None:
        """Forget the weights."""
        super().reset()
        self.steps = 0

    def evaluated(self, name: str, weights: Tensor) -> Tensor:
        """Return the average."""
        return self.kept[name]

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Add the weights of a step that was taken."""
        if getattr(kwargs["optimizer"], "step_was_skipped", False):
            return
        if self.last is not None and state.global_step <= state.max_steps - self.last * state.max_steps:
            return
        self.add(cast(nn.Module, kwargs["model"]))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Give the model the average, with a warning if training stopped before the last part began."""
        if self.last is not None and not self.steps and state.global_step:
            logger.warning(
                f"average_last={self.last:g}: training ended at step {state.global_step} of {state.max_steps}, before "
                "the part whose weights are averaged; the model has the weights of that step"
            )
        super().on_train_end(args, state, control, **kwargs)

    @torch.no_grad()
    def add(self, model: nn.Module) -> None:
        """Add the weights of a model to the average."""
        self.steps += 1
        share = 1 / self.steps if self.decay is None else 1 - min(self.decay, self.steps / (self.steps + 9))
        for name, weights in self.trained_parameters(model):
            if name not in self.kept:
                self.kept[name] = weights.detach().float().clone()
            else:
                average = self.kept[name].to(weights.device)
                self.kept[name] = average.lerp_(weights.detach().float(), share)

    def state(self) -> dict[str, Tensor]:
        """Return the number of steps, and whether the average is an exponential one."""
        return {_STEPS: torch.tensor(self.steps), _IS_MOVING: torch.tensor(self.decay is not None)}

    def load(self, model: nn.Module, checkpoint: Path) -> None:
        """Read what `save` wrote. A checkpoint may hold no average yet."""
        self.reset()
        if (checkpoint / self.file).is_file():
            super().load(model, checkpoint)

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Read the number of steps.

        Raises:
            UserError: The average is of the other kind.
        """
        options = ("average_last", "ema_decay")
        stored, own = bool(tensors[_IS_MOVING]), self.decay is not None
        if stored != own:
            raise UserError(
                f"{options[own]} cannot go on from a checkpoint with {options[stored]}; set {options[stored]}, or "
                "train from the start"
            )
        self.steps = int(tensors[_STEPS])


class WeightInterpolation(EvaluatedWeights):
    """Keeps the weights that training starts from, and evaluates those between them and the trained ones.

    The evaluated weights are `start + share * (trained - start)` (WiSE-FT: Wortsman et al. 2022, "Robust fine-tuning of
    zero-shot models", equation 1). The start should be a model that is useful by itself, such as an encoder with a head
    that was trained on it; with `head_first_epochs` it is the model after those epochs, with `init_from_probe` the one
    with the probe. Both matrices of a LoRA adapter are interpolated, so that their product, whose one factor starts at
    zero, moves by less than the share.

    Args:
        share: The share of the trained weights, in (0, 1).
    """

    file = "start_weights.safetensors"
    prefix = "start."
    options = "weight_interpolation"

    def __init__(self, share: float) -> None:
        self.share = share
        super().__init__()

    def evaluated(self, name: str, weights: Tensor) -> Tensor:
        """Return the weights between start and end."""
        return self.kept[name].to(weights.device).lerp(weights.detach().float(), self.share)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Keep the weights of the start before the first step, unless those of a checkpoint have been read."""
        if not self.kept:
            parameters = self.trained_parameters(cast(nn.Module, kwargs["model"]))
            self.kept = {name: weights.detach().float().clone() for name, weights in parameters}


def make_evaluated_weights(args: LayerFusionTrainingArguments) -> EvaluatedWeights | None:
    """Return the callback for the weights that the arguments ask for; None for the trained weights themselves."""
    if args.weight_interpolation is not None and args.weight_interpolation < 1:
        return WeightInterpolation(args.weight_interpolation)
    if args.ema_decay is not None or args.average_last is not None:
        return WeightAverage(args.ema_decay, args.average_last)
    return None


def check_resumable(weights: EvaluatedWeights | None, checkpoint: Path) -> None:
    """Check that a checkpoint, whose model has the evaluated weights, is resumed with the options it was made with.

    Raises:
        UserError: The checkpoint was made with others.
    """
    for kind in (WeightAverage, WeightInterpolation):
        is_stored = (checkpoint / kind.file).is_file()
        if is_stored and not isinstance(weights, kind):
            raise UserError(
                f"{checkpoint}: was made with {kind.options}, so that its model is not the one that training goes on "
                "from; resume with the same option, or train from the start"
            )
        if isinstance(weights, WeightInterpolation) and isinstance(weights, kind) and not is_stored:
            raise UserError(
                f"{checkpoint}: was made with the trained weights themselves, and the weights of the start, which "
                "weight_interpolation needs, are not known; set weight_interpolation=1, or train from the start"
            )
