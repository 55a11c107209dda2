"""Forward passes of a model over one batch: the clean pass and further ones."""

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
    """The clean pass of a model over a batch, and further passes over the same batch.

    All passes have the same dropout masks unless requested otherwise.

    Args:
        model: The model, bare or wrapped for distributed training. Only the clean pass goes through the wrapper,
            because DDP must prepare each backward pass exactly once.
        inputs: The batch, as the arguments of the model.
        layers: Indices of the layers that noise will be added to; 0 is the word embeddings.
        losses: Function that returns the losses of a batch by task from its inputs and outputs; by default the model's
            own losses.
        low_memory: Whether the encoders' layers keep no activations and are recomputed in the backward pass, with the
            same gradients.

    Attributes:
        outputs: Outputs of the clean pass.

    Raises:
        UserError: If noise cannot be added to the model.
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
        """Return the injector of noise at `layer`."""
        return self._injectors[layer]

    def rerun(self, noise: Sequence[Tensor] | None = None, layer: int = 0, same_dropout: bool = True) -> Any:
        """Return the outputs of a further pass.

        Args:
            noise: One tensor for each site of `injector(layer)`; by default no noise is added.
            layer: Layer at which noise is added.
            same_dropout: Whether to reuse the dropout masks of the clean pass instead of drawing new ones.
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
        """Return the gradient of `objective` with respect to `noise`.

        The objective is a scalar function of the outputs. No gradients with respect to the weights are computed.
        """
        leaves = [each.detach().requires_grad_() for each in noise]
        with frozen(self.module), ExitStack() as stack:
            if same_dropout:
                stack.enter_context(self._start.replayed())
            stack.enter_context(self._injectors[layer].inject(leaves, same_dropout))
            value = objective(self.module(**self.inputs))
            # Still frozen, because layers that the model checkpoints itself are recomputed here.
            return list(torch.autograd.grad(value, leaves, materialize_grads=True))

    def logits(self, outputs: Any) -> TaskTensors:
        """Return the logits `[B, num_labels]` of each task in the outputs of a pass."""
        return task_logits(self.inputs, outputs)

    def losses(self, outputs: Any) -> TaskTensors:
        """Return the loss of each task in the outputs of a pass."""
        return self._losses(self.inputs, outputs)

    def problem_types(self) -> dict[str, str]:
        """Return the problem type of each task of the batch."""
        return problem_types(self.module.config, self.inputs)

    def _memory_saving(self) -> Any:
        return checkpointed(self.module) if self.low_memory and torch.is_grad_enabled() else nullcontext()


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Context without gradients with respect to the weights of `module`.

    A pass then keeps fewer activations, and does not use autocast's cached copies of the weights.
    """
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_()
