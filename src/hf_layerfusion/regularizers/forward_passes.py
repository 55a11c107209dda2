"""Passes of a model over one batch: the clean one, and others beside it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from torch import Tensor, nn

from hf_layerfusion.regularizers.encoder_layers import checkpointed
from hf_layerfusion.regularizers.noise_sites import EmbeddingNoise, LayerNoise, NoiseInjector
from hf_layerfusion.regularizers.rng_states import RandomStates
from hf_layerfusion.regularizers.task_outputs import (
    ModelInputs,
    TaskTensors,
    problem_types,
    task_logits,
    task_losses,
)


class ForwardPasses:
    """Runs the clean pass of a batch, and others over the same batch, with the same dropout masks unless asked
    otherwise.

    Args:
        model: the model, bare or wrapped for several processes. Only the clean pass goes through the wrapper: what DDP
            does in a pass, it must do once a backward.
        inputs: the batch, as the model takes it.
        layers: numbers of the layers that noise will be added to, 0 the word embeddings.
        losses: the losses of a batch by task, given its inputs and outputs; the model's own by default.
        low_memory: the encoders' layers keep no activations; each is run again in the backward, with the same
            gradients.

    Attributes:
        outputs: what the clean pass put out.

    Raises:
        UserError: a model that noise cannot be added to.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: ModelInputs,
        layers: Collection[int] = (),
        losses: Callable[[ModelInputs, Any], TaskTensors] = task_losses,
        low_memory: bool = False,
    ) -> None:
        self.module: Any = extract_model_from_parallel(model)
        self.inputs = inputs
        self.low_memory = low_memory
        self._losses = losses
        self._injectors: dict[int, NoiseInjector] = {
            layer: LayerNoise(self.module, layer) if layer else EmbeddingNoise(self.module)
            for layer in sorted(set(layers))
        }
        self._start = RandomStates.capture(next(self.module.parameters()).device)
        with ExitStack() as stack:
            stack.enter_context(self._memory_saving())
            for injector in self._injectors.values():
                stack.enter_context(injector.recording())
            self.outputs = model(**inputs)

    def injector(self, layer: int) -> NoiseInjector:
        """Where noise on `layer` enters."""
        return self._injectors[layer]

    def rerun(self, noise: Sequence[Tensor] | None = None, layer: int = 0, same_dropout: bool = True) -> Any:
        """What a further pass puts out.

        Args:
            noise: a tensor for each place of `injector(layer)`; none is added by default.
            layer: where it is added.
            same_dropout: whether the dropout masks are those of the clean pass, or drawn anew.
        """
        with ExitStack() as stack:
            stack.enter_context(self._memory_saving())
            if same_dropout:
                stack.enter_context(self._start.replayed())
            if noise is not None:
                stack.enter_context(self._injectors[layer].inject(noise, same_dropout))
            return self.module(**self.inputs)

    def noise_gradient(
        self,
        noise: Sequence[Tensor],
        objective: Callable[[Any], Tensor],
        layer: int = 0,
        same_dropout: bool = True,
    ) -> list[Tensor]:
        """The gradient by `noise` of `objective`, a scalar of the outputs; none by the weights is computed."""
        leaves = [each.detach().requires_grad_() for each in noise]
        with frozen(self.module), ExitStack() as stack:
            if same_dropout:
                stack.enter_context(self._start.replayed())
            stack.enter_context(self._injectors[layer].inject(leaves, same_dropout))
            value = objective(self.module(**self.inputs))
            # Still frozen: layers that the model itself checkpoints are run again here.
            return list(torch.autograd.grad(value, leaves, materialize_grads=True))

    def logits(self, outputs: Any) -> TaskTensors:
        """The logits `[B, num_labels]` of each task in what a pass put out."""
        return task_logits(self.inputs, outputs)

    def losses(self, outputs: Any) -> TaskTensors:
        """The loss of each task in what a pass put out."""
        return self._losses(self.inputs, outputs)

    def problem_types(self) -> dict[str, str]:
        """What each task of the batch is about."""
        return problem_types(self.module.config, self.inputs)

    def _memory_saving(self) -> Any:
        return checkpointed(self.module) if self.low_memory and torch.is_grad_enabled() else nullcontext()


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """No gradients by the weights of `module` inside the block. A pass then keeps less, and takes none of the copies of
    the weights that autocast made before."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_()
